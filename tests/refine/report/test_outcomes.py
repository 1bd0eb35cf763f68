"""The outcomes by problem are those that the report's figures are made of."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pytest

from refine.report.build import build_report
from refine.report.outcomes import run_outcomes
from tests.experiments.synthetic import synthetic_inputs


@pytest.fixture(scope="module")
def inputs():
    return synthetic_inputs(60, resamples=20, implicit=True)


JUDGES = ("orm", "sorm", "implicit")


def totals(inputs) -> dict[str, tuple[float, float]]:
    """Hits and of, by measure."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in run_outcomes(inputs):
        found[one.measure][0] += one.hits
        found[one.measure][1] += one.of
    return {name: (hits, of) for name, (hits, of) in found.items()}


def test_every_measure_is_that_of_the_report(inputs):
    report, found = build_report(inputs), totals(inputs)
    figures = {f"right {name}": one for name, one in report["accuracy"].items()}
    figures |= {f"{kind} {name}": report[kind][name] for kind in ("fixed", "broken") for name in report[kind]}
    figures |= {f"fixed local {where}": one["fixed"] for where, one in report["by_where"].items()}
    figures |= {f"broken local {where}": one["broken"] for where, one in report["by_where"].items()}
    keys = {"steps": "step_accuracy", "first error": "first_error_accuracy", "finals": "final_accuracy"}
    keys |= {"pairs": "pairwise_accuracy", "offered": "pairwise_accuracy_offered"}
    figures |= {f"{name} {scorer}": report[key][scorer] for name, key in keys.items() for scorer in JUDGES}
    figures["labels"] = report["label_accuracy"]
    compared = found.keys() & {name for name, one in figures.items() if one is not None}
    assert found.keys() - compared == {f"{kind} steps {scorer}" for kind in ("right", "wrong") for scorer in JUDGES}
    assert len(compared) > 30
    for name in compared:
        hits, of = found[name]
        assert hits / of == pytest.approx(figures[name]["value"], abs=1e-6), name
        if not name.startswith("steps"):
            assert of == figures[name]["n"], name
    for scorer in JUDGES:
        shares = [found[f"{kind} steps {scorer}"] for kind in ("right", "wrong")]
        mean = sum(hits / of for hits, of in shares) / 2
        assert mean == pytest.approx(report["step_balanced_accuracy"][scorer]["value"], abs=1e-6)


def test_equal_ids_of_other_questions_are_other_problems(inputs):
    changed = [dataclasses.replace(problem, question=f"{problem.question} Quickly!") for problem in inputs.problems]
    own = {one.problem for one in run_outcomes(inputs) if one.measure == "right draft"}
    theirs = {
        one.problem
        for one in run_outcomes(dataclasses.replace(inputs, problems=changed))
        if one.measure == "right draft"
    }
    assert len(own) == len(theirs) == 60 and not own & theirs


def test_a_run_of_drafts_alone_has_their_outcomes(inputs):
    bare = dataclasses.replace(
        inputs,
        candidates=[one for one in inputs.candidates if one.kind == "draft"],
        choices=[one for one in inputs.choices if one.selector == "draft"],
        judgements=[],
        thresholds={},
        step_truth=None,
        label_truth=None,
    )
    assert set(totals(bare)) == {"right draft"}
