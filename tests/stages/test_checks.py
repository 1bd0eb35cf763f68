"""Checks of settings: each names the setting, and lets None and the edges of a range through as it should."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stages.checks import check_choices, check_least, check_range


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        (0, "[0, 1)", True), (1, "[0, 1)", False), (1.0, "(0, 1]", True), (0.0, "(0, 1]", False),
        (0.5, "(0, 1)", True), (float("inf"), "(0, inf)", False), (float("inf"), "(0, inf]", True),
        (-1, "[0, inf)", False), (float("nan"), "[0, inf]", False), (None, "[0, 1]", True),
    ],
)  # fmt: skip
def test_a_number_must_be_in_its_range(value, wanted, fits):
    args = SimpleNamespace(share=value)
    if fits:
        check_range(args, share=wanted)
        return
    with pytest.raises(ValueError) as error:
        check_range(args, "food.", share=wanted)
    assert str(error.value) == f"food.share must be in {wanted}, not {value}"


def test_a_group_stands_before_the_name():
    args = SimpleNamespace(eggs=0, way="raw")
    with pytest.raises(ValueError, match=r"^food\.eggs must be at least 1, not 0$"):
        check_least(args, "food.", eggs=1)
    with pytest.raises(ValueError, match=r"^food\.way='raw' is none of fried, boiled$"):
        check_choices(args, "food.", way=("fried", "boiled"))
