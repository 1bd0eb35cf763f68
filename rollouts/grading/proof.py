"""Compares lists of LaTeX expressions: math-verify parses; values are compared here, exactly, and not to six places as
it does. It may take for ever, or all memory: only the prover's workers call it.
"""

from __future__ import annotations

from typing import Any


def compare(items: list[str], expected: list[str], ordered: bool) -> str:
    """Compare two lists of LaTeX expressions: right, wrong, unread or undecided. Unordered, they match as multisets."""
    left, right = [_parse(item) for item in items], [_parse(item) for item in expected]
    if any(item is None for item in right):
        return "undecided"
    if any(item is None for item in left):
        return "unread"
    if ordered:
        found = [_equal(*pair) for pair in zip(left, right, strict=True)]
        return "wrong" if False in found else "undecided" if None in found else "right"
    for item in left:
        found = [_equal(item, other) for other in right]
        if True not in found:
            return "undecided" if None in found else "wrong"
        del right[found.index(True)]
    return "right"


def _parse(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    as_written = NormalizationConfig(basic_latex=False, boxed="none")  # its repairs change values
    config = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=as_written)
    found = parse(f"${latex}$", [config], "no_fallback", "first_match", parsing_timeout=None)
    return found[0] if found else None


def _equal(left: Any, right: Any) -> bool | None:
    """Compare two sympy objects exactly; None where sympy can neither prove nor refute it."""
    from math_verify import verify
    from sympy import Expr, MatrixBase
    from sympy.core.relational import Relational

    if isinstance(left, Relational) and isinstance(right, Relational):
        return _same_relation(left, right)
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        found = [left.shape == right.shape, *map(_same_value, left.flat(), right.flat())]
        return False if False in found else None if None in found else True
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _same_value(left, right)
    return verify(right, left, timeout_seconds=None)  # sets, intervals, chains of inequalities


def _same_value(left: Any, right: Any) -> bool | None:
    from sympy import nan, simplify, zoo

    left, right = _exact(left), _exact(right)
    if left.has(nan, zoo) or right.has(nan, zoo):
        return None if right.has(nan, zoo) else False
    difference = left - right
    if left == right or difference == 0:
        return True
    equal = difference.equals(0)
    if equal is None:
        equal = True if simplify(difference) == 0 else _refuted(difference)
    return equal


def _refuted(difference: Any) -> bool | None:
    """False if the difference is not zero at some point, for what sympy leaves open (|x| - x)."""
    from sympy import Rational

    symbols = sorted(difference.free_symbols, key=str)
    for first in (Rational(7, 5), Rational(-7, 5)):
        point = {symbol: first + Rational(index, 3) for index, symbol in enumerate(symbols)}
        value = difference.subs(point).evalf(30)
        if value.is_number and value.is_finite and abs(value) > 1e-9:
            return False
    return None


def _exact(expression: Any) -> Any:
    from sympy import Float, Rational

    evaluated = expression.doit()
    return evaluated.xreplace({number: Rational(str(number)) for number in evaluated.atoms(Float)})


def _same_relation(left: Any, right: Any) -> bool | None:
    """Two equations are the same if their differences are in a fixed ratio; inequalities, in a positive one."""
    from sympy import Eq, simplify

    is_equation = isinstance(left, Eq)
    if is_equation != isinstance(right, Eq) or left.rel_op.strip("<>") != right.rel_op.strip("<>"):
        return False
    sides = [(item.lhs, item.rhs) if is_equation else (item.gts, item.lts) for item in (left, right)]
    first, second = (_exact(greater) - _exact(less) for greater, less in sides)
    if second == 0:
        return first == 0
    ratio = simplify(first / second)
    return bool(ratio.is_number and ratio.is_finite and (ratio.is_positive or (is_equation and ratio.is_nonzero)))
