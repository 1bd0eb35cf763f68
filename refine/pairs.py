"""Training examples of the refiners, from rollouts and step labels (GLoRe sec. 3.3).

Global: a wrong rollout to a right one of the same problem. Local: a wrong rollout, marked at its first error, to the
right continuation that was found while labelling; or a mistake, marked at the step that a correction of LeMa names, to
the corrected steps. Controls, with the targets of the global pairs: no draft (control), and the draft of another
problem (shuffled).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from rollouts.problems.merge import merge_problems
from rollouts.records import Correction, Problem, RefinementPair, Rollout, StepLabels
from stages.checks import check_least
from stages.stage import Stage, only_when, parent
from stages.workspace import Workspace


@dataclass
class PairArgs:
    """Arguments of the stage `build_pairs`: at most `max_per_problem` pairs of each kind for a problem, and as many
    local ones more from `corrections`."""

    rollouts: str = parent("sample")  #: an artifact of sample
    labels: str | None = parent("label_steps", "import_labels", default=None)  #: step labels
    max_per_problem: int = 4  #: pairs of each kind
    max_right_per_wrong: int = 1
    seed: int = 0  #: of the choice
    corrections: list[str] = only_when(  #: corrections (LeMa), local pairs too
        parent("correct", "import_corrections", default=[]), "corrected", True
    )

    @property
    def corrected(self) -> bool:
        """Whether corrections are among the pairs."""
        return bool(self.corrections)

    def validate(self) -> None:
        """Raise ValueError where no pair could be made."""
        check_least(self, max_per_problem=1, max_right_per_wrong=1)


def closeness(draft: Sequence[str], target: Sequence[str]) -> int:
    """How many first steps two solutions share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(draft, target, strict=False)))


def _pair(
    kind: str, name: str, problem: Problem, draft: tuple[str, ...], error: int | None, target: tuple[str, ...]
) -> RefinementPair:
    return RefinementPair(f"{kind}/{name}", problem.id, kind, problem.question, draft, error, target)


def global_pairs(problem: Problem, rollouts: Sequence[Rollout], args: PairArgs) -> list[RefinementPair]:
    """Different wrong rollouts of one problem, each with the right rollouts that share most of its beginning."""
    right = list({r.steps: r for r in rollouts if r.correct is True and r.steps}.values())
    wrong = list({r.steps: r for r in rollouts if r.correct is False and r.steps}.values())
    rng = random.Random(f"pairs/{args.seed}/{problem.id}")
    rng.shuffle(wrong)
    rng.shuffle(right)
    pairs = [
        _pair("global", f"{draft.id}>{target.sample}", problem, draft.steps, None, target.steps)
        for draft in wrong[: args.max_per_problem]
        for target in sorted(right, key=lambda r: -closeness(draft.steps, r.steps))[: args.max_right_per_wrong]
    ]
    return pairs[: args.max_per_problem]


def control_pairs(pairs: Sequence[RefinementPair]) -> list[RefinementPair]:
    """The same problems and targets as the global pairs, in the same number, without the drafts."""
    return [replace(p, id=p.id.replace("global/", "control/", 1), kind="control", draft=()) for p in pairs]


def shuffled_pairs(pairs: Sequence[RefinementPair], seed: int) -> list[RefinementPair]:
    """The same problems and targets as the global pairs, each with a draft of another problem: as many tokens to read,
    which say nothing.

    Every draft is used once. Where one problem has more than half of the pairs, those for which no draft of another is
    left are left out.
    """
    groups = defaultdict(list)
    for pair in pairs:
        groups[pair.problem_id].append(pair)
    names = list(groups)
    random.Random(f"shuffled/{seed}").shuffle(names)
    order = [pair for name in names for pair in groups[name]]
    shift = max(map(len, groups.values()), default=0)  # beyond the pairs of one's own problem
    return [
        replace(pair, id=pair.id.replace("global/", "shuffled/", 1), kind="shuffled", draft=other.draft)
        for pair, other in zip(order, order[shift:] + order[:shift], strict=True)
        if pair.problem_id != other.problem_id
    ]


def local_pair(problem: Problem, labels: StepLabels) -> RefinementPair | None:
    """A wrong rollout marked at its first negative step, to the right steps found after the step before it.

    A first step that is already wrong has no prefix to continue from, and no right continuation.
    """
    if labels.correct or labels.fix_length is None:
        return None
    return _pair("local", labels.rollout_id, problem, labels.steps, labels.fix_length, labels.fix_steps)


def first_step_pairs(
    problem: Problem, labels: Sequence[StepLabels], rollouts: Sequence[Rollout]
) -> list[RefinementPair]:
    """Rollouts that are wrong from the first step on: all is to be written anew, so any right rollout is a target."""
    right = [r for r in rollouts if r.correct is True and r.steps]
    wrong = [row for row in labels if not row.correct and row.labels and row.labels[0] is False]
    return [
        _pair("local", row.rollout_id, problem, row.steps, 0, right[i % len(right)].steps)
        for i, row in enumerate(wrong if right else ())
    ]


def correction_pairs(
    problems: Mapping[str, Problem], corrections: Sequence[Correction], most: int
) -> list[RefinementPair]:
    """Mistakes marked at the step that their correction names, to the corrected steps; at most so many a problem, of
    corrections that are kept, each once."""
    taken: dict[str, dict[tuple[tuple[str, ...], ...], RefinementPair]] = defaultdict(dict)
    for one in corrections:
        own = taken[one.problem_id]
        if one.reason is None and len(own) < most:
            at = one.wrong_step - 1
            pair = _pair("local", f"correction/{one.id}", problems[one.problem_id], one.mistake, at, one.steps[at:])
            own.setdefault((pair.draft, pair.target), pair)
    return [pair for own in taken.values() for pair in own.values()]


def build_pairs(args: PairArgs, work: Workspace) -> None:
    """Write `rows` (RefinementPair): global pairs and their controls, and local ones where labels or corrections are
    given."""
    source = work.parents["rollouts"]
    problems = source.rows(Problem, "problems")
    rollouts, labels = defaultdict(list), defaultdict(list)
    for rollout in source.rows(Rollout):
        rollouts[rollout.problem_id].append(rollout)
    for row in work.parents["labels"].rows(StepLabels) if args.labels is not None else ():
        labels[row.problem_id].append(row)
    if unknown := labels.keys() - rollouts.keys():
        raise ValueError(f"labels of {len(unknown)} problems that the rollouts do not have, such as {min(unknown)}")
    whole, local = [], []
    for problem in problems:
        samples, rows = rollouts[problem.id], labels[problem.id]
        whole.extend(global_pairs(problem, samples, args))
        found = [pair for row in rows if (pair := local_pair(problem, row))]
        local.extend((found + first_step_pairs(problem, rows, samples))[: args.max_per_problem])
    if args.corrections:
        sources = work.parents["corrections"]
        rows = [one for source in sources for one in source.rows(Correction)]
        corrected = correction_pairs(merge_problems(sources, training=True), rows, args.max_per_problem)
        local += corrected
        work.count(correction_pairs=len(corrected))
    shuffled = shuffled_pairs(whole, args.seed)
    work.write_rows("rows", [*whole, *control_pairs(whole), *shuffled, *local], RefinementPair)
    work.count(global_pairs=len(whole), shuffled_pairs=len(shuffled), local_pairs=len(local))


BUILD_PAIRS = Stage("build_pairs", 2, PairArgs, build_pairs)
