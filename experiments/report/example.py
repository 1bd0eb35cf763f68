"""The solved example in Markdown: code blocks, so that no text of a problem or a model can break the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.report.words import SCORER_NAMES, SCORER_TITLES, WHEN_NAMES
from stages.markdown import code_span, longest_run
from stages.text import one_line, visible

LONGEST, MOST_STEPS = 2000, 50  # characters of a text that are shown, steps of a solution
KIND_NAMES = {"draft": "the draft", "global": "the global refinement", "local": "the local refinement"}


def example_lines(example: dict[str, Any] | None) -> list[str]:
    """Markdown blocks: question, draft with scores and [BAD], refinements, final scores and the choice."""
    if example is None:
        return ["Nothing was reranked, so there is no example."]
    task = f"{visible(example['question'], LONGEST)}\n\nanswer: {visible(example['answer'], LONGEST)}"
    blocks = [example_summary(example), _fenced(task)]
    for kind, words in KIND_NAMES.items():
        solution = example["solutions"][kind]
        if solution is None:
            blocks.append(f"There is no {kind} refinement here.")
            continue
        verdict = "right" if solution["correct"] else "wrong"
        score = "" if solution["score"] is None else f", {SCORER_TITLES[example['scorer']]} {solution['score']:.2f}"
        picked = ", **picked**" if example["chosen"] == kind else ""
        blocks += [f"{words[0].upper()}{words[1:]} ({verdict}{score}{picked}):", _fenced(_steps(example, kind))]
    return blocks


def example_summary(example: dict[str, Any], named: Callable[[str], str] = code_span) -> str:
    """A few sentences: what was wrong, where it was located, what was chosen; `named` writes the problem's id."""
    draft = example["solutions"]["draft"]
    parts = [f"Problem {named(example['problem_id'])}: the draft is {'right' if draft['correct'] else 'wrong'}."]
    located, true = example["located_error"], example["true_error"]
    if located is None:
        parts.append("No error was located in it.")
    elif not example["oracle"]:
        parts.append(f"The first error was located at step {located + 1}.")
    else:
        where = "no step is wrong" if true is None else f"it is step {true + 1}"
        agrees = "the oracle agrees" if true == located else f"by the oracle {where}"
        parts.append(f"The first error was located at step {located + 1}; {agrees}.")
    if example["kept_by"] is not None:
        parts.append(f"The gate refines {WHEN_NAMES[example['kept_by']]}, and kept it.")
    elif example["chosen"] is not None:
        chosen, verdict = KIND_NAMES[example["chosen"]], "right" if example["correct"] else "wrong"
        scorer = SCORER_NAMES[example["scorer"]]
        parts.append(f"{scorer[0].upper()}{scorer[1:]} picked {chosen}, which is {verdict}.")
    return " ".join(parts)


def _steps(example: dict[str, Any], kind: str) -> str:
    solution = example["solutions"][kind]
    scores = solution["sorm"] or [None] * len(solution["steps"])
    lines = ["step  SORM  "]
    for index, (step, score) in enumerate(zip(solution["steps"], scores, strict=True)):
        if index == MOST_STEPS:
            lines.append(f"      … {len(scores) - index:,} more steps")
            break
        mark = "[BAD] " if kind == "draft" and index == example["located_error"] else ""
        note = "   <- first wrong step" if kind == "draft" and index == example["true_error"] else ""
        number = "    " if score is None else f"{score:.2f}"
        lines.append(f"{index + 1:>4}  {number}  {mark}{one_line(step, LONGEST)}{note}")
    return "\n".join(line.rstrip() for line in lines)


def _fenced(text: str) -> str:
    fence = "`" * max(3, longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"
