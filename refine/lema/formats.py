"""Corrections as rows of other projects, in and out.

`steps`, ours: {"question": …, "answer": "14", "mistake": [steps], "wrong_step": 2, "explanation": …, "correction":
[all steps of the corrected solution]}. `critique`: {"instruction": …, "input": "Question: …\\nSolution:\\nStep 1: …",
"output": "Incorrect Step: Step 2\\nExplanation: …"}. `lemma` (LEMMA, arXiv 2503.17439): {"instruction": question,
"input": "", "output": a solution that goes wrong, says so, and goes on or starts again}.

What is read comes from outside: it is judged like any reply (`judge.py`), and a row that could be read in two ways is
dropped for a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from refine.lema.fields import Dropped, clean_text
from refine.lema.judge import render_kept
from refine.lema.prompts import show_mistake
from refine.lema.reply import render_correction
from refine.lema.texts import CorrectionTextArgs, render_revision
from rollouts.records import Correction, Problem
from rollouts.solution import cut_solution
from stages.text import shown

# a line that begins so takes back the step before it
_REMARK = re.compile(
    r"(?:but )?(?:wait|hold on|hmm|no|oops|actually|let me (?:correct|re-?check|check|fix|re-?do|re-?think|re-?examine)"
    r"|(?:there is|i (?:made|see)) (?:a|an|the) (?:mistake|error))\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"\bstep\s+(\d{1,3})\b", re.IGNORECASE)
_OWN = re.compile(r"Wait, (?:step \d+|this) is wrong\.\s*")
_RESTART = re.compile(
    r"\b(?:start (?:over|again|afresh|fresh|from scratch)|restart|from the (?:beginning|start)"
    r"|(?:re-?solve|solve|do|try) (?:it|this|the (?:problem|question)) (?:again|anew|afresh))\b",
    re.IGNORECASE,
)
_PARTS = re.compile(
    r"(?:^|\n)\s*#*\s*(?:Question|Problem)\s*:\s*(?P<question>.*?)\n\s*#*\s*(?:Student\s+|Wrong\s+)?Solution\s*:\s*\n?"
    r"(?P<solution>.*)",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(r"\s*step\s*\d{1,3}\s*[:.)]\s*", re.IGNORECASE)


class FormatRowError(ValueError):
    """A row that is not of its format: a field is missing, or of another type."""


class Row(NamedTuple):
    """What a row tells: the wrong solution, a reply as a corrector would have written it, and the reference answer
    where the row has one."""

    question: str
    answer: str | None
    mistake: tuple[str, ...]
    reply: str


def _text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise FormatRowError(f"field {name!r} must be a text, not {shown(str(value))}")
    return value


def _answer(row: Mapping[str, Any]) -> str | None:
    value = row.get("answer")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(row, "answer").strip() or None if value is not None else None


def _lines(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise FormatRowError(f"field {name!r} must be a list of texts, not {shown(str(value))}")
    return tuple(clean_text(one).replace("\n", " ").strip() for one in value)


def _solution_lines(text: str) -> tuple[str, ...]:
    """The steps of a solution, a line each, without the numbers that a list of steps has."""
    rows = [line for line in clean_text(text).split("\n") if line.strip()]
    if rows and all(_LABEL.match(line) for line in rows if not line.startswith("####")):
        rows = [_LABEL.sub("", line, count=1) for line in rows]
    return cut_solution("\n".join(rows)).steps


def _read_steps(row: Mapping[str, Any]) -> Row:
    mistake, correction = _lines(row, "mistake"), _lines(row, "correction")
    step = row.get("wrong_step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise FormatRowError(f"field 'wrong_step' must be a whole number, not {shown(str(step))}")
    if not 1 <= step <= len(mistake):
        raise Dropped("no_such_step")
    if correction[: step - 1] != mistake[: step - 1]:
        raise Dropped("prefix_changed")
    if not correction[step - 1 :]:
        raise Dropped("missing_solution")
    reply = _reply(step, _text(row, "explanation"), correction[step - 1 :])
    return Row(_text(row, "question"), _answer(row), mistake, reply)


def _reply(step: int, explanation: str, new: Sequence[str]) -> str:
    try:
        return render_correction(step, " ".join(clean_text(explanation).split()), new)
    except Dropped:
        raise
    except ValueError as error:
        raise Dropped("ambiguous") from error


def _read_critique(row: Mapping[str, Any]) -> Row:
    found = _PARTS.search("\n".join([_text(row, "instruction"), _text(row, "input", "")]))
    if found is None:
        raise Dropped("no_mistake")
    solution = re.sub(r"\n\s*(?:Correction|Critique)\s*:\s*$", "", found["solution"])
    mistake = _solution_lines(solution)
    if not mistake:
        raise Dropped("no_mistake")
    return Row(found["question"].strip(), _answer(row), mistake, _text(row, "output"))


def _read_lemma(row: Mapping[str, Any]) -> Row:
    """The steps before the one line that takes a step back, and those after it. A step that this line names is the
    wrong one, else it is the last before; where all is written again, it is the first."""
    lines = [line.strip() for line in clean_text(_text(row, "output")).split("\n") if line.strip()]
    places = [n for n, line in enumerate(lines) if _REMARK.match(line)]
    if not places or places[0] == 0:
        raise Dropped("no_mistake")
    if len(places) > 1:
        raise Dropped("repeated")
    before, remark, after = tuple(lines[: places[0]]), lines[places[0]], lines[places[0] + 1 :]
    named = {int(number) for number in _NAMED.findall(remark)}
    if len(named) > 1:
        raise Dropped("several_steps")
    step = 1 if _RESTART.search(remark) else named.pop() if named else len(before)
    if not 1 <= step <= len(before):
        raise Dropped("no_such_step")
    if not after:
        raise Dropped("missing_solution")
    explanation = _OWN.sub("", remark, count=1) or remark
    new = cut_solution("\n".join(after)).steps
    question = "\n".join(filter(None, [_text(row, "instruction").strip(), _text(row, "input", "").strip()]))
    return Row(question, _answer(row), before, _reply(step, explanation, new))


def _write_steps(problem: Problem, one: Correction) -> dict[str, Any]:
    return {
        "question": problem.question, "answer": problem.answer, "mistake": list(one.mistake),
        "wrong_step": one.wrong_step, "explanation": one.explanation, "correction": list(one.steps),
    }  # fmt: skip


def _write_critique(problem: Problem, one: Correction) -> dict[str, Any]:
    asked = show_mistake(problem.question, one.mistake)
    return {"instruction": CorrectionTextArgs().instruction, "input": asked, "output": render_kept(one)}


def _write_lemma(problem: Problem, one: Correction) -> dict[str, Any]:
    return {"instruction": problem.question, "input": "", "output": render_revision(one)[0].rstrip("\n")}


class Format(NamedTuple):
    """How rows are read and written, and their columns (Arrow types)."""

    read: Callable[[Mapping[str, Any]], Row]
    write: Callable[[Problem, Correction], dict[str, Any]]
    columns: dict[str, str]


_ALPACA = dict.fromkeys(("instruction", "input", "output"), "string")
FORMATS = {
    "steps": Format(
        _read_steps,
        _write_steps,
        {"question": "string", "answer": "string", "mistake": "list<string>", "wrong_step": "int64",
         "explanation": "string", "correction": "list<string>"},
    ),
    "critique": Format(_read_critique, _write_critique, _ALPACA),
    "lemma": Format(_read_lemma, _write_lemma, _ALPACA),
}  # fmt: skip
