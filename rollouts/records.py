"""The records that flow between stages: one frozen dataclass each, to and from a row of a table.

Left out: how rows are stored (`stages/rows.py`) and how text is cut or graded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer; `solution` is the gold solution where the source has one."""

    id: str
    question: str
    answer: str
    solution: str | None
    source: str
    split: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """One graded sample of a policy. `correct` is None when the grader could not decide (a time-out).

    `steps` are the lines of `text` up to its final answer; tokens are counted in the policy's own tokens.
    `finish_reason` is stop, length (`max_tokens`, or the limits of `rollouts.steps`), or refused: it could not be
    sampled, its text is empty and its `correct` None; the row keeps its place, so that a problem has as many rollouts
    as were asked for.
    """

    id: str
    problem_id: str
    sample: int
    text: str
    steps: tuple[str, ...]
    answer: str | None
    correct: bool | None
    rule: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class StepLabels:
    """What is known of each prefix P_1 … P_L of one rollout (GLoRe sec. 3.2).

    `labels[i]` says whether a right answer can still be reached after step i (0-based), None where no label
    is given; `successes[i]` of `trials[i]` continuations from there were right (0 of 0: none is known).
    `fix_length` steps were kept when `fix_steps`, a right continuation, was found: the local refiner's target.
    `rule` is how labels were decided and sampling stopped, such as `any of 8, forward`; counts of a search that stops
    early are no unbiased shares. `values[i]` is the share of continuations expected to be right, in [0, 1], and
    `confidences[i]` the probability that the label is right; None where nothing is known, empty where neither was
    worked out.
    """

    rollout_id: str
    problem_id: str
    steps: tuple[str, ...]
    correct: bool
    labels: tuple[bool | None, ...]
    successes: tuple[int, ...]
    trials: tuple[int, ...]
    fix_length: int | None
    fix_steps: tuple[str, ...]
    rule: str = ""
    values: tuple[float | None, ...] = ()
    confidences: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class RefinementPair:
    """One training example of a refiner: from `draft` (and `error_step`, 0-based, if local) to `target`.

    `kind` is global, local, control or shuffled; a control example has an empty draft, a shuffled one that of another
    problem.
    """

    id: str
    problem_id: str
    kind: str
    question: str
    draft: tuple[str, ...]
    error_step: int | None
    target: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution the reranker may choose. `kind` is draft, sample, global, local, control or shuffled, or of a search
    beam or until.

    `where` names what located the error a local refiner was told of (none, orm, sorm, oracle), and `error_step` is that
    location, 0-based. `prompt_tokens` were read to write it. In a search, where reward models read too, it has all
    tokens of the search, sampled and read (of several beams each has its part).
    """

    problem_id: str
    kind: str
    where: str
    error_step: int | None
    sample: int
    text: str
    steps: tuple[str, ...]
    answer: str | None
    correct: bool | None
    completion_tokens: int
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one reward model (`scorer`: orm or sorm) says of one candidate: a probability after each of its steps, or
    none at all where the candidate is too long for it.

    The candidate is named by (problem_id, kind, where, sample), as in `Candidate`. `tokens` are those of question and
    solution as the model reads them.
    """

    problem_id: str
    kind: str
    where: str
    sample: int
    scorer: str
    probabilities: tuple[float, ...]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that one selector (`draft`, `reranked`, `best_of_n`, …) chose for one problem.

    `scorer` is orm, sorm, or none where the selector asks no reward model. `where` says which local refinements
    were on offer, none where none was. `completion_tokens` are those of all candidates that had to be sampled to
    choose, `read_tokens` those that policies and reward models read for it, whatever may be shared counted each time.
    `when` names the gate that decided whether the draft was refined: always, orm, sorm or oracle. `offered` candidates
    were chosen from.
    """

    problem_id: str
    selector: str
    scorer: str
    where: str
    kind: str
    sample: int
    answer: str | None
    correct: bool
    completion_tokens: int
    when: str = "always"
    offered: int = 1
    read_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong solution that is to be corrected (LeMa sec. 2). `source` names the policy that wrote it, `artifact` is
    the key of the `sample` artifact where it is the rollout `rollout_id`."""

    id: str
    problem_id: str
    source: str
    artifact: str
    rollout_id: str
    steps: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Correction:
    """What a corrector replied to one mistake, and whether it is kept.

    `mistake` are the steps of the wrong solution, which `source` wrote. `wrong_step` is the step that the reply names,
    counted from 1 as everywhere in corrections; `steps` are the whole corrected solution: those of the mistake before
    `wrong_step`, and the new ones. `hint` is the step that the corrector was told of (None: of none). `reason` says why
    the correction is dropped, in a word of `refine.lema.judge.REASONS`, and is None where it is kept; fields that the
    reply does not give are then None or empty. `text` is the reply as it came.
    """

    id: str
    problem_id: str
    mistake_id: str
    source: str
    corrector: str
    sample: int
    mistake: tuple[str, ...]
    hint: int | None
    wrong_step: int | None
    explanation: str
    steps: tuple[str, ...]
    answer: str | None
    reason: str | None
    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Evolved:
    """A new problem that was written after the problem `seed_id` (LeMa sec. 2), and whether it is kept.

    Of `answers` solutions that were asked for, `agreed` end in `answer`; in the embedded world the oracle solves it,
    and both are 0. `reason` says why the problem is dropped, in a word of `refine.lema.evolve.REASONS`, and is None
    where it is kept; fields that are not known are then None. `text` is the reply as it came; tokens are those of the
    reply and of all its solutions.
    """

    id: str
    seed_id: str
    question: str | None
    answer: str | None
    solution: str | None
    agreed: int
    answers: int
    reason: str | None
    text: str
    prompt_tokens: int
    completion_tokens: int


CandidateKey = tuple[str, str, str, int]  # problem_id, kind, where, sample


def identity(item: Candidate | Judgement) -> CandidateKey:
    """What names a candidate: (problem, kind, where, sample)."""
    return item.problem_id, item.kind, item.where, item.sample
