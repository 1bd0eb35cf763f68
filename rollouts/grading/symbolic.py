"""Compares answers that are not both plain numbers: as text, as lists, and through math-verify in other processes.

math-verify guesses where it should refuse (it reads `12:30` as 12/30, `3 4` as 7, `2t` as 2 of a unit), so only what is
wholly mathematics goes to the prover (`rollouts/grading/prover.py`), a process of its own that is asked by pipe. Left
out: plain numbers (`rollouts/grading/numerals.py`).
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

from rollouts.grading.numerals import normalise

MAX_LENGTH = 300  # characters that are parsed; the longest answer of MATH is shorter
MAX_ITEMS = 32  # of a list, whose items are compared each with each

Verdict = tuple[bool | None, str]  # right, wrong or undecided; and how (see `answers.Grade`)


def compare(answer: str, reference: str, *, reference_is_number: bool) -> Verdict:
    """Compare two answers of which at least one is no plain number.

    Raises:
        RuntimeError: the prover cannot be started here.
    """
    left, right = spelling(answer), spelling(reference)
    if left == right and not reference_is_number:
        return True, "text"
    if not _is_mathematics(_listed(right)):
        return False, "text"
    if not _is_mathematics(_listed(left)):
        return False, "unread"
    left, right = _unassigned(_listed(left), _listed(right))
    if left.count("=") != right.count("=") or left.count("=") > 1:
        return False, "unread"
    if right[0] in "([":
        left = _interval(left)
    elif left[0] in "([":
        right = _interval(right)
    (brackets, items), (expected_brackets, expected) = _items(left), _items(right)
    if not brackets and not expected_brackets:
        items, expected = _signed(items), _signed(expected)
    if max(len(items), len(expected)) == 1:
        return _verdict(items, expected, True, "symbolic")
    if brackets != expected_brackets or len(items) != len(expected) or len(items) > MAX_ITEMS:
        return False, "list"
    return _verdict(items, expected, bool(brackets), "list")


def _verdict(items: list[str], expected: list[str], ordered: bool, how: str) -> Verdict:
    outcome = _ask({"items": items, "expected": expected, "ordered": ordered})
    known = {"right": (True, how), "wrong": (False, how), "unread": (False, "unread")}
    return known.get(outcome, (None, outcome))


_SYMBOLS = str.maketrans(
    {"−": "-", "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "·": "\\cdot ", "≤": "\\le ", "≥": "\\ge "}
    | {"±": "\\pm ", "∓": "\\mp ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset "}
    | {"²": "^{2}", "³": "^{3}", "÷": "/", "\u2044": "/"}
)
_LAYOUT = re.compile(r"(\\\\)|\\(?:left|right|displaystyle|q?quad)(?![A-Za-z])|\\[,;:! ]|\\?\$|(?<=.)~")
_UNIT = re.compile(r"(?<=.)(?:\\(?:text|textrm|mathrm|mbox)\{\s*[A-Za-z][A-Za-z. ]*\}(?:\^\{?[23]\}?)?|\\?%)\.?$")
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
# a space that parts nothing; that between two digits, or a digit and a point, does: `3 4` is not 34
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z.]) | (?![0-9A-Za-z.])")
_LISTED = re.compile(r"(?<=[0-9}\])A-Za-z])\s*,?\s*\b(?:and|or)\b\s*(?=[-+0-9\\(\[A-Za-z])")
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\*\*", "^"),
        (r"^\(([A-Za-z])\)$", r"\1"),  # a choice
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\varnothing", r"\\emptyset"),
        (r"\\colon", ":"),
        (r"(?<![A-Za-z\\])sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"^\{([^{}]*,[^{}]*)\}$", r"\\{\1\\}"),
        (r"^([0-9]+) to ([0-9]+)$", r"\1:\2"),  # a ratio
        (r"(?i)^([0-9]{1,2}(?::[0-9]{2})?) ?([ap])\.? ?m\.?$", r"\1 \2m"),
        (r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9])(?![0-9])", r"\\sqrt{\1}"),
        (r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^\(([^()]*)\)", r"^{\1}"),
        (r"([\^_])([0-9A-Za-z])(?![0-9A-Za-z])", r"\1{\2}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
    )
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]+|[0-9:]+ [APap]m")  # also a time


def spelling(answer: str) -> str:
    """One spelling for what only differs in layout; units at the end are dropped, as with plain numbers."""
    if len(answer) > MAX_LENGTH:
        return answer
    answer = _LAYOUT.sub(lambda layout: layout[1] or " ", answer.translate(_SYMBOLS)).strip()
    answer = _TEXT.sub(r" \1 ", _UNIT.sub("", answer))
    for pattern, replacement in _SPELLINGS:
        answer = pattern.sub(replacement, answer)
    answer = _LOOSE_SPACE.sub("", " ".join(answer.split()))
    return answer.casefold() if _WORDS.fullmatch(answer) else answer


_COMMANDS = (
    "frac|sqrt|binom|pi|infty|emptyset|cdot|times|div|pm|cup|cap|mp|in|le|leq|ge|geq|lt|gt|sin|cos|tan|cot|sec|csc|arcsin"
    "|arccos|arctan|log|ln|exp|alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|lfloor|rfloor|lceil|rceil"
)
_TOKEN = re.compile(
    rf"\\(?:{_COMMANDS})(?![A-Za-z])|\\[\\{{}}|]|(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(?P<letters>[A-Za-z]+)"
    r"|(?P<space> )|[-+*/^_=<>()\[\]{},|!&]"
)
_MIXED = re.compile(r"[0-9]\\frac\{[0-9]+\}\{[0-9]")  # 2\frac{3}{4}\pi: is it a sum or a product?
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[pbv]?matrix\}")


def _is_mathematics(text: str) -> bool:
    """Is all of `text` notation that math-verify reads as a person does?

    Refused: words, unknown signs, and neighbours that it merges or splits (`3 4`, `x2`, `1e3`, `\\sqrt12`, `10_5`).
    """
    text = _ENVIRONMENT.sub("", text)
    if not text or len(text) > MAX_LENGTH or text.startswith("--") or _MIXED.search(text):
        return False
    tokens, end = [], 0
    while end < len(text):
        token = _TOKEN.match(text, end)
        if token is None or (len(token["letters"] or "") > 2 and not set(token[0]) <= set("xyz")):
            return False
        tokens.append(token)
        end = token.end()
    if len(text) > 1 and all(token["letters"] or token["space"] for token in tokens):
        return False
    solid = [token for token in tokens if not token["space"]]
    return not any(_misread(first, second) for first, second in pairwise(solid))


def _misread(first: re.Match[str], second: re.Match[str]) -> bool:
    if second["number"]:
        return bool(first["number"] or first["letters"]) or first[0] in ("\\frac", "\\sqrt", "\\binom")
    if second[0] == "_":  # 10_{5} is a number in base 5, not 10
        return not first["letters"] and first[0] != "\\log"
    return first[0] in ("e", "E") and second[0] in "+-"


_ASSIGNED = re.compile(r"(?:([A-Za-z])(?:\([A-Za-z]\))?=|([A-Za-z])\\in(?![A-Za-z]))\s*(?=[^=]+$)")
_ITEM = re.compile(r"(?:^|,)([A-Za-z])(?:_\{[0-9]\})?=")
_CHAIN = re.compile(r"([^<>=,]+?)(<|\\leq? ?)([A-Za-z])(<|\\leq? ?)([^<>=,]+)")


def _listed(text: str) -> str:
    """`x=1 or x=2` and `x=1,2` as a list, `1,2`; with one variable only."""
    text = _LISTED.sub(",", text)
    if "=" in text and "," in text:
        names = {name[1] for name in _ITEM.finditer(text)}
        bare = _ITEM.sub(lambda item: "," if item[0][0] == "," else "", text)
        if len(names) == 1 and "=" not in bare and (text[1] == "=" or text.count("=") == bare.count(",") + 1):
            return bare
    return text


def _interval(text: str) -> str:
    """`-2<x<3` as `(-2,3)`."""
    chain = _CHAIN.fullmatch(text)
    return f"{'[('[chain[2] == '<']}{chain[1]},{chain[5]}{'])'[chain[4] == '<']}" if chain else text


def _signed(items: list[str]) -> list[str]:
    """`\\pm a` is two answers, and so is `b\\pm a`."""
    return [
        item.replace("\\pm", sign).replace("\\mp", "-" if sign == "+" else "+").removeprefix("+")
        for item in items
        for sign in ("+-" if "\\pm" in item else "+")
    ]


def _unassigned(left: str, right: str) -> tuple[str, str]:
    """Drop `x =` or `x \\in`, unless both say it of different names."""
    starts = _ASSIGNED.match(left), _ASSIGNED.match(right)
    if starts[0] and starts[1] and starts[0][0] != starts[1][0]:
        return left, right
    return tuple(text[start.end() :] if start else text for text, start in zip((left, right), starts, strict=True))


def canonical(answer: str) -> str | tuple[object, ...]:
    """An answer in one spelling; a list of plain numbers as its values, sorted unless it is in brackets."""
    text = _listed(spelling(answer))
    start = _ASSIGNED.match(text)
    text = text[start.end() :] if start else text
    if not _is_mathematics(text):
        return text
    brackets, items = _items(text)
    values = [normalise(item) for item in _signed(items)]
    if None in values:
        return text
    if len(values) == 1 and not brackets:
        return values[0]
    return brackets, *(values if brackets else sorted(values))


def _items(text: str) -> tuple[str, list[str]]:
    """Cut a list at its outer commas: its brackets (none for a bare list or a set) and its items."""
    depth, parts, outer = 0, [0], text[0] in "([\\"
    for index, sign in enumerate(text):
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
            outer = outer and (depth > 0 or index == len(text) - 1)
        elif sign == "," and depth == 0:
            parts.append(index + 1)
    if len(parts) > 1:
        return "", [text[start : end - 1] for start, end in pairwise([*parts, len(text) + 1])]
    is_set = text.startswith("\\{") and text.endswith("\\}")
    if not outer or depth or not (is_set or (text[0] in "([" and text[-1] in ")]")):
        return "", [text]
    _, items = _items(text[2:-2] if is_set else text[1:-1]) if len(text) > 4 else ("", [text])
    return ("" if is_set else text[0] + text[-1]), items


PATIENCE = 120.0  # seconds for a reply; the prover keeps the deadline itself, so only a stuck machine takes this long

_lock = threading.Lock()  # one question at a time
_prover: _Prover | None = None


def warm_up() -> None:
    """Start the prover unless it runs; see `answers.warm_up`.

    Raises:
        RuntimeError: it does not start.
    """
    with _lock:
        _live_prover()


def _ask(question: dict[str, object]) -> str:
    with _lock:
        for _ in range(3):  # somebody may kill it: it is not the answer's fault
            reply = _live_prover().ask(json.dumps(question))
            if reply:
                return reply
            _close()
    return "crash"


def _live_prover() -> _Prover:
    global _prover
    if _prover is None:
        _prover = _Prover()
        if _prover.read() != "ready":
            _close()
            raise RuntimeError(
                f"cannot start the prover ({sys.executable} -m rollouts.grading.prover): see its error above"
            )
    return _prover


def _close() -> None:
    global _prover
    if _prover is not None:
        _prover.close()
        _prover = None


def _forget() -> None:
    """In a forked child: the prover is the parent's."""
    global _lock, _prover
    _lock, _prover = threading.Lock(), None


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)


class _Prover:
    """The prover's process and its two pipes, unbuffered, so that a fork copies nothing half-written.

    A process of our own program, not of multiprocessing: the caller may be daemonic, forked, or an unguarded
    script that imports torch, and may hold threads or a GPU.
    """

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollouts.grading.prover"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the caller; the end of its pipe ends the prover
        )

    def ask(self, line: str) -> str:
        """The reply, or nothing if the prover is gone."""
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            return ""
        return self.read()

    def read(self) -> str:
        """The next line, or nothing if the prover is gone or stuck."""
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            chunk = self.process.stdout.read(4096) if poll.poll(PATIENCE * 1000) else b""
            if not chunk:
                return ""
            line += chunk
        return line.decode().strip()

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
