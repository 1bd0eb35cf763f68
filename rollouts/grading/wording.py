"""Takes an answer out of the words and the markup around it: `**18** (6 * 3). Let me know …` is 18.

Left out: where a text states its answer (`rollouts/grading/statements.py`), and what the answer is worth.
"""

from __future__ import annotations

import re

from rollouts.grading.numerals import _NOT_UNITS, normalise

_PAIRS = (
    *(("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("```", "```"), ("`", "`"), ('"', '"'), ("'", "'")),
    *(("“", "”"), ("‘", "’")),
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")),
)
_MARKUP = frozenset("*_`\"'$\\<“”‘’")
LONGEST = 1_000  # characters in which LaTeX is looked for: bounds the time
_SEALS = "✅✔✓☑🎉🙂😊\ufe0f\u200b\u2060\ufeff"  # behind an answer; some cannot be seen
_STYLE = re.compile(
    r"\\(?:underline|mathit|mathsf|mathtt|boldsymbol|bm|emph|textsf|texttt|(?:text)?color\{[a-z]+\})"
    r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_BEFORE = re.compile(
    r"(?:\\(?:[,;:! ]|(?:bf|it|rm|large|Large|huge|displaystyle)(?![A-Za-z])|color\{[a-z]+\})\s*)+"
    r"|\\text(?:bf|rm)?\{\s*([A-Za-z ]{2,40})(?::|=|\b(?:is|are|has))\s*\}"
)
_BEHIND = re.compile(r"(?<![\s~\\])(?:\s|~|\\(?:[,;:! \\]|q?quad|checkmark|phantom\{[^{}]*\}))*\\?$")
_EXCLAIMED = re.compile(r"(?<=[a-z]{3})!+$|(?<=\*)!+$")
_TAGS = re.compile(r"</?[A-Za-z]{1,12}>")


def clean(content: str) -> str:
    """Take off the markup around an answer and the punctuation that closes it."""
    if content.isalnum():
        return content
    if "<" in content:
        content = _TAGS.sub(" ", content)
    for _ in range(4):  # such as **$18$.**: more layers than this nobody writes
        before = content
        if "\\" in content and len(content) <= LONGEST:
            content = _plain_style(content)
        content = content.strip().strip(_SEALS).lstrip(":=： ").rstrip(",; ").strip()
        if content.endswith(".") and not content.endswith(".."):
            content = content[:-1]
        elif content.endswith("!"):
            content = _EXCLAIMED.sub("", content)
        elif content.endswith("##"):
            content = content.rstrip("#")
        elif content.startswith("..."):
            content = content.lstrip(".")
        if content and (content[0] in _MARKUP or content[-1] in _MARKUP):
            content = _unwrap(content)
        if content == before:
            break
    return content


def _plain_style(content: str) -> str:
    """Take off colours, fonts and spaces of LaTeX, and a label set as text (`\\text{Total: }18`)."""
    if (whole := _STYLE.fullmatch(content.strip())) is not None:
        content = whole[1]
    before = _BEFORE.match(content)
    if before and (not before[1] or _NOT_UNITS.isdisjoint(before[1].lower().split())):
        content = content[before.end() :]
    behind = _BEHIND.search(content)
    return content[: behind.start()] if behind else content


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
_SUBJECT = re.compile(
    r"[*_\s]*(?:that\b|:?\s*[Tt]here\s+(?:are|is|were|will\s+be)\b"
    r"|(?=[A-Z][a-z]+(?:\s[a-z]+){0,2}\s(?:is|are|was|were|has|have|had|needs?|gets?|costs?|takes?"
    r"|weighs?|makes?|made|earns?|earned|saves?|saved|paid|spent)\s))"
    r"([A-Za-z' ]*?)(?=[*_]{0,2}[$€£¥]?[0-9.])"
)
_ARITHMETIC = re.compile(
    r"[-+*/×÷·().,$€£%\s0-9]|\\(?:times|cdot|div|d?frac|left|right|[$%,;!() ])|[{}]|<<|>>"
    r"|(?<=[0-9])x(?=[0-9])|(?<=[0-9] )x(?= [0-9])"
)
_WORDS = re.compile(r"[A-Za-z' ]{3,60}")
_SET_AS_TEXT = re.compile(r"\\(?:text|mathrm)\{([^{}]*)\}")
_NO_ASIDE = frozenset("or not maybe perhaps about approximately roughly wait no wrong incorrect actually".split())


def shorten(content: str) -> tuple[str, str]:
    """The answer in what follows a statement's mark, and the rest, in which it may be taken back.

    Only words around one number are left out, such as reasons, asides and further sentences; what stays unreadable is
    left as it is.
    """
    content, rest = content.strip(), ""
    if end := _SENTENCE_END.search(content):
        content, rest = content[: end.start()], content[end.start() :]
    if len(content) > 400 or (" " not in content and "=" not in content) or _value(content) is not None:
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
        short = right_side(content)
    return (short, rest) if short and _value(short) is not None else (content, rest)


def right_side(content: str) -> str | None:
    """The number that arithmetic or a name comes to: 8 of `5 + 3 = 8`; None where nothing of the kind is said."""
    before, equals, short = content.rpartition("=")
    if not equals or not _left_side(before.rstrip("= ")):
        return None
    if (aside := _ASIDE.search(short)) and _harmless(aside):
        short = short[: aside.start()]
    return short if _value(short) is not None else None


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
    left = clean(_SET_AS_TEXT.sub(r"\1", text.rpartition("=")[2]))
    if re.search("[0-9]", left):
        return not _ARITHMETIC.sub("", left).strip()
    return _WORDS.fullmatch(left) is not None and _NOT_UNITS.isdisjoint(left.lower().split())
