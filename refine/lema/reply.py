"""What a corrector writes, there and back: the wrong step, an explanation, and the solution from that step on.

    Incorrect Step: Step 2
    Explanation: 4 * 3 is 12, not 13.
    Correct Solution:
    Step 2: 4 * 3 = 12
    #### 12

Or the same as JSON (`json_reply.py`). Replies come from outside: any text can be read, in bounded time, none raises but
`Dropped`, and what can be read in two ways is dropped. Left out: whether a correction is right (`judge.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from refine.lema.fields import FENCE, PARTS, Dropped, clean_line, clean_text, read_step
from refine.lema.json_reply import read_json
from rollouts.grading.statements import states_answer
from rollouts.solution import solution_part
from rollouts.steps import ANSWER_MARK, MAX_CHARACTERS, MAX_STEPS

LAYOUTS = ("plain", "json")
_HEADINGS = {"step": "Incorrect Step", "explanation": "Explanation", "solution": "Correct Solution"}
_KEYS = {"step": "incorrect_step", "explanation": "explanation", "solution": "correct_solution"}

# forms of wide characters that stand for those of ASCII, as long as these
_WIDE = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: 0x20}
_HEADING = re.compile(
    r"""[\s>\#*_•-]{0,12}(?:\(?[0-9]{1,2}[.)]\s{1,4})?[*_]{0,4}(?:
        (?P<step>(?:first\s{1,2})?(?:incorrect|wrong|erroneous|mistaken|error)\s{1,2}steps?)
       |(?P<explanation>explanation|reason)
       |(?P<solution>correct(?:ed)?\s{1,2}(?:solution|steps))
    )[*_]{0,4}\s{0,4}(?::(?P<rest>.*)|$)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_LABEL = re.compile(
    r"[\s>*_#•-]{0,12}step\s{0,2}#?(?P<number>\d{1,9})\s{0,2}[*_]{0,4}\s?(?:[:.)]|\s-\s|$)[*_]{0,4}", re.IGNORECASE
)
_BARE_LABEL = re.compile(r"(?P<number>\d{1,3})[.)]\s+")
# a label within a line, where several steps stand in one
_INNER = re.compile(r"(?<=\s)[*_]{0,4}step\s{1,2}(?P<number>\d{1,9})[*_]{0,4}\s?:", re.IGNORECASE)


class Reply(NamedTuple):
    """The fields of a reply. `steps` are the lines of the solution as written, without their numbers; the first of them
    is step number `first` (None: they have no numbers). What was not asked for is None or empty."""

    step: int | None
    explanation: str
    steps: tuple[str, ...]
    first: int | None


def render_correction(
    step: int, explanation: str, steps: Sequence[str], layout: str = "plain", parts: Sequence[str] = PARTS
) -> str:
    """The text of a correction: `step` (from 1) is wrong, and `steps` stand in its place and in that of all after it.

    `parts` are the fields that are written, in the paper's order. Answer lines (`#### 12`) have no number.

    Raises:
        ValueError: what is written would be read as something else.
    """
    numbers = iter(range(step, step + len(steps)))
    lines = [line if line.startswith(ANSWER_MARK) else f"Step {next(numbers)}: {line}" for line in steps]
    if layout == "json":
        values = {"step": step, "explanation": explanation, "solution": lines}
        text = json.dumps({_KEYS[part]: values[part] for part in PARTS if part in parts}, ensure_ascii=False)
    else:
        texts = {"step": f" Step {step}", "explanation": f" {explanation}", "solution": "\n" + "\n".join(lines)}
        text = "\n".join(f"{_HEADINGS[part]}:{texts[part]}" for part in PARTS if part in parts)
    wanted = Reply(
        step if "step" in parts else None,
        explanation if "explanation" in parts else "",
        tuple(steps) if "solution" in parts else (),
        step if "solution" in parts and not steps[0].startswith(ANSWER_MARK) else None,
    )
    if (found := parse_correction(text, parts)) != wanted:
        raise ValueError(f"a correction that would be read as {found}, not as {wanted}")
    return text


def parse_correction(text: str, parts: Sequence[str] = PARTS) -> Reply:
    """The fields of a reply in either layout; what a model thinks before it does not count.

    Raises:
        Dropped: a field of `parts` is missing, is there twice, or cannot be read.
    """
    if not text.strip():
        raise Dropped("empty")
    if len(text) > MAX_CHARACTERS:
        raise Dropped("too_long")
    text = clean_text(solution_part(text.strip()))
    fields = read_json(text, parts)
    plain = _read_plain(text)
    if fields is not None and plain:
        raise Dropped("repeated")
    fields = plain if fields is None else fields
    if not fields:
        raise Dropped("no_fields")
    step, explanation, steps, first = None, "", [], None
    if "step" in parts:
        if not fields.get("step", "").strip():
            raise Dropped("missing_step")
        step = read_step(fields["step"].translate(_WIDE))
    if "explanation" in parts:
        explanation = " ".join(filter(None, map(clean_line, fields.get("explanation", "").split("\n"))))
        if not re.search(r"\w", explanation):
            raise Dropped("missing_explanation")
    if "solution" in parts:
        first, steps = _read_steps(fields.get("solution", ""), step)
    return Reply(step, explanation, tuple(steps), first)


def _read_plain(text: str) -> dict[str, str]:
    """The text of each field, by its heading at the beginning of a line."""
    fields: dict[str, list[str]] = {}
    own: list[str] = []  # lines of the field that is being read; those before the first are nobody's
    for line in text.split("\n"):
        found = _HEADING.match(line.translate(_WIDE))
        if found is None:
            if not FENCE.fullmatch(line):
                own.append(line)
            continue
        name = next(name for name in PARTS if found[name])
        if name in fields:
            raise Dropped("repeated")
        rest = "" if found["rest"] is None else line[found.start("rest") :]
        own = fields[name] = [re.sub(r"^\s*[*_]{1,4}(?=\s|$)", "", rest)]
    return {name: "\n".join(lines) for name, lines in fields.items()}


def _read_steps(text: str, wrong: int | None) -> tuple[int | None, list[str]]:
    """The number of the first step, where they have numbers, and the steps without them."""
    lines = [part for line in text.split("\n") if line.strip() and not FENCE.fullmatch(line) for part in _apart(line)]
    items: list[tuple[int | None, str]] = []
    waiting = None  # the number of a label that stands on a line of its own
    for line in lines:
        number, rest = _split_label(line, _LABEL)
        number, waiting = (waiting, None) if number is None else (number, None)
        if rest := clean_line(rest):
            items.append((number, rest))
        else:
            waiting = number
    if all(number is None for number, _ in items):
        items = _bare_numbers(items)
    while items and _is_dots(items[0][1]) and (items[0][0] is None or items[0][0] < (wrong or 2)):
        del items[0]  # they stand for the steps that are kept
    if any(_is_dots(line) for _, line in items):
        raise Dropped("left_out")
    if not items:
        raise Dropped("missing_solution")
    if len(items) > MAX_STEPS:
        raise Dropped("too_long")
    return _number(items)


def _is_dots(line: str) -> bool:
    return (".." in line or "…" in line) and not line.strip(" .…[]()*")


def _number(items: list[tuple[int | None, str]]) -> tuple[int | None, list[str]]:
    """Check that the numbers follow each other; lines without one belong to the step before, but for answers."""
    first, steps, count, answered = items[0][0], [], 0, False
    for number, line in items:
        if first is None and number is not None and steps:
            raise Dropped("misnumbered")
        if number is not None and number != first + count:
            raise Dropped("misnumbered")
        answered = answered or line.startswith(ANSWER_MARK) or states_answer(line)
        if first is None or number is not None or answered:
            steps.append(line)
            count += 1
        else:
            steps[-1] += " " + line
    return first, steps


def _apart(line: str) -> list[str]:
    """The steps that stand in one line, where each has the number after that of the one before."""
    number, _ = _split_label(line, _LABEL)
    if number is None:
        return [line]
    parts, start = [], 0
    for inner in _INNER.finditer(line.translate(_WIDE)):
        if int(inner["number"]) == number + 1 and line[start : inner.start()].strip():
            parts.append(line[start : inner.start()])
            start, number = inner.start(), number + 1
    return [*parts, line[start:]]


def _split_label(line: str, pattern: re.Pattern[str]) -> tuple[int | None, str]:
    found = pattern.match(line.translate(_WIDE))
    return (None, line) if found is None else (int(found["number"]), line[found.end() :])


def _bare_numbers(items: list[tuple[int | None, str]]) -> list[tuple[int | None, str]]:
    """The items with `2. ` and `3. ` taken for numbers, where all but answers have one."""
    found = [_split_label(line, _BARE_LABEL) for _, line in items]
    own = [number for number, line in found if number is not None or not states_answer(line)]
    whole = None not in own and own == list(range(own[0], own[0] + len(own))) if own else False
    return [(number, clean_line(line)) for number, line in found] if whole else items
