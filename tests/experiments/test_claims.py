"""`python -m experiments.claims`: the table of several runs, and runs that do not belong together."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from experiments.claims import print_claims, read_claims, render_claims, run
from experiments.report.markdown import write_report
from refine.report.build import build_report
from refine.report.claims import CLAIMS
from refine.report.inputs import ReportInputs
from refine.report.outcomes import Outcome, run_outcomes
from stages.files import read_json, write_json
from stages.rows import write_rows
from tests.experiments.synthetic import synthetic_inputs


def seeded(inputs: ReportInputs, seed: int) -> ReportInputs:
    """Another run on the same problems: what each came to is drawn anew, the problems stay."""
    implicit = "implicit" in inputs.thresholds
    other = synthetic_inputs(len(inputs.problems), 100 + seed, resamples=20, implicit=implicit)
    names = {theirs.id: mine for theirs, mine in zip(other.problems, inputs.problems, strict=True)}
    assert all(name == mine.id for name, mine in names.items())
    return dataclasses.replace(other, problems=inputs.problems, seed=seed)


@pytest.fixture(scope="module")
def inputs() -> list[ReportInputs]:
    first = synthetic_inputs(50, resamples=20)
    return [seeded(first, seed) for seed in range(3)]


@pytest.fixture
def sweep(tmp_path: Path, inputs: list[ReportInputs]) -> Path:
    for one in inputs:
        folder = tmp_path / "runs" / f"seed={one.seed}"
        folder.mkdir(parents=True)
        write_json(folder / "report.json", build_report(one))
        known = [row for row in run_outcomes(one) if "shuffled" not in row.measure]  # as without that control
        write_rows(folder / "outcomes.parquet", known, Outcome)
        write_json(folder / "config.yaml", {"seed": one.seed, "rollouts": {"n": 8}, "run": {"name": f"r{one.seed}"}})
        write_json(folder / "result.json", {"artifacts": {"student": "s", "orm": f"orm{one.seed}"}})
    (tmp_path / "runs" / "unfinished").mkdir()
    return tmp_path / "runs"


def test_a_sweep_makes_one_table(sweep, capsys):
    assert run([str(sweep)]) == 0
    found = read_json(sweep / "claims.json")
    assert [one["claim"] for one in found["claims"]] == [one.words for one in CLAIMS]
    assert list(found["runs"].values()) == [0, 1, 2] and found["problems"] == 50 and found["shared"] == ["student"]
    text = (sweep / "claims.md").read_text(encoding="utf-8")
    beats = next(one for one in found["claims"] if one["first"] == ["right reranked"])
    estimate = beats["estimate"]
    row = next(line for line in text.splitlines() if line.startswith("| reranking beats the draft"))
    each = " ".join(f"{100 * value:+.1f}" for value in beats["runs"])
    span = f"{100 * estimate['low']:+.1f} to {100 * estimate['high']:+.1f}"
    assert row == f"| {beats['claim']} | {100 * estimate['value']:+.1f} | {span} | {beats['verdict']} | {each} |"
    assert "All runs share student: the luck of those is in no interval." in text
    assert "| shuffled draft within 2 points of the draft | – | – | not run | – |" in text
    printed = capsys.readouterr().out
    assert "reranking beats the draft" in printed and str(sweep / "claims.md") in printed


def test_runs_one_by_one_and_another_folder(sweep, tmp_path):
    folders = [str(sweep / f"seed={seed}") for seed in (2, 0)]
    assert run([*folders, "--out", str(tmp_path / "out")]) == 0
    assert list(read_json(tmp_path / "out" / "claims.json")["runs"].values()) == [2, 0]
    assert not (sweep / "claims.md").exists()


def test_the_table_fits_into_80_columns(sweep):
    found, out = read_claims(sorted(sweep.glob("seed=*"))), io.StringIO()
    print_claims(found, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    told = {word for line in lines for word in ("supported", "not shown", "not run") if word in line}
    assert "not run" in told and len(told) > 1
    assert render_claims(found) == render_claims(read_claims(sorted(sweep.glob("seed=*"))))


def test_runs_that_do_not_belong_together_are_refused(sweep, tmp_path, capsys):
    def refusal(*argv: Path) -> str:
        assert run([str(one) for one in argv]) == 2
        return capsys.readouterr().err

    assert "two or more runs" in refusal(sweep / "seed=0")
    assert "neither a finished run of glore" in refusal(sweep / "unfinished")
    assert run([str(sweep), "--out", ""]) == 2
    assert capsys.readouterr().err == "error: --out must not be empty\n"
    shutil.copytree(sweep / "seed=0", tmp_path / "again")
    assert "are both of seed 0: one run counted twice" in refusal(sweep / "seed=0", tmp_path / "again")
    write_json(sweep / "seed=1" / "config.yaml", {"seed": 1, "rollouts": {"n": 4}})
    assert "has rollouts.n=4 and" in refusal(sweep) and not (sweep / "claims.md").exists()


def test_other_problems_are_refused(sweep, inputs, capsys):
    other = synthetic_inputs(50, 7, resamples=20)
    write_rows(sweep / "seed=1" / "outcomes.parquet", run_outcomes(other), Outcome)
    assert run([str(sweep)]) == 2
    assert "have not the same test problems" in capsys.readouterr().err


def test_a_report_is_made_with_its_outcomes(tmp_path, inputs):
    """Artifacts of `report` can be given as runs are."""
    for one in inputs[:2]:
        folder = tmp_path / str(one.seed)
        folder.mkdir()
        write_report(folder, build_report(one), [])
        known = [row for row in run_outcomes(one) if "shuffled" not in row.measure]  # as without that control
        write_rows(folder / "outcomes.parquet", known, Outcome)
    assert read_claims([tmp_path / "0", tmp_path / "1"])["shared"] == []
