"""Takes an answer out of the words and the markup around it: `**18** (6 * 3). Let me know …` is 18.

Left out: where a text states its answer (`rollouts/grading/statements.py`), and what the answer is worth.
"""

from __future__ import annotations

import re

from rollouts.grading.numerals import _NOT_UNITS, normalise

_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ('"', '"'), ("'", "'")),
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
)
_MARKUP = frozenset("*_`\"'$\\<")
_TAGS = re.compile(r"</?[A-Za-z]{1,12}>")


def clean(content: str) -> str:
    """Take off the markup around an answer and the punctuation that closes it."""
    if "<" in content:
        content = _TAGS.sub(" ", content)
    for _ in range(4):  # such as **$18$.**: more layers than this nobody writes
        before = content
        content = content.strip().lstrip(":=： ").rstrip(",; ")
        if content.endswith(".") and not content.endswith(".."):
            content = content[:-1]
        if content and (content[0] in _MARKUP or content[-1] in _MARKUP):
            content = _unwrap(content)
        if content == before:
            break
    return content


def _unwrap(content: str) -> str:
    for left, right in _PAIRS:
        inner = content[len(left) : len(content) - len(right)]
        closed = content.startswith(left) and content.endswith(right) and len(content) > len(left + right)
        if closed and left not in inner.replace("\\$", ""):
            content = inner
        elif left == right and left != "$" and content.count(left) == 1 and len(content) > len(left):
            content = content.removesuffix(left).removeprefix(left)  # the other one stood before the sentence
    return content


_SENTENCE_END = re.compile(
    r"(?<=[^.\s])(?<![A-Z])(?<!\bRs)(?<!\bNo)[.!](?=[*_\"')\]]*\s+[*_\"'(]*[A-Z])|\s+(?=I hope it is correct)"
)
_REASON = re.compile(r"[,;]?\s*\b(?:because|since|as\s+(?=[0-9$a-z])|which\s+(?:is|means)|given\s+that)\b|[,;]\s*so\b")
_ASIDE = re.compile(r"\s*\(([^()]{1,80})\)[\s.*]*$")
_PER = re.compile(r"\s+(?:per|every|each|for\s+every)\s+[0-9]+\s+[A-Za-z]+$")
_SUBJECT = re.compile(r"\s*(?:that|:?\s*there\s+(?:are|is|were|will\s+be))\b([A-Za-z' ]*?)(?=[$€£¥]?[0-9.])")
_ARITHMETIC = re.compile(
    r"[-+*/×÷·().,$€£%\s0-9]|\\(?:times|cdot|div|d?frac|left|right|[$%,;!() ])|[{}]|<<|>>"
    r"|(?<=[0-9])x(?=[0-9])|(?<=[0-9] )x(?= [0-9])"
)
_WORDS = re.compile(r"[A-Za-z' ]{3,60}")
_NO_ASIDE = frozenset("or not maybe perhaps about approximately roughly wait no wrong incorrect actually".split())


def shorten(content: str) -> tuple[str, str]:
    """The answer in what follows a statement's mark, and the rest, in which it may be taken back.

    Only words around one number are left out, such as reasons, asides and further sentences; what stays unreadable is
    left as it is.
    """
    content, rest = content.strip(), ""
    if end := _SENTENCE_END.search(content):
        content, rest = content[: end.start()], content[end.start() :]
    if len(content) > 400 or " " not in content or _value(content) is not None:
        return content, rest
    for pattern in (_REASON, _ASIDE, _PER):
        found = pattern.search(content)
        if found and found.start() and _harmless(found) and _value(content[: found.start()]) is not None:
            return content[: found.start()], content[found.start() :] + rest
    if (reason := _REASON.search(content)) and reason.start():
        content, rest = content[: reason.start()], content[reason.start() :] + rest
    if (subject := _SUBJECT.match(content)) and _NOT_UNITS.isdisjoint(re.findall("[a-z]+", _tail(subject[1]))):
        short = content[subject.end() :]
    else:
        before, equals, short = content.rpartition("=")
        if not equals or not _left_side(before.rstrip("= ")):
            return content, rest
        if (aside := _ASIDE.search(short)) and _harmless(aside):
            short = short[: aside.start()]
    return (short, rest) if _value(short) is not None else (content, rest)


def _value(content: str) -> object:
    return normalise(clean(content))


def _harmless(found: re.Match[str]) -> bool:
    """Whether what is left out casts no doubt."""
    words = found.group().lower()
    return _NO_ASIDE.isdisjoint(re.findall("[a-z]+", words)) and not re.search(
        r"\b(?:hundred|thousand|[mb]illion|dozen)s?\b", words
    )


def _tail(subject: str) -> str:
    """What is said before the number, without the verb: `she has` must not hide `half of` or `not`."""
    return re.sub(r"\b(?:is|was|are|were)\b", " ", subject.lower())


def _left_side(text: str) -> bool:
    """Whether what stands before the last equals sign is arithmetic, or the words for what was asked."""
    left = clean(text.rpartition("=")[2])
    if re.search("[0-9]", left):
        return not _ARITHMETIC.sub("", left).strip()
    return _WORDS.fullmatch(left) is not None and _NOT_UNITS.isdisjoint(left.lower().split())
