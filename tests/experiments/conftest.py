"""A synthetic run and its report, for all tests of reports."""

from __future__ import annotations

import pytest

from refine.report.build import build_report
from refine.report.inputs import ReportInputs
from tests.experiments.synthetic import synthetic_inputs


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return synthetic_inputs()


@pytest.fixture(scope="module")
def report(inputs) -> dict:
    return build_report(inputs)
