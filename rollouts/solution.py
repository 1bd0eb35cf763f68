"""The one cut of a text: what of it is the solution, its steps (a line each), and the answer that it states.

Graders, rollouts, continuations, refinements and reports all use this cut; docs/reading.md has the rules with examples.
How a statement of an answer is found in the lines is in `rollouts/grading/statements.py`. Left out: comparing answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from rollouts.grading.statements import find_answer, is_plain, states_answer


def _any_of(tags: Iterable[str]) -> str:
    """A pattern of these tags; most characters that could begin one are left after a look at the next."""
    kinds = groupby(sorted(tags), key=lambda tag: tag[0])
    return "|".join(
        rf"{re.escape(one)}(?=[/|｜A-Za-z])(?:{'|'.join(re.escape(tag[1:]) for tag in same)})" for one, same in kinds
    )


# Tokens that may be left in a text: what comes after the first of them is not the solution. So is whatever has the form
# `<|…|>` or `<｜…｜>`, but for those that open or close a part.
STOP_MARKERS = (
    *"</s> <s> <eos> <bos> <pad> <unk> <end> <stop> <EOS> <EOT> [EOS] [/s] [PAD] [SEP] [END] [DONE]".split(),
    *"[INST] [/INST] <start_of_turn> <end_of_turn> <|turn> <turn|>".split(),
    *"<|endoftext|> <|im_end|> <|im_start|> <|eot_id|> <|start_header_id|> <|channel|> <|user|>".split(),
    *"<｜end▁of▁sentence｜> <｜User｜>".split(),
)
_PARTS = r"(?:begin|end)_of_thought|begin_of_solution|(?:START|END)_THINKING|START_RESPONSE|thinking"
_MARKER = re.compile(
    _any_of(marker for marker in STOP_MARKERS if marker[1] not in "|｜" or marker == "<|turn>")
    + rf"|<\|(?!(?:{_PARTS})\|)[A-Za-z][A-Za-z0-9_ ]{{0,40}}\|>|<｜[^｜<>\n]{{1,40}}｜>"
)
# how a prompt or a turn begins, which some servers send back
_START = re.compile(
    r"""\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<\|begin_of_solution\|>|<\|START_(?:RESPONSE|TEXT)\|>
       |<\|assistant\|>|<｜Assistant｜>|<\|im_start\|>assistant\b|<start_of_turn>model\b
       |<\|start_header_id\|>assistant<\|end_header_id\|>)\s*""",
    re.VERBOSE,
)

# parts in which a model thinks: (opened by, closed by)
_REASONING = (
    *(
        (f"<{name}>", f"</{name}>")
        for name in "think thinking thought thoughts reasoning reason reflection scratchpad analysis cot seed:think "
        "think_fast think_faster longcat_think".split()
    ),
    *(("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|channel>", "<channel|>"), ("<unused94>", "<unused95>")),
    *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>")),
    ("<|thinking|>", "<|/thinking|>"),
)
_CLOSE = {opening.lower(): closing.lower() for opening, closing in _REASONING}
_TAG = re.compile(_any_of(tag for pair in _REASONING for tag in pair), re.IGNORECASE)
_SPECIAL = re.compile(r"<[/|｜A-Za-z0]|\[/?[A-Za-z]|◁")  # begins what is looked for below
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>")
_FINAL_WORD = re.compile(r"assistant\s?final")  # where the special tokens of the channels were left out
_ANALYSIS = ("analysis", "assistantanalysis")

_NUMBERED = r"\s*(?:(?:no\.?|number|\#)?\s*[0-9]{1,3}[a-z]?|\([0-9]{1,3}\))"
_PROBLEM_WORDS = (
    r"(?:(?:new|next|another|practice|similar|follow-?up|bonus|second)\s+)?"
    r"(?:question|problem|exercise|task|puzzle|word\s+problem|math\s+problem|q|frage|pregunta|domanda|вопрос|задача)"
)
_SPEAKERS = r"(?:user|human|assistant|system|instruction|customer|student|teacher|tutor)"
_HEADING = re.compile(
    rf"""[>*_\#\s]{{0,12}}+(?:\(?[0-9]{{1,2}}[.)]\s{{0,4}}+)?[*_]{{0,4}}+(?:
        (?:{_PROBLEM_WORDS}(?:\s+statement)?(?:{_NUMBERED})?|example{_NUMBERED}|{_SPEAKERS})[*_]*+\s*+[:：]
       |(?:{_PROBLEM_WORDS}|example){_NUMBERED}[*_]*+\s*+(?:[.)]\s|[.)]?[*_]*+$)
       |q\.\s?[0-9]{{1,3}}[.)]?\s
       |[问問题題目]{{1,3}}\s*+[0-9]*+\s*+[:：]
    )
    |\[{_PROBLEM_WORDS}(?:{_NUMBERED})?\]|<(?:question|problem)>
    |\\(?:textbf|paragraph|(?:sub)*section)\*?\{{(?:{_PROBLEM_WORDS}|example)(?:{_NUMBERED})?[.:]?\}}
    |\s*+\#{{1,6}}\s*+[*_]*+(?:{_PROBLEM_WORDS}|input|response|instructions?|{_SPEAKERS})[*_]*+\s*+:?\s*+[*_]*+$
    |(?:user|human|assistant)$
    |\s*+below\s+is\s+an\s+instruction\s+that
    """,
    re.IGNORECASE | re.VERBOSE,
)
# what begins another problem only where an answer stands before it
_LATER_HEADING = re.compile(
    r"""[>*_\s]{0,12}+(?:(?:question|problem|exercise)[*_]*+$|(?:input|context|prompt|given)[*_]*+\s?[:：]
       |solution\s(?:to|for|of)\s(?:problem|question|exercise)|now,?\s(?:solve|answer|try)\b
       |(?:here|let|now)\b[^.:]{0,20}\b(?:another|next|new)\s(?:\w+\s){0,2}(?:problem|question|example|exercise))
    """,
    re.IGNORECASE | re.VERBOSE,
)
# how a line begins that may be such a heading: to look at few lines
_BEGINNINGS = frozenset(
    "qu q q: q. q1 q2 q3 q4 q5 q6 q7 q8 q9 pr ex ta pu wo ma us hu as sy in cu st ne an si fo bo se fr be te tu co gi "
    "he le no do so во за 问题 問題 题目 題目 问 题 问: 题: 问： 题：".split()
) | {"q "}
_MARKS = frozenset("*_#> 0123456789[<\\(")
# another speaker on the answer's own line, with nothing but a space before it
_GLUED = re.compile(
    r"[0-9.!?>)\]}*$](?=[ \tHhUuAaQP])"
    r"(?:[ \t]*(?:[Hh]uman|[Uu]ser|[Aa]ssistant)(?:\s?:|\n)|(?:Question|Problem|Q)\s?:(?:\s|$))"
)
_GLUED_WORDS = ("uman", "ser", "ssistant", "Question", "Problem", "Q:", "Q :")
MAX_TRIES = 4
_LEAD_IN = re.compile(
    r"(?:sure|okay|ok|certainly|of course|let's|let us|let me|to solve|here|first|we )\b", re.IGNORECASE
)


class Solution(NamedTuple):
    """What of a text counts. `steps` end with the line that states the answer, where one does.

    `answer` is what that line states, as written, without markup. Where nothing was read it is None, and `rule` says
    why; else `rule` is what found it (see `grading.answers.Grade`).
    """

    steps: tuple[str, ...]
    answer: str | None
    rule: str


def cut_solution(text: str, prefix: Sequence[str] = (), *, last_number: bool = False) -> Solution:
    """Cut what a policy wrote, after the steps of `prefix` where it went on from there.

    The steps are the lines of the solution that are not blank, stripped, of which the first ones are `prefix`.
    A line ends at a line feed only. Joined and cut again, the steps give the same. `last_number`: see `answers.grade`.
    """
    own = [line for line in map(str.strip, solution_part(text.strip()).split("\n")) if line]
    lines = [*prefix, *own] if prefix else own
    if (end := _next_problem(lines)) is not None:
        del lines[max(end, len(prefix)) :]
    found = find_answer(lines, last_number=last_number)
    if found.begins is None:
        return Solution(tuple(lines), None, found.rule)
    if found.begins + 1 == found.ends == len(lines):
        return Solution(tuple(lines), found.answer, found.rule)
    begins = max(found.begins, min(len(prefix), found.ends - 1))  # no step of the prefix is changed
    steps = [*lines[:begins], " ".join(lines[begins : found.ends])]
    if (
        len(steps) < len(lines)
        and begins == found.begins
        and find_answer(steps, last_number=last_number)[:2] != found[:2]
    ):
        return Solution(tuple(lines), None, f"{found.rule}:unread")  # what stood around it made it an answer
    return Solution(tuple(steps), found.answer, found.rule)


def solution_part(text: str) -> str:
    """What is left of a text without what a model thinks and what comes after its end: a marker, another speaker."""
    before = None
    while text != before and (_SPECIAL.search(text) or text.startswith(_ANALYSIS)):
        before = text
        if start := _START.match(text):
            text = text[start.end() :]
        text = _after_reasoning(text.replace("<0x0A>", "\n"))
    if (":" in text or "r\n" in text or "n\n" in text or "t\n" in text) and any(word in text for word in _GLUED_WORDS):
        glued = _GLUED.search(text)
        text = text[: glued.start() + 1] if glued else text
    return text


def _after_reasoning(text: str) -> str:
    last = 1 + max(map(text.rfind, ">]▷"))  # no marker or tag ends later
    last = min(last, 64 + max((place.start() for place in _SPECIAL.finditer(text, 0, last)), default=0))
    final = _FINAL_CHANNEL.search(text)
    if final and not _ends(text[: text.index("<|")]):
        text = text[final.end() :]
    elif text.startswith(_ANALYSIS) and (finals := list(_FINAL_WORD.finditer(text))):
        text = text[finals[-1].end() :]
    if marker := _MARKER.search(text, 0, last):
        text = text[: marker.start()]
    start, opened, kept = 0, None, ""
    for tag in _TAG.finditer(text, 0, last):
        word = tag[0].lower()
        if opened is None:
            part = text[start : tag.start()]
            if word not in _CLOSE:
                kept = ""  # the prompt opened it: what stands before it was thought
            elif part.strip():
                if _ends(part):
                    return part  # a next problem, with a part of its own in which the model thinks
                kept = part
            opened = word if word in _CLOSE else None
        elif word == _CLOSE[opened]:
            opened = None
        start = tag.end()
    rest = text[start:] if opened is None else ""
    return rest if rest.strip() else kept


def reasoning_end(text: str) -> int:
    """Where the last part in which a model thinks ends; 0 where there is none that ends."""
    closed = [tag.end() for tag in _TAG.finditer(text) if tag[0].lower() in _CLOSE.values()]
    return max([*closed, *(final.end() for final in _FINAL_CHANNEL.finditer(text))], default=0)


def _ends(part: str) -> bool:
    lines = [line.strip() for line in part.split("\n") if line.strip()]
    return _next_problem(lines) is not None or any("####" in line and states_answer(line) for line in lines)


def _next_problem(lines: Sequence[str]) -> int | None:
    """Where another speaker or the next problem begins. A heading with nothing but an introduction before it is none:
    the model repeats the question."""
    tries = MAX_TRIES
    for index, line in enumerate(lines):  # the first line is the solution's own in any case
        if not index or not (line[0] in _MARKS or line[:2].lower() in _BEGINNINGS) or is_plain(line):
            continue
        if _HEADING.match(line[:120]):
            if not _introduces(lines[:index]):
                return index
        elif tries and _LATER_HEADING.match(line[:120]):
            if find_answer(lines[:index]).answer is not None:
                return index
            tries -= 1  # bounds the time
    return None


def _introduces(lines: Sequence[str]) -> bool:
    """Whether these lines only lead to a question: few, without a number, and no question themselves."""
    last = lines[-1]
    if len(lines) > 3 or not (last.endswith(":") or _LEAD_IN.match(last)) or any(map(_HEADING.match, lines)):
        return False
    return re.search("[0-9=]", "".join(lines)) is None
