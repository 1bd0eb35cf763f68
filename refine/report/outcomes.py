"""How a run came out on each problem, measure by measure: what claims over several runs are computed from.

The measures are those of the report's headline; `refine/report/claims.py` compares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from refine.report.build import headline_arms
from refine.report.inputs import ReportInputs
from refine.revise import WHERE
from rewards.evaluate import scorers_of
from rewards.metrics import first_error, pairwise_by_problem, threshold_at
from rollouts.problems.splits import question_key
from rollouts.records import Candidate, CandidateKey, identity

LABELS = "labels"  # the one measure that is of training problems


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one problem adds to a measure: `hits` of `of`, as 1 of 1 where the selector of the measure `right draft`
    chose a right solution, or 5 of 7 steps that a reward model judged rightly."""

    measure: str
    problem: str
    hits: float
    of: float


def run_outcomes(inputs: ReportInputs) -> list[Outcome]:
    """The outcomes of a run, those with `of` 0 left out.

    - `right SELECTOR`, of all problems.
    - `fixed NAME` and `broken NAME`, of the wrong and of the right drafts. NAME is global, control, shuffled,
      local WHERE, local (the headline's), or either (of global and that one).
    - `steps SCORER`, `right steps SCORER`, `wrong steps SCORER`: judged rightly, of all intermediate steps, of the
      right and of the wrong ones. `first error SCORER`: named exactly, or that there is none. `finals SCORER`: whole
      solutions judged rightly. `pairs SCORER`: right above wrong, among drafts and samples of one problem; `offered
      SCORER`: the same among draft, global and local.
    - `labels`: step labels that are right by the oracle, of training problems.
    """
    names = {problem.id: problem_name(problem.id, problem.question) for problem in inputs.problems}
    candidates = {identity(one): one for one in inputs.candidates}
    found = [
        (f"right {selector}", problem_id, choice.correct, 1)
        for selector, arm in headline_arms(inputs).items()
        for problem_id, choice in (arm or {}).items()
    ]
    found += _repairs(inputs, candidates)
    for scorer in scorers_of(inputs.judgements):
        found += _judged(inputs, candidates, scorer)
    outcomes = [Outcome(measure, names[problem_id], float(hits), float(of)) for measure, problem_id, hits, of in found]
    labels = (inputs.label_truth or {}).items()
    outcomes += [Outcome(LABELS, problem_id, float(right), float(given)) for problem_id, (right, given) in labels]
    return [one for one in outcomes if one.of]


def problem_name(problem_id: str, question: str) -> str:
    """A problem's id and 8 hex characters of its question: two data sets may use the same ids."""
    return f"{problem_id} {hashlib.sha256(question_key(question).encode()).hexdigest()[:8]}"


Found = Iterator[tuple[str, str, float, float]]  # measure, problem id, hits, of


def _repairs(inputs: ReportInputs, candidates: dict[CandidateKey, Candidate]) -> Found:
    arms = {name: (name, "none") for name in ("global", "control", "shuffled")} | {"local": ("local", inputs.where)}
    arms |= {f"local {where}": ("local", where) for where in WHERE}
    kinds = {(kind, where) for _, kind, where, _ in candidates}
    for problem in inputs.problems:
        draft = candidates[problem.id, "draft", "none", 0].correct is True
        # a wrong draft is fixed by a right refinement, a right one is broken by a wrong one
        changed = {
            name: candidates.get((problem.id, *arm, 0)) is not None
            and (candidates[problem.id, *arm, 0].correct is True) != draft
            for name, arm in arms.items()
            if arm in kinds
        }
        if not draft and {"global", "local"} <= changed.keys():
            changed["either"] = changed["global"] or changed["local"]
        for name, hit in changed.items():
            yield f"{'broken' if draft else 'fixed'} {name}", problem.id, hit, 1


def _judged(inputs: ReportInputs, candidates: dict[CandidateKey, Candidate], scorer: str) -> Found:
    """What one reward model says of drafts and samples, and among what is offered; what it could not read, or nobody
    could grade, is left out, as in `rewards/evaluate.py`."""
    threshold = inputs.thresholds.get(scorer, 0.5)
    final = inputs.final_thresholds.get(scorer, threshold_at(threshold, -1))
    offers = {("draft", "none"), ("global", "none"), ("local", inputs.where)}
    pairs: dict[str, list[tuple[str, bool, float]]] = {"pairs": [], "offered": []}
    for one in inputs.judgements:
        key, scores = identity(one), one.probabilities
        if one.scorer != scorer or not scores:
            continue
        correct, own = candidates[key].correct, one.kind in ("draft", "sample")
        if correct is not None:
            for name, wanted in (("pairs", own), ("offered", key[1:3] in offers)):
                pairs[name] += [(one.problem_id, correct, scores[-1])] if wanted else []
            if own:
                yield f"finals {scorer}", one.problem_id, (scores[-1] >= final) == correct, 1
        if own and inputs.step_truth is not None:
            truth = inputs.step_truth[key]
            hits = [
                (score >= threshold_at(threshold, place)) == right
                for place, (score, right) in enumerate(zip(scores, truth, strict=True))
            ][:-1]
            yield f"steps {scorer}", one.problem_id, sum(hits), len(hits)
            for name, kind in (("right", True), ("wrong", False)):
                among = [hit for hit, right in zip(hits, truth[:-1], strict=True) if right is kind]
                yield f"{name} steps {scorer}", one.problem_id, sum(among), len(among)
            error = truth.index(False) if False in truth else None
            yield f"first error {scorer}", one.problem_id, first_error(scores, threshold) == error, 1
    for name, judged in pairs.items():
        if judged:
            for problem_id, share in pairwise_by_problem(*zip(*judged, strict=True)).items():
                yield f"{name} {scorer}", problem_id, share, 1
