"""The problems of the page's example browser as JSON: each with the groups that it is in, its texts fit to be seen, and
cut where the page would become too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.report.example import example_summary
from experiments.report.words import SCORER_TITLES
from stages.text import VALUE, one_line, visible

BYTES = 4_400  # of a problem, where there are 1,000 or more
MOST_STEPS = 100  # of a solution
LIMITS = (10_000, 5_000, 2_000, 1_000, 500, 200, 100)  # characters of a question and of a solution

# what the filter offers; the first six have the counts of `fixed` and `broken` in report.json
GROUPS = {
    "all": "all problems",
    "wrong": "draft wrong",
    "fixed_global": "draft wrong, fixed by global",
    "fixed_local": "draft wrong, fixed by local",
    "fixed_both": "draft wrong, fixed by both",
    "fixed_none": "draft wrong, fixed by none",
    "broken_global": "draft right, broken by global",
    "broken_local": "draft right, broken by local",
    "broken": "draft right, a wrong one picked",
    "judge_wrong": "judge wrong: a right one was there, a wrong one picked",
    "misplaced": "first error located at another step than the oracle's",
}


def example_groups(example: dict[str, Any]) -> list[str]:
    """The groups of `GROUPS` that a problem is in."""
    draft, whole, local = (example["solutions"][kind] for kind in ("draft", "global", "local"))
    right = {"global": bool(whole and whole["correct"]), "local": bool(local and local["correct"])}
    wrong = {"global": bool(whole and not whole["correct"]), "local": bool(local and not local["correct"])}
    missed = example["correct"] is False and (draft["correct"] or any(right.values()))
    belongs = {
        "all": True,
        "wrong": not draft["correct"],
        "fixed_global": not draft["correct"] and right["global"],
        "fixed_local": not draft["correct"] and right["local"],
        "fixed_both": not draft["correct"] and all(right.values()),
        "fixed_none": not draft["correct"] and not any(right.values()),
        "broken_global": draft["correct"] and wrong["global"],
        "broken_local": draft["correct"] and wrong["local"],
        "broken": draft["correct"] and example["correct"] is False,
        "judge_wrong": missed and example["kept_by"] is None,  # a draft that a gate kept was the only one there
        "misplaced": example["oracle"] and example["located_error"] != example["true_error"],
    }
    return [name for name, inside in belongs.items() if inside]


def browser_json(examples: Sequence[dict[str, Any]]) -> str:
    """The problems as JSON that may stand in a script element: `examples`, and in `cut` the number of characters that
    are shown of a text, null where none was cut."""
    most = BYTES * max(1000, len(examples))
    found = next(filter(None, (_within(examples, limit, most) for limit in LIMITS)), None)
    texts, cut = found or _within(examples, LIMITS[-1])
    return f'{{"cut":{cut or "null"},"examples":[{",".join(texts)}]}}'


def _within(
    examples: Sequence[dict[str, Any]], limit: int, most: float = math.inf
) -> tuple[list[str], int | None] | None:
    """The examples as JSON, and `limit` where it cut some; None where they take more than `most` bytes."""
    from jinja2.utils import htmlsafe_json_dumps

    texts, size, cut = [], 0, None
    for example in examples:
        shown, is_cut = _shown(example, limit)
        text = str(htmlsafe_json_dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        texts.append(text)
        size += len(text.encode())
        cut = limit if is_cut else cut
        if size > most:
            return None
    return texts, cut


def _shown(example: dict[str, Any], limit: int) -> tuple[dict[str, Any], bool]:
    """What the browser shows of an example, and whether something of it was cut."""
    solutions, cut = {}, len(example["question"]) > limit
    for kind, solution in example["solutions"].items():
        solutions[kind], is_cut = _solution(solution, limit) if solution else (None, False)
        cut |= is_cut
    shown = {
        "id": one_line(example["problem_id"], VALUE),
        "question": visible(example["question"], limit),
        "answer": one_line(example["answer"], VALUE),
        "summary": example_summary(example, lambda name: one_line(name, VALUE)),
        "groups": example_groups(example),
        "scorer": SCORER_TITLES[example["scorer"]],
        "located": example["located_error"],
        "true": example["true_error"],
        "chosen": example["chosen"],
        "correct": example["correct"],
        "solutions": solutions,
    }
    return shown, cut


def _solution(solution: dict[str, Any], limit: int) -> tuple[dict[str, Any], bool]:
    steps, left, cut = [], limit, False
    for step in solution["steps"]:
        if left <= 0 or len(steps) == MOST_STEPS:
            break
        steps.append(visible(step, left))
        cut |= len(step) > left
        left -= max(len(step), 20)  # its scores take room too
    more, score = len(solution["steps"]) - len(steps), solution["score"]
    scores = {
        name: solution[name] and [round(one, 2) for one in solution[name][: len(steps)]]
        for name in SCORER_TITLES
        if name in solution
    }
    final = None if score is None else round(score, 2)
    return {"steps": steps, "more": more, "correct": solution["correct"], "score": final, **scores}, cut or more > 0
