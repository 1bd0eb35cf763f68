"""Finds the line that states a solution's answer, and the answer as it is written there.

An answer is stated by `#### 18`, `\\boxed{18}`, "the answer is 18", a line `Answer: 18`, or `<answer>18</answer>`. The
first line with `####` that is no heading ends a solution; else the last statement does. One that is taken back ("Wait,
…") states nothing. Left out: what of a text counts at all (`rollouts/solution.py`), and what an answer is worth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rollouts.grading.boxes import last_box, tagged
from rollouts.grading.numerals import normalise
from rollouts.grading.wording import clean, right_side, shorten

WINDOW = 16_384  # a statement in prose with this much text after it is not final; it also bounds the time
MAX_ANSWER = 1_000  # no reference of the known sets is a third as long; longer is a runaway generation
MAX_MARKS = 64  # lines with #### that are looked at


class Found(NamedTuple):
    """An answer, the rule that found it, and the lines of the statement; or None, why, and no lines."""

    answer: str | None
    rule: str
    begins: int | None = None
    ends: int = 0


class _Statement(NamedTuple):
    content: str | None  # None: a box that is not closed
    where: str
    begins: int
    ends: int
    after: str  # the rest of its last line
    sure: bool = True  # False: it says nothing that could be an answer, unless it stands last


def find_answer(lines: Sequence[str], *, last_number: bool = False) -> Found:
    """The answer that the lines of a solution state; with `last_number` else the last number in them."""
    if lines and is_plain(last := lines[-1]) and not any("####" in line for line in lines[:-1]):
        return Found(last[5:], "hash", len(lines) - 1, len(lines))  # as most do
    start, retracted = 0, None
    marked = [index for index, line in enumerate(lines) if "####" in line][:MAX_MARKS]
    statements = [found for index in marked if (found := _hash(lines, index, marked[-1]))]
    for number, statement in enumerate(statements):
        if statement.begins < start:
            continue
        until = statements[number + 1].begins if number + 1 < len(statements) else len(lines)
        after = lines[statement.ends : until]
        if until < len(lines) and not lines[until].startswith("#"):
            after.append(lines[until].partition("####")[0])  # "Correction: #### 18"
        if (statement.after or after) and is_retracted("\n".join([statement.after, *after])):
            start, retracted = statement.ends, statement.where
            continue
        if _another(statement, after):
            return Found(None, f"{statement.where}:retracted")
        return _read(statement)
    statement = _in_prose(lines, start)
    if statement is None and last_number:
        statement = _last_number(lines)
    if statement is None:
        return Found(None, f"{retracted}:retracted" if retracted else "none")
    if is_retracted("\n".join([statement.after, *lines[statement.ends :]])):
        return Found(None, f"{statement.where}:retracted")
    if not statement.sure and statement.ends < len(lines):
        return Found(None, f"{statement.where}:{'unread' if statement.content else 'empty'}")
    return _read(statement)


def is_plain(line: str) -> bool:
    """Whether a line is `#### 18`, with digits only."""
    return line.startswith("#### ") and line[5:].isdecimal() and len(line) < MAX_ANSWER


def states_answer(step: str) -> bool:
    """Whether a step states an answer, so that nothing need follow it."""
    return find_answer([step]).answer is not None


def _read(statement: _Statement) -> Found:
    content, where, begins, ends, *_ = statement
    if content is None:
        return Found(None, f"{where}:unclosed")
    if len(content) > MAX_ANSWER:
        return Found(None, f"{where}:too_long")
    answer = clean(content)
    return Found(answer, where, begins, ends) if answer else Found(None, f"{where}:empty")


def _another(statement: _Statement, after: Sequence[str]) -> bool:
    """Whether the text after an answer line states another answer in other words."""
    again = _in_prose(after, 0) if after and statement.content else None
    if again is None or not again.content or not again.sure:
        return False
    answer, other = clean(statement.content), clean(again.content)
    value, second = normalise(answer), normalise(other)
    # words take no number back: "what comes after the answer is no step"
    return other != answer if value is None else second is not None and second != value


# Where an answer is taken back. "should be", "mistake" or "actually" alone are not enough: "18 (should be in dollars)".
_DOUBT = (
    *("wait", "actually", "oops", "hmm", "sorry", "correct", "scratch", "hold on", "second th", "let me", "let us"),
    *("wrong", "mistake", "no", "should", "error"),
)
_RETRACTION = re.compile(
    r"""(?:^|[\n.!?…;:,(—–-])[\s"'*(]*(?:(?:oh|but|no|hm+|so)\b[,.…]*\s*)?
        (?:wait\b(?!\s(?:times?|lists?)\b)|actually\b|oops|hmm|sorry\b|correction\b|scratch\sthat|hold\son|on\ssecond\sthought|no\b(?:[,.!:]|$)
          |let\s(?:me|us)\s(?:re(?!mind|mark|member|port|ally|mov)|double|fix|correct|check|try\sagain|start\sover)
          |i\s(?:was|am)\swrong|my\s(?:mistake|error)
          |i\s(?:have\s)?(?:made|see|found)\s(?:a|an|my|the)\s(?:\w+\s)?(?:mistake|error))
      |\b(?:that|this|it|which|above|answer)(?:\sis|\swas|'s|\sseems|\slooks)\s(?:wrong|incorrect|not\s(?:right|correct))
      |\b(?:that|this|it|answer|result)\sshould\s(?:be|have\sbeen)[\s:$*\\(]*-?[0-9]
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_retracted(after: str) -> bool:
    """Whether the text after an answer takes it back."""
    after = after[:WINDOW].lower()
    return any(word in after for word in _DOUBT) and _RETRACTION.search(after) is not None


_MARK = re.compile(r"#{4,}")
_NUMBER = re.compile(r"[*_`$(\[~≈=+\-−–\s]{0,20}(?:[A-Z]{1,3}\.?\s?)?[$€£¥₹]?\s?(?:[0-9０-９½¼¾⅓⅔\\√π]|\.[0-9])")
_MATHS = re.compile(r"[0-9\\０-９½¼¾√π=]")
_LABEL = re.compile(
    r"""[*_\s]*+(?:(?:the|so|my|thus|therefore),?\s+)*(?:
        (?:(?:final|correct|numerical)\s+)?answer(?:\s*+\([^()]{0,60}+\))?[*_\s]*+(?:[:：=]|is\b|$|(?=[*_$\\(]*-?[0-9]))
       |(?:(?:grand|final|the)\s+)?(?:total|result|sum|solution|ans)[*_\s]*+(?:[:：=]|is\b))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_OTHER_LABEL = re.compile(r"[*_\s]*+[A-Za-z][A-Za-z0-9'() -]{0,48}?[*_]{0,4}\s?[:：]")
_STEP = re.compile(
    r"""[*_\s]*+(?:step|part|case|phase|stage|method|approach|option|section|question|problem|example|exercise|round)s?
        \s*(?:\#|no\.?)?\s*(?:[0-9]+|[A-Z]\b|[IVXivx]+\b|one|two|three|four|five|six|final)""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERED = re.compile(r"[*_\s]*+[0-9]{1,2}[.)]\s+[*_]*[A-Z]")
_TITLE = re.compile(
    r"""[*_\s]*+(?:[a-z]{2,30}ing\b|(?:solution|explanation|calculation|analysis|conclude|conclusion|summary|simplify|evaluate|express|write|verification|check|given|find
        |determine|calculate|compute|first|second|third|next|then|finally|final|now|identify|set|setup|define|break|combine
        |add|subtract|multiply|divide|convert|use|apply|solve|answer|result|total|step|understand|cost|and|this|how|what
        |note|detail|reasoning|problem|question|work|proof|formula|equation|information|known|let|so|thus|where|for)s?\b)""",
    re.IGNORECASE | re.VERBOSE,
)


def _hash(lines: Sequence[str], index: int, last_mark: int) -> _Statement | None:
    """The answer line that begins here; None where `####` begins a heading or is only mentioned."""
    line = lines[index]
    if is_plain(line):
        return _Statement(line[5:], "hash", index, index + 1, "")
    mark = _MARK.search(line)
    again = line.find("####", mark.end())
    content = line[mark.end() : again if again >= 0 else None]
    if "\\boxed" in line or "\\fbox" in line:
        box = last_box(line)
        if box is not None and (box[2] or (box[2] is None and index == len(lines) - 1)):
            return _Statement(box[2], "boxed", index, index + 1, line[box[1] :])
    last, place = index == len(lines) - 1, (index, index + 1)
    bare = not content.strip(" *_:`.")
    if line[: mark.start()].strip(" *_>•`-"):  # a mark within a line
        return _statement(content, "hash", *place) if _NUMBER.match(content) or (bare and last) else None
    label = _ANSWER_IS.search(content[:MAX_ANSWER]) or _LABEL.match(content[:MAX_ANSWER])
    if bare or (label is not None and not content[label.end() :].strip(" *_:`.")):
        if following := _next_lines(lines, index + 1):
            return _statement(following[0], "hash", index, following[1])
        return _statement("", "hash", *place) if bare and last else None
    if label is None and not content[1:].strip(" -.").isdecimal():
        label = _OTHER_LABEL.match(content)
        if _is_heading(content, content[label.end() :] if label else None, index < last_mark):
            return None
    return _statement(content[label.end() :] if label else content, "hash", *place)


def _is_heading(content: str, labelled: str | None, more: bool) -> bool:
    """Whether a Markdown heading, and no answer, follows `####`: `labelled` is what follows its colon, `more` says that
    there are more such lines."""
    if _STEP.match(content) or (
        (numbered := _NUMBERED.match(content)) and (more or _TITLE.match(content, numbered.end() - 1))
    ):
        return True
    if labelled is not None:
        return more or normalise(clean(shorten(labelled)[0])) is None
    if not _MATHS.search(content, 0, MAX_ANSWER):
        return _TITLE.match(content) is not None or len(content.split(maxsplit=6)) > 5
    return _TITLE.match(content) is not None and normalise(clean(content)) is None and (more or "=" not in content)


def _statement(content: str, where: str, begins: int, ends: int) -> _Statement:
    answer, rest = shorten(content[: 2 * MAX_ANSWER])
    return _Statement(answer, where, begins, ends, rest + content[2 * MAX_ANSWER :])


_OPENERS = {"\\[": "\\]", "$$": "$$", "\\(": "\\)", "$": "$", "```": "```", "```text": "```", "<answer>": "</answer>"}


def _next_lines(lines: Sequence[str], index: int, opener: str = "") -> tuple[str, int] | None:
    """The answer on the lines after its mark, and where they end: one line, or display mathematics, whose `opener`
    may stand on the line of the mark."""
    if index >= len(lines):
        return None
    if not opener and lines[index] in _OPENERS:
        opener, index = lines[index], index + 1
    if opener:
        for end in range(index, min(len(lines), index + 8)):
            if lines[end].rstrip(".,") == _OPENERS[opener]:
                return " ".join(lines[index:end]), end + 1
        return None
    line = lines[index]
    if "####" in line or len(line) > 200 or _ANSWER_IS.search(line) or "\\boxed" in line:
        return None
    value = normalise(clean(shorten(line)[0]))
    return (line, index + 1) if value is not None or index == len(lines) - 1 else None


_ANSWER_IS = re.compile(
    r"""\banswer(?:[^\S\n]?\([^()\n]{0,40}\)|[^\S\n]to[^\S\n](?:the|this|that|our|your)(?:[^\S\n]\w+){1,3}?)?[*_]{0,2}[^\S\n]+
        (?:is|equals|would[^\S\n]be|will[^\S\n]be|comes[^\S\n](?:out[^\S\n])?to)\b
        (?:[^\S\n]+(?:therefore|thus|hence|then|simply|indeed|just|exactly|the[^\S\n]number)\b,?)?
       |\bfinal[^\S\n]answer[*_]{0,2}[^\S\n]?[:：]|\bcorrect[^\S\n](?:option|choice)[*_]{0,2}[^\S\n]is\b
       |^[^\w\n]{0,12}(?:[0-9]{1,2}[.)][^\S\n]+)?_{0,2}(?:(?:the|so|my|and)[^\S\n]+)?(?:(?:final|correct)(?:[^\S\n]|_)+)?
        (?:answer(?:[^\S\n]?\([^()\n]{0,40}\))?[*_]*+[^\S\n]?[:：=—]|ans\b[*_]*+[^\S\n]?[:：=.])
       |^[^\w\n]{0,12}(?:\*\*|__)(?:final[^\S\n]+)?answer(?:\*\*|__)
       |^[^\w\n]{0,12}final[^\S\n]answer[*_ ]*+(?=$|[-$\\(]{0,4}[0-9])
       |^[^\w\n]{0,12}(?:\#|\*\*|__)[*_ ]{0,8}(?:final[^\S\n]+)?answer[*_ ]*+(?=$|[-$\\(]{0,4}[0-9])
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_NOT_ITS = re.compile(
    r"\b(?:wrong|incorrect|previous|earlier|initial|original|first|old|other|partial|his|her|their"
    r"|(?!problem|question|equation)\w+['’]s?)[*_]*\s*$",
    re.IGNORECASE,
)  # before "answer is": it is not the solution's
_JUDGED = frozenset(
    "correct right wrong incorrect above below shown clear clearly not given obtained as in that this therefore the "
    "and let's let we to i it so".split()
)


def _in_prose(lines: Sequence[str], start: int) -> _Statement | None:
    """The last statement of an answer that is no answer line with `####`; of those that say nothing, the last one."""
    text = "\n".join(lines[start:])
    cut = max(0, len(text) - WINDOW)
    start, text = start + text.count("\n", 0, cut), text[cut:]
    if not any(word in text for word in ("\\", "nswer", "Ans", "ANS", "correct")):
        return None
    box = last_box(text)
    stated = [one for one in (box, tagged(text)) if one is not None]
    stated = [(begin, _place(text, start, begin, end, content, where)) for begin, end, content, where in stated]
    for mark in list(_ANSWER_IS.finditer(text))[-8:]:
        within = box is not None and box[0] < mark.start() < box[1]
        if within or _NOT_ITS.search(text, max(0, mark.start() - 24), mark.start()):
            continue
        begins = start + text.count("\n", 0, mark.start())
        content = text[mark.end() :].partition("\n")[0]
        ends = begins + 1
        opener = content.strip(" *_:`")
        if (not opener or opener in _OPENERS) and (following := _next_lines(lines, begins + 1, opener)):
            content, ends = following
        stated.append((mark.start(), _statement(content, "answer_is", begins, ends)))
    stated.sort(key=lambda one: one[0])
    plausible = [one for _, one in stated if _is_plausible(one)]
    return plausible[-1] if plausible else stated[-1][1]._replace(sure=False) if stated else None


def _is_plausible(statement: _Statement) -> bool:
    """Whether a statement says something that could be an answer: not "the answer is correct", not `\\boxed{}`."""
    if statement.content is None:
        return True
    answer = clean(statement.content[:MAX_ANSWER])
    words = answer.lower().split()
    return bool(answer) and (
        statement.where == "boxed"
        or _MATHS.search(answer) is not None
        or (len(words) <= 4 and words[0].strip(",.:*") not in _JUDGED)
    )


def _place(text: str, start: int, begin: int, end: int, content: str | None, where: str) -> _Statement:
    """A statement between two offsets of the lines' text, with the rest of its last line."""
    begins, ends = (start + text.count("\n", 0, offset) for offset in (begin, end))
    after = text[end:].partition("\n")[0]
    if where == "answer" and content is not None:
        label = _LABEL.match(content)
        content, rest = shorten(content[label.end() if label else 0 :][: 2 * MAX_ANSWER])
        after = rest + after
    elif content and "=" in content and len(content) <= MAX_ANSWER:
        content = right_side(content) or content
    return _Statement(content, where, begins, ends + 1, after)


def _last_number(lines: Sequence[str]) -> _Statement | None:
    """The last word with a digit in it; it counts only if all of it is one number (not 12:30 or x2)."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        digit = max(map(line.rfind, "0123456789"))
        if digit < 0:
            continue
        start = max(line.rfind(space, 0, digit) for space in " \t\r") + 1
        word = line[start:].split(maxsplit=1)[0].rpartition("=")[2].lstrip("([*").rstrip(".,;:?)]*")
        whole = re.search(r"(?:^|\s)(-?[0-9]+) $", line[max(0, start - 20) : start])
        return _Statement(f"{whole[1]} {word}" if whole and "/" in word else word, "last_number", index, index + 1, "")
    return None
