"""Reads arithmetic such as `7 + 2*(5 - 3)` by Python's grammar, and never runs it.

What a number and an operation become is the caller's: an exact value, a text, a term.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LONGEST = 200  # characters: bounds the depth, and the size of the numbers
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def fold(
    text: str, number: Callable[[str], T], join: Callable[[T, str, T], T], negate: Callable[[T], T] | None = None
) -> T | None:
    """What an expression of numbers, `+ - * /`, brackets and spaces comes to; a minus before a number or bracket only
    with `negate`. None for any other text, for one over 200 characters, and where a function raises ValueError or
    ZeroDivisionError.
    """
    if len(text) > LONGEST or not set(_NUMBER.sub("", text)) <= set("+-*/() "):
        return None
    numbers = iter(_NUMBER.findall(text))

    def walk(node: ast.expr) -> T:
        if isinstance(node, ast.Name):
            return number(next(numbers))
        if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
            left = walk(node.left)  # first, as the numbers come
            return join(left, _SIGNS[type(node.op)], walk(node.right))
        if negate is not None and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return negate(walk(node.operand))
        raise ValueError(f"no arithmetic: {ast.dump(node)[:80]}")

    try:
        # a name stands for each number: Python reads 007, 0.1 and very long ones in its own ways
        return walk(ast.parse(_NUMBER.sub("n", text).strip(" "), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
