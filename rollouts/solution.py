"""The one cut of a text: what of it is the solution, its steps (a line each), and the answer that it states.

Graders, rollouts, continuations, refinements and reports all use this cut; docs/reading.md has the rules with examples.
How a statement of an answer is found in the lines is in `rollouts/grading/statements.py`. Left out: comparing answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rollouts.grading.statements import find_answer, states_answer

# Special tokens that may be left in a text: what comes after the first of them is not the solution.
STOP_MARKERS = {
    "</s>": "end of text: Llama 1 and 2, Mistral",
    "<eos>": "end of text: Gemma, the embedded world's tokenizer",
    "<pad>": "padding is never part of an answer",
    "<|endoftext|>": "end of text: GPT-2, SmolLM, Qwen and Phi bases",
    "<|end_of_text|>": "end of text: Llama 3, Granite",
    "<|eot_id|>": "end of turn: Llama 3",
    "<|eom_id|>": "end of message: Llama 3 with tools",
    "<|eot|>": "end of turn: Llama 4",
    "<|EOT|>": "end of turn: DeepSeek coder",
    "<|start_header_id|>": "a new turn: Llama 3",
    "<|header_start|>": "a new turn: Llama 4",
    "<|im_end|>": "end of turn: ChatML (Qwen, SmolLM instruct)",
    "<|im_start|>": "a new turn: ChatML",
    "<end_of_turn>": "end of turn: Gemma",
    "<start_of_turn>": "a new turn: Gemma",
    "<turn|>": "end of turn: Gemma 4",
    "<|turn>": "a new turn: Gemma 4",
    "<|end|>": "end of turn: Phi 3, harmony",
    "<|channel|>": "another channel: harmony",
    "<|message|>": "another message: harmony",
    "<|return|>": "end of text: harmony",
    "<|call|>": "end of a call: harmony",
    "<|start|>": "a new turn: harmony",
    "<|user|>": "a new turn: Phi 3, Zephyr, GLM",
    "<|assistant|>": "a new turn: Phi 3, Zephyr, GLM",
    "<|system|>": "a new turn: Phi 3, Zephyr, GLM",
    "<|observation|>": "a new turn: GLM",
    "<|start_of_role|>": "a new turn: Granite",
    "<|END_OF_TURN_TOKEN|>": "end of turn: Command R",
    "<|END_RESPONSE|>": "end of turn: Command A",
    "<｜end▁of▁sentence｜>": "end of text: DeepSeek",
    "<｜User｜>": "a new turn: DeepSeek",
    "<｜Assistant｜>": "a new turn: DeepSeek",
    "[INST]": "a new turn: Llama 2, Mistral",
    "[/INST]": "a new turn: Llama 2, Mistral",
    "[EOS]": "end of text, as some tokenizers print it",
}
_MARKER = re.compile("|".join(map(re.escape, STOP_MARKERS)))

# parts in which a model thinks: (opened by, closed by)
_REASONING = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")),
    *(("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|channel>", "<channel|>")),
    *(("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>")),
)
_CLOSE = {opening.lower(): closing.lower() for opening, closing in _REASONING}
_TAG = re.compile("|".join(re.escape(tag) for pair in _REASONING for tag in pair), re.IGNORECASE)
_SPECIAL = re.compile(r"<[/|｜A-Za-z]|\[/?[A-Za-z]|◁")  # begins what is looked for below
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>")
_FINAL_WORD = re.compile(r"\bassistant\s?final")  # where the special tokens of the channels were left out

_NUMBERED = r"\s*(?:(?:no\.?|number|\#)?\s*[0-9]{1,3}[a-z]?)"
_PROBLEM_WORDS = (
    r"(?:(?:new|next|another|practice|similar|follow-?up|bonus|second)\s+)?"
    r"(?:question|problem|exercise|task|puzzle|word\s+problem|math\s+problem|q|frage|pregunta)"
)
_SPEAKERS = r"(?:user|human|assistant|system|instruction|customer|student)"
_HEADING = re.compile(
    rf"""[>*_\#\s]{{0,12}}+(?:[0-9]{{1,2}}[.)]\s{{0,4}}+)?[*_]{{0,4}}+(?:
        (?:{_PROBLEM_WORDS}(?:\s+statement)?(?:{_NUMBERED})?|example{_NUMBERED}|{_SPEAKERS})[*_]*+\s*+[:：]
       |(?:{_PROBLEM_WORDS}|example){_NUMBERED}[*_]*+\s*+(?:[.)]\s|[.)]?[*_]*+$)
       |[问題题]{{1,2}}目?\s*+[0-9]*+\s*+[:：]
    )
    |\s*+\#{{1,6}}\s*+[*_]*+(?:{_PROBLEM_WORDS}|input|response|instructions?|{_SPEAKERS})[*_]*+\s*+:?\s*+[*_]*+$
    |\s*+below\s+is\s+an\s+instruction\s+that
    """,
    re.IGNORECASE | re.VERBOSE,
)
# how a line begins that may be such a heading: to look at few lines
_BEGINNINGS = frozenset(
    "qu q q: q. q1 q2 q3 q4 q5 q6 q7 q8 q9 pr ex ta pu wo ma us hu as sy in cu st ne an si fo bo se fr be "
    "问题 問題 题目 題目 问 题 问: 题:".split()
) | {"q "}
_MARKS = frozenset("*_#> 0123456789")
# another speaker on the answer's own line, with nothing but a space before it
_GLUED = re.compile(r"(?<=[0-9.!?>)\]}*$])(?:[ \t]*(?:Human|User|Assistant)\s?:|(?:Question|Problem|Q)\s?:(?:\s|$))")
_GLUED_WORDS = ("Human", "User", "Assistant", "Question", "Problem", "Q:", "Q :")
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
    own = [line for line in map(str.strip, _solution_part(text.strip()).split("\n")) if line]
    lines = [*prefix, *own] if prefix else own
    if (end := _next_problem(lines)) is not None:
        del lines[max(end, len(prefix)) :]
    found = find_answer(lines, last_number=last_number)
    if found.begins is None:
        return Solution(tuple(lines), None, found.rule)
    begins = max(found.begins, min(len(prefix), found.ends - 1))  # no step of the prefix is changed
    steps = [*lines[:begins], " ".join(lines[begins : found.ends])]
    if (
        len(steps) < len(lines)
        and begins == found.begins
        and find_answer(steps, last_number=last_number)[:2] != found[:2]
    ):
        return Solution(tuple(lines), None, f"{found.rule}:unread")  # what stood around it made it an answer
    return Solution(tuple(steps), found.answer, found.rule)


def _solution_part(text: str) -> str:
    """What is left without what a model thinks and what comes after its end."""
    before = None
    while text != before and (_SPECIAL.search(text) or text.startswith("analysis")):
        before, text = text, _after_reasoning(text)
    if any(word in text for word in _GLUED_WORDS) and (glued := _GLUED.search(text)):
        text = text[: glued.start()]
    return text


def _after_reasoning(text: str) -> str:
    final = _FINAL_CHANNEL.search(text)
    if final and not _ends(text[: text.index("<|")]):
        text = text[final.end() :]
    elif text.startswith("analysis") and (finals := list(_FINAL_WORD.finditer(text))):
        text = text[finals[-1].end() :]
    if marker := _MARKER.search(text):
        text = text[: marker.start()]
    start, opened, kept = 0, None, ""
    for tag in _TAG.finditer(text):
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
    for index, line in enumerate(lines):  # the first line is the solution's own in any case
        begins = index and (line[0] in _MARKS or line[:2].lower() in _BEGINNINGS)
        if begins and _HEADING.match(line[:120]) and not _introduces(lines[:index]):
            return index
    return None


def _introduces(lines: Sequence[str]) -> bool:
    """Whether these lines only lead to a question: few, without a number, and no question themselves."""
    last = lines[-1]
    if len(lines) > 3 or not (last.endswith(":") or _LEAD_IN.match(last)) or any(map(_HEADING.match, lines)):
        return False
    return re.search("[0-9=]", "".join(lines)) is None
