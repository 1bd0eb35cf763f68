"""Arithmetic expressions as terms that do not depend on the order in which sums and products are written.

Whole numbers, + - * / and brackets, computed exactly and never run as code. `svamp.py` parses equations to write them
out again; here it is what they mean that counts.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

# An expression is a number, or a kind (+ or *) with its parts: how often each is added or subtracted, or multiplied
# or divided by. So 3+4 and 4+3 are the same, 7+(5-2) and 7+5-2 too, and 12/3 and 3/12 are not.

_Part = tuple[int, "Term"]  # 1 or -1, and what is added (multiplied) or subtracted (divided by)
Parts = frozenset[tuple[_Part, int]]  # with how often it is
Term = int | tuple[str, Parts]

_BINDS = {"+": 0, "-": 0, "*": 1, "/": 1}


def parse_expression(text: str) -> tuple[Fraction | int, Term] | None:
    """The value and the term of an expression of whole numbers, + - * / and brackets; None where it is not one."""
    operands: list[tuple[Fraction | int, Term]] = []
    waiting: list[str] = []  # operations and open brackets
    starts = True  # where a number or a bracket must start
    tokens = ["(", *re.findall(r"[0-9]+|[^ ]", text), ")"]
    for i, token in enumerate(tokens):
        if starts:
            if token == "(":
                waiting.append(token)
            elif token.isdecimal():
                operands.append((int(token), int(token)))
                starts = False
            else:
                return None
        elif token == ")" or token in _BINDS:
            while waiting[-1] != "(" and _BINDS[waiting[-1]] >= _BINDS.get(token, 0):
                right, left = operands.pop(), operands.pop()
                joined = _join(left, waiting.pop(), right)
                if joined is None:
                    return None
                operands.append(joined)
            if token in _BINDS:
                waiting.append(token)
                starts = True
            else:
                waiting.pop()
                if not waiting:
                    return operands[0] if i == len(tokens) - 1 else None
        else:
            return None
    return None


def _join(
    left: tuple[Fraction | int, Term], operation: str, right: tuple[Fraction | int, Term]
) -> tuple[Fraction | int, Term] | None:
    if operation == "+":
        return left[0] + right[0], _combine("+", left[1], 1, right[1])
    if operation == "-":
        return left[0] - right[0], _combine("+", left[1], -1, right[1])
    if operation == "*":
        return left[0] * right[0], _combine("*", left[1], 1, right[1])
    if right[0] == 0:
        return None
    return Fraction(left[0]) / right[0], _combine("*", left[1], -1, right[1])


def _combine(kind: str, left: Term, sign: int, right: Term) -> Term:
    parts: Counter[_Part] = Counter()
    for outer, term in ((1, left), (sign, right)):
        if isinstance(term, tuple) and term[0] == kind:
            for (inner, part), times in term[1]:
                parts[outer * inner, part] += times
        else:
            parts[outer, term] += 1
    return kind, frozenset(parts.items())


def drop(parts: Parts, part: _Part) -> set[Parts]:
    """The parts without one of `part`; nothing where there is none."""
    left = dict(parts)
    if part not in left:
        return set()
    left[part] -= 1
    return {frozenset((key, times) for key, times in left.items() if times)}


def collapse(kind: str, parts: Parts) -> Term:
    if len(parts) == 1:
        (((sign, part), times),) = parts
        if sign == times == 1:
            return part
    return kind, parts
