"""Arithmetic is read as Python reads it, exactly, and nothing else is read at all."""

from __future__ import annotations

import operator
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.grading.expressions import LONGEST, fold

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def value(text: str, **options) -> Fraction | None:
    return fold(text, Fraction, lambda left, sign, right: OPERATIONS[sign](left, right), **options)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        *(("7 + 2*(5 - 3)", 11), (" 2-3-4 ", -5), ("8/4/2", 1), ("1/3", Fraction(1, 3)), ("((((5))))", 5)),
        *(("007", 7), ("0.1+0.2", Fraction(3, 10)), ("9" * 200, int("9" * 200)), ("1+" * 99 + "1", 100)),
    ],
)
def test_arithmetic(text, result):
    assert value(text) == result


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "()", "(1", "1)", "1 2", "1+", "*1", "2(3)", "(*1)", "(1)(2)", "1//2", "2**3", "1+\n2", "1\t"),
        "1.2.3",
        *("n", "n+1", "1e5", "1_000", "0x1", "1j", "1,2", "1;2", "1<2", "1%2", "~1", "+1", "-1", "1 if 1 else 2", "１"),
        *("__import__('os')", "1/0", "1/(2-2)", "1." , ".5", "'a'", "9" * (LONGEST + 1), "(" * 150 + "1" + ")" * 150),
        *("1\x00", "#1", "1#", "(" * 200, "\ud800"),
    ],
)  # fmt: skip
def test_anything_else_is_none(text):
    assert value(text) is None


def test_a_minus_before_a_number_is_read_where_it_may_stand():
    assert value("-2*-(3)", negate=operator.neg) == 6 and value("--" * 99 + "1", negate=operator.neg) == 1
    assert value("2*-3") is None


@given(st.text(st.sampled_from("0123456789+-*() "), max_size=12))
def test_it_is_what_python_comes_to(text):
    found = value(text, negate=operator.neg)
    # leading zeros are the one thing that Python does not allow
    assert found is None or found == eval(re.sub(r"(?<![0-9])0+(?=[0-9])", "", text).strip())
