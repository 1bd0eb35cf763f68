"""The only grader: finds the final answer in a text and compares it with the reference, exactly.

Plain numbers are compared as fractions here; text, lists and expressions go to `rollouts/grading/symbolic.py`.
No text is evaluated as code and none raises. What cannot be read as a whole is wrong, because a wrong
answer taken for right poisons labels, while a miss only costs a sample. Left out: how steps are judged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rollouts.grading import choices, symbolic
from rollouts.grading.numerals import normalise

STOP_MARKERS = {
    "</s>": "end of text: Llama 1 and 2, Mistral",
    "<eos>": "end of text: Gemma, the embedded world's tokenizer",
    "<pad>": "padding is never part of an answer",
    "<|endoftext|>": "end of text: GPT-2, SmolLM, Qwen and Phi bases",
    "<|end_of_text|>": "end of text: Llama 3",
    "<|eot_id|>": "end of turn: Llama 3",
    "<|eom_id|>": "end of message: Llama 3 with tools",
    "<|start_header_id|>": "a new turn: Llama 3",
    "<|im_end|>": "end of turn: ChatML (Qwen, SmolLM instruct)",
    "<|im_start|>": "a new turn: ChatML",
    "<end_of_turn>": "end of turn: Gemma",
    "<start_of_turn>": "a new turn: Gemma",
    "<|end|>": "end of turn: Phi 3",
    "<|user|>": "a new turn: Phi 3, Zephyr",
    "<｜end▁of▁sentence｜>": "end of text: DeepSeek",
    "[INST]": "a new turn: Llama 2, Mistral",
    "\nQuestion:": "a base model goes on with a new problem",
    "\nQ:": "a base model goes on with a new problem",
    "\nProblem:": "a base model goes on with a new problem",
    "\nUser:": "a base model goes on with the other speaker",
    "\nHuman:": "a base model goes on with the other speaker",
    "\n### Instruction": "a base model goes on with a new Alpaca prompt",
}

UNGRADED = frozenset({"timeout", "crash", "undecided", "no_reference"})

WINDOW = 16_384  # a statement with this much text after it is not final; it also bounds the time for huge texts
MAX_ANSWER = 1_000  # no reference of the known sets is a third as long; longer is a runaway generation


@dataclass(frozen=True, slots=True)
class Grade:
    """The grader's word on one text: is it right, what it answered, and the rule that said so.

    `rule` is `WHERE:HOW`, or one of the words below. WHERE is the rule that found the answer: boxed, hash
    (`####`), answer_is, last_number. HOW is number (both plain: compared as fractions), choice, text, list,
    symbolic (math-verify), or why a found answer is wrong: unread (neither a number nor comparable as a whole,
    such as "10 … Wait, 12"), empty, unclosed (box), too_long, retracted ("wait", "actually" … come after).
    none: nothing was found, which is wrong whatever the reference.
    timeout, crash, undecided (symbolic comparison), no_reference (it is empty): not graded, see `graded`.
    """

    correct: bool
    answer: str | None
    rule: str

    @property
    def graded(self) -> bool:
        """False where the grader could not decide; `correct` is False then, and means nothing."""
        return self.rule not in UNGRADED


def grade(text: str, reference: str, *, last_number: bool = False) -> Grade:
    """Grade the final answer of `text` against `reference` (an answer, not a solution).

    `last_number` lets the last number of the text count where nothing states an answer: for evaluation of
    models that state none, never for labels. Takes microseconds for plain numbers; what is not a plain number
    may take `prover.DEADLINE` seconds, and the first such call starts the prover's processes (`warm_up`).

    Raises:
        RuntimeError: the prover cannot be started on this machine; never because of the texts.
    """
    answer, where = extract(text, last_number=last_number)
    if answer is None:
        return Grade(False, None, where)
    reference = _clean(reference)
    if not reference:
        return Grade(False, answer, "no_reference")
    if (right := choices.parse_choice(reference)) is not None:
        return Grade(choices.is_chosen(answer, right), answer, f"{where}:choice")
    value, expected = normalise(answer), normalise(reference)
    if value is not None and expected is not None:
        return Grade(value == expected, answer, f"{where}:number")
    if where == "last_number":  # nothing stated it, so it gets no benefit of the doubt
        return Grade(False, answer, "last_number:unread")
    correct, how = symbolic.compare(answer, reference, reference_is_number=expected is not None)
    return Grade(False, answer, how) if correct is None else Grade(correct, answer, f"{where}:{how}")


def warm_up() -> None:
    """Start the prover now (about a second), so that no first call to `grade` waits for it.

    Raises:
        RuntimeError: it cannot be started.
    """
    symbolic.warm_up()


def extract(text: str, *, last_number: bool = False) -> tuple[str | None, str]:
    """Find the final answer: the last box, else the last `####`, else the last "the answer is", else nothing.

    Returns the answer without markup and closing punctuation, and the rule (see `Grade`); the answer is None
    where there is none to trust. `last_number` adds the last number of the text as the last resort.
    """
    for marker in STOP_MARKERS:
        cut = text.find(marker)
        if cut >= 0:
            text = text[:cut]
    text = text[-WINDOW:]
    found = _boxed(text) or _hash(text) or _answer_is(text) or (_last_number(text) if last_number else None)
    if found is None:
        return None, "none"
    content, after, where = found
    if content is None:
        return None, f"{where}:unclosed"
    if len(content) > MAX_ANSWER:
        return None, f"{where}:too_long"
    answer = _clean(content)
    if not answer:
        return None, f"{where}:empty"
    if _retracted(after):
        return None, f"{where}:retracted"
    return answer, where


Found = tuple[str | None, str, str]  # content (None: not closed), the text after it, the rule

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([0-9]+)(?![0-9A-Za-z]|[.,/:][0-9]))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER_IS = re.compile(r"\banswer is\b|\bfinal answer\s?:|# ?answer\s?:", re.IGNORECASE)
_HEADING = re.compile(r"\s*[A-Za-z]{2,}[:\s]\s*\S")


def _boxed(text: str) -> Found | None:
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    box = _BOX.match(text, start)
    if box is None:
        return None, "", "boxed"
    if box[1]:
        return box[1], text[box.end() :], "boxed"
    depth = 1
    for brace in _BRACE.finditer(text, box.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[box.end() : brace.start()], text[brace.end() :], "boxed"
    return None, "", "boxed"


def _hash(text: str) -> Found | None:
    start = text.rfind("####")
    if start < 0:
        return None
    content, _, after = text[start + 4 :].partition("\n")
    if _HEADING.match(content) and _ANSWER_IS.search(text, start):
        return None  # a Markdown heading ("#### Step 3"), and the answer is stated in it or below
    return content, after, "hash"


def _answer_is(text: str) -> Found | None:
    stated = list(_ANSWER_IS.finditer(text))
    if not stated:
        return None
    content, _, after = text[stated[-1].end() :].partition("\n")
    if not content.strip(" \t\r:*_") and "\n" not in after.strip():
        content, after = after, ""  # it stands alone on the last line
    content = content.partition("I hope it is correct")[0]  # Minerva's prompt teaches to close so
    return content, after, "answer_is"


_RETRACTIONS = (
    *("wait", "actually", "oops", "hmm", "correction", "mistake", "sorry", "scratch that", "incorrect"),
    *("recheck", "let me re", "should be", "not right", "not correct", "is wrong"),
)
_RETRACTION = re.compile(rf"(?<![a-z])(?:wait(?![a-z])|{'|'.join(_RETRACTIONS[1:])})")  # not waiters


def _retracted(after: str) -> bool:
    after = after.lower()
    return any(word in after for word in _RETRACTIONS) and _RETRACTION.search(after) is not None


def _last_number(text: str) -> Found | None:
    """The last word with a digit in it; `grade` counts it only if all of it is one number (not 12:30 or x2)."""
    digit = max(text.rfind(digit) for digit in "0123456789")
    if digit < 0:
        return None
    start = max(text.rfind(space, 0, digit) for space in " \t\r\n") + 1
    word = text[start:].split(maxsplit=1)[0].rpartition("=")[2].lstrip("([*").rstrip(".,;:?)]*")
    whole = re.search(r"(?:^|\s)(-?[0-9]+) $", text[max(0, start - 20) : start])
    return (f"{whole[1]} {word}" if whole and "/" in word else word), "", "last_number"


_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ('"', '"'), ("'", "'")),
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
)


def _clean(content: str) -> str:
    """Take off the markup around an answer and the punctuation that closes it."""
    for _ in range(4):  # such as **$18$.**: more layers than this nobody writes
        before = content
        content = content.strip().lstrip(":= ").rstrip(",; ")
        if content.endswith(".") and not content.endswith(".."):
            content = content[:-1]
        for left, right in _PAIRS:
            inner = content[len(left) : len(content) - len(right)]
            closed = content.startswith(left) and content.endswith(right) and len(content) > len(left + right)
            if closed and left not in inner.replace("\\$", ""):
                content = inner
        if content == before:
            break
    return content
