"""Numbers put into words for the report: names, formats, and sentences that say no more than an interval allows."""

from __future__ import annotations

from typing import Any

from refine.selection import SEARCHES
from stages.text import VALUE, one_line

Estimate = dict[str, Any]

FEWEST = 10  # problems below which no interval is taken as evidence

SCORER_TITLES = {"orm": "ORM", "sorm": "SORM", "implicit": "implicit"}
SCORER_NAMES = {"orm": "the ORM", "sorm": "the SORM", "implicit": "the implicit reward model"}
WHERE_NAMES = {
    "none": "not told where the error is",
    "orm": "told the error by the ORM",
    "sorm": "told the error by the SORM",
    "oracle": "told the error by the oracle",
}
WHEN_NAMES = {
    "always": "every draft",
    "orm": "the drafts that the ORM calls wrong",
    "sorm": "the drafts that the SORM calls wrong",
    "implicit": "the drafts that the implicit reward model calls wrong",
    "oracle": "the drafts that the oracle calls wrong",
}
FIXED_NAMES = {
    "global": "global",
    "local": "local",
    "either": "either of the two",
    "both": "both of the two",
    "only_global": "global, but not local",
    "only_local": "local, but not global",
    "control": "control (saw no draft)",
    "shuffled": "shuffled (saw another problem's draft)",
}
CURVE_NAMES = {
    "orm": "best, ORM",
    "sorm": "best, SORM",
    "implicit": "best, implicit",
    "weighted_orm": "vote, ORM weighs",
    "weighted_sorm": "vote, SORM weighs",
    "weighted_implicit": "vote, implicit weighs",
    "majority": "majority",
    "oracle": "oracle",
}
AGGREGATE_NAMES = {
    "last": "the score after the last step",
    "min": "the least of the scores of its steps",
    "product": "the product of the scores of its steps",
    "mean": "the mean of the scores of its steps",
}
ERROR_NAMES = {
    "arithmetic": "wrong arithmetic: an equation that does not hold",
    "lookup": "wrong look-up: not what the question tells of this person",
    "side": "wrong plan: a true step about somebody not needed",
    "early": "stopped too early: answered before the person asked for",
    "late": "went on too late: a step past the answer",
    "unread": "no answer, or nothing that can be read",
}
JUDGE_MEASURES = {
    "step_accuracy": "intermediate steps judged rightly",
    "step_balanced_accuracy": "the same, right and wrong steps weighing alike",
    "labelled_step_accuracy": "steps judged as continuations label them, balanced by length",
    "labelled_step_accuracy_own": "the same, at the model's own threshold",
    "step_auroc": "AUROC over intermediate steps (no threshold)",
    "first_error_accuracy": "first error named exactly (or that there is none)",
    "first_error_located": "the same, on solutions with an error",
    "first_error_passed": "the same, on solutions without one",
    "first_error_f1": "F1 of the first error",
    "final_accuracy": "final answers judged rightly",
    "pairwise_accuracy": "right above wrong, same problem",
    "pairwise_accuracy_offered": "the same, among draft, global, local",
    "auroc": "AUROC over all final answers",
}


def selector_names(report: dict[str, Any]) -> dict[str, str]:
    """What a reader calls each selector, in the order of the table."""
    scorer, n = SCORER_TITLES[report["headline"]["scorer"]], report["samples"] or "n"
    equal = report["samples_equal_tokens"]
    fewer = n - 1 if report["samples"] else "n − 1"
    names = {
        "draft": "draft (greedy)",
        "global": "global refinement",
        "local": "local refinement",
        "draft_global": f"draft + global, {scorer} picks",
        "draft_local": f"draft + local, {scorer} picks",
        "reranked": f"draft + global + local, {scorer} picks",
        "control": "control refiner (no draft)",
        "draft_control": f"draft + control, {scorer} picks",
        "shuffled": "shuffled refiner (another's draft)",
        "draft_shuffled": f"draft + shuffled, {scorer} picks",
        "best_of_n": f"best of {n} samples, {scorer} picks",
        "best_of_n_with_draft": f"best of draft + {fewer} samples, {scorer} picks",
        "best_of_n_equal_tokens": f"best of {equal or 'n'} at equal tokens, {scorer} picks",
        "majority_of_n": f"majority of {n} samples",
        "weighted_of_n": f"vote of {n} samples, {scorer} weighs",
        "beam": f"step beam search, {scorer} picks",
        "until": "refined until accepted",
        "random": "random of the three",
        "oracle": "oracle of the three",
    }
    return {name: words for name, words in names.items() if name not in SEARCHES or report["accuracy"][name]}


def percent(found: Estimate | None) -> str:
    """An estimate's value as 53.0%, or a dash."""
    return "–" if found is None else f"{100 * found['value']:.1f}%"


def interval(found: Estimate | None, between: str = "–", form: str = ".1f") -> str:
    """An estimate's 95% interval in per cent, or a dash."""
    if found is None or found["low"] is None:
        return "–"
    return f"{100 * found['low']:{form}}{between}{100 * found['high']:{form}}"


def with_interval(found: Estimate | None) -> str:
    """An estimate's value and interval, or a dash."""
    return "–" if found is None else f"{percent(found)} ({interval(found)})"


def paper_percent(figure: Any) -> str:
    """A figure of the paper, with its mark where it is from secondary summaries."""
    return "–" if figure is None else f"{100 * figure[0]:.0f}% {figure[1]}".strip()


def is_above(found: Estimate | None) -> bool:
    """Whether a difference is above zero beyond its interval, on enough problems to trust one."""
    return found is not None and found["n"] >= FEWEST and found["low"] is not None and found["low"] > 0


def is_below(found: Estimate | None) -> bool:
    """Whether a difference is below zero beyond its interval, on enough problems to trust one."""
    return found is not None and found["n"] >= FEWEST and found["high"] is not None and found["high"] < 0


def versus(found: Estimate, other: str) -> str:
    """A difference in words: above or below only where the interval leaves out zero."""
    span = f"95% interval {interval(found, ' to ', '+.1f')}"
    points = f"{100 * abs(found['value']):.1f} points"
    if is_above(found):
        return f"{points} above {other} ({span})"
    if is_below(found):
        return f"{points} below {other} ({span})"
    if found["value"] == found["low"] == found["high"] == 0:
        return f"no different from {other} on these problems"
    reason = f"from only {found['n']} problems" if found["n"] < FEWEST else "which includes zero"
    return f"not clearly different from {other} ({100 * found['value']:+.1f} points, {span}, {reason})"


def opening(report: dict[str, Any]) -> list[str]:
    """What was run, and the findings beside the main one, as the numbers allow them: plain sentences."""
    source, model = one_line(report["source"], VALUE), one_line(report["model"] or "the student", VALUE)
    setup = (
        f"On {report['problems']:,} {one_line('/'.join(report['splits']), VALUE)} problems of {source} "
        f"(seed {report['seed']}) {model} wrote greedy drafts, "
        f"a global and a local refiner rewrote {WHEN_NAMES[report['headline']['when']]}, and "
        f"{SCORER_NAMES[report['headline']['scorer']]} picked one of the three."
    )
    sentences = [setup, _against_draft(report), _against_samples(report)]
    sentences += [_against_controls(report), _refiners(report), _judges(report)]
    return [sentence for sentence in sentences if sentence]


def first_sentence(report: dict[str, Any]) -> str:
    """The main finding: reranking against the strongest control, the selector that is best without the refiners.

    The verdict, with which it begins, stands between two pairs of asterisks.
    """
    change, name = report["difference"]["reranked_minus_strongest_control"], report["strongest_control"]
    if change is None:
        return "**Main finding: none**, since reranking and a control were not both run."
    verdicts = (
        "refining and reranking helped", "refining and reranking did not help",
        "not shown that refining and reranking help",
    )  # fmt: skip
    told = (
        f"right on {percent(report['accuracy']['reranked'])}, against {percent(report['accuracy'][name])} by the "
        f"strongest control, {selector_names(report)[name]}"
    )
    return main_finding(change, verdicts, told)


def main_finding(change: Estimate, verdicts: tuple[str, str, str], told: str, more: str = "") -> str:
    """A report's first sentence: the verdict where the difference is above zero, below, or neither (`is_above`)."""
    verdict = verdicts[0 if is_above(change) else 1 if is_below(change) else 2]
    few = f", from only {change['n']} problems" if change["n"] < FEWEST else ""
    span = interval(change, " to ", "+.1f")
    points = f"{100 * change['value']:+.1f} points (95% interval {span}{few}{more})"
    return f"**Main finding: {verdict}**: {told}; the difference is {points}."


def _against_draft(report: dict[str, Any]) -> str:
    draft, change = report["accuracy"]["draft"], report["difference"]["reranked_minus_draft"]
    if change is None:
        return ""
    return (
        f"The drafts are right on {percent(draft)} ({interval(draft)}), the picked solutions on "
        f"{percent(report['accuracy']['reranked'])} ({interval(report['accuracy']['reranked'])}), which is "
        f"{versus(change, 'the draft')}."
    )


def _against_samples(report: dict[str, Any]) -> str:
    change, samples = report["difference"]["reranked_minus_best_of_n"], report["accuracy"]["best_of_n"]
    if change is None:
        return ""
    tokens = report["tokens"]
    return (
        f"Best of {report['samples']} samples by the same judge reaches {percent(samples)} at "
        f"{tokens['best_of_n']:,.0f} completion tokens a problem; reranking, at {tokens['reranked']:,.0f}, is "
        f"{versus(change, 'that')}."
    )


def _against_controls(report: dict[str, Any]) -> str:
    """Global refinement and reranking against the refiners that had the same targets, but not this draft."""
    sentences = []
    for name, trained in (("control", "without a draft"), ("shuffled", "on the drafts of other problems")):
        changes = [report["difference"][f"{arm}_minus_{name}"] for arm in ("global", "reranked")]
        if None not in changes:
            sentences.append(
                f"A control refiner, trained on the same targets {trained}, is right on "
                f"{percent(report['accuracy'][name])}: global refinement is {versus(changes[0], 'it')}, reranking "
                f"{versus(changes[1], 'it')}."
            )
    return " ".join(sentences)


def _refiners(report: dict[str, Any]) -> str:
    fixed = report["fixed"]
    if fixed["either"] is None:
        return ""
    more = [report["difference"][f"fixed_either_minus_{name}"] for name in ("global", "local")]
    verdict = "so each mends drafts that the other does not"
    if not all(is_above(change) for change in more):
        verdict = "so it is not clear that each mends drafts that the other does not"
    told = (
        f"Of the {fixed['either']['n']:,} wrong drafts the global refiner mends {percent(fixed['global'])}, the local "
        f"{percent(fixed['local'])}, one or the other {percent(fixed['either'])}, {verdict}."
    )
    change = report["difference"]["fixed_global_minus_control"]
    if change is None:
        return told
    return f"{told} The control gets {percent(fixed['control'])} of them right: global is {versus(change, 'it')}."


def _judges(report: dict[str, Any]) -> str:
    measured = [
        name
        for name in ("step_accuracy", "labelled_step_accuracy")
        if report["difference"][f"sorm_minus_orm_{name}"] is not None
    ]
    if not measured:
        return ""
    change = report["difference"][f"sorm_minus_orm_{measured[0]}"]
    orm, sorm = (report[measured[0]][name] for name in ("orm", "sorm"))
    basis = ", as continuations label them," if measured[0] == "labelled_step_accuracy" else ""
    text = (
        f"On intermediate steps{basis} the SORM judges {percent(sorm)} rightly and the ORM {percent(orm)}: "
        f"the SORM is {versus(change, 'the ORM')}"
    )
    final = report["difference"]["sorm_minus_orm_final_accuracy"]
    text += f"; on final answers it is {versus(final, 'the ORM')}." if final else "."
    if change := report["difference"].get(f"sorm_minus_implicit_{measured[0]}"):
        implicit = percent(report[measured[0]]["implicit"])
        text += f" The implicit reward model, which saw no step labels, judges {implicit} of them rightly: "
        text += f"the SORM is {versus(change, 'it')}."
    return text


def limits(report: dict[str, Any]) -> list[str]:
    """What a reader must not conclude, one sentence or two a line."""
    lines = [
        *report["notes"],
        "The intervals say how much the figures would move with other test problems (accuracies: Wilson; differences "
        "and judges: bootstrap over problems). They do not hold the luck of training: everything here is one run with "
        f"seed {report['seed']}.",
        "The strongest control is the best of several on these same problems, which favours it a little.",
        "The paper's figures come from another student on GSM8K, and some only from secondary summaries: compare "
        "directions, not sizes.",
        "Many differences are shown, and each interval is made for its own one alone: where nothing differs, about one "
        "in twenty leaves out zero all the same.",
        "Fewer tokens are not less time, and training is in the stages' seconds and tokens only.",
    ]
    if report["step_accuracy"]["orm"] or report["step_accuracy"]["sorm"]:
        lines.append(
            "Step accuracy depends on the threshold and on how many steps are wrong; the balanced figure and the "
            "within-problem comparison depend on them less."
        )
    if "oracle" in (report["headline"]["where"], report["headline"]["when"]):
        lines.append("The headline is helped by an oracle, which nobody has for a problem whose answer is not known.")
    if any(found is not None and found["low"] == found["high"] for found in report["difference"].values()):
        lines.append(
            "An interval of a difference without width means that all problems went the same way, not that chance is "
            "gone."
        )
    if report["problems"] < 100:
        lines.append(f"{report['problems']} problems are few: treat every figure as a check that the pipeline runs.")
    return lines
