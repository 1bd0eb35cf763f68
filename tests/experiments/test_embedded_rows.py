"""Every row of the paper for the embedded world runs to a report in its `debug=smoke` form; they share artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.commands.config import run_folder
from experiments.commands.sweeps import read_sweep
from experiments.compare import run as compare
from experiments.pipelines.glore import glore_nodes
from stages.files import read_json
from stages.make import make
from stages.pipeline import Node, NodeResult, run_pipeline
from tests.test_configs import CONF, ROOT, converted

ROWS = [f"glore/embedded/{path.stem}" for path in sorted((CONF / "experiment/glore/embedded").glob("*.yaml"))]
PLANS, SLIPS = "plans", "slips"  # the start of the judges too; other problems and another student: nothing is shared


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.mark.parametrize("row", [*ROWS, PLANS, SLIPS])
def test_a_row_runs_to_its_report(row: str, artifacts: Path) -> None:
    args = converted("glore", [f"experiment={row}", "debug=smoke"]).args
    assert args.problems.source == "arithmetic" and args.train_problems == 6

    def run_here(node: Node, stage_args: object) -> NodeResult:
        artifact, reused = make(node.stage, stage_args, artifacts)
        return NodeResult(artifact.path, reused)

    results = run_pipeline(*glore_nodes(args), run_here, 1)
    report = read_json(results["report"].path / "report.json")
    assert report["problems"] == 4 and report["accuracy"]["reranked"]["n"] == 4
    kind, _, value = row.rpartition("/")[2].partition("_")
    if kind in ("where", "when"):
        assert report["headline"][kind] == value
    made = {name for name, result in results.items() if not result.reused}
    assert made if row in (ROWS[0], SLIPS) else "samples" not in made
    assert ("reward_start" in results) == (row == PLANS)


def test_a_sweep_with_an_arm_that_fails_its_relaunch_and_its_comparison(
    artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["experiment=glore/embedded/small", "debug=smoke", "+sweep=where", "seed=0"]
    command = [sys.executable, "-m", "experiments.glore", "-m", *own, "headline_where=none,sorm"]

    def launch() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, f"run.artifacts={artifacts}"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )

    runs = tmp_path / "runs" / "where"
    taken = runs / run_folder([*own, "headline_where=sorm"])
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text("train_problems: 7\n")  # a run of other arguments is in its way
    first = launch()
    assert first.returncode == 1 and "1 of 2 arms failed" in first.stderr, first.stderr
    assert read_sweep(runs)[1][0].name == taken.name
    capsys.readouterr()
    assert compare([f"sweep={runs}"]) == 0
    assert "without a result: 1 arm of the sweep" in capsys.readouterr().out
    (taken / "config.yaml").unlink()
    again = launch()
    assert again.returncode == 0, again.stderr
    # of the arm that failed only the report is new: it shares the rest with the other
    assert (
        again.stdout.count("finished before") == 1 and read_json(taken / "result.json")["reused"].count("rerank") == 1
    )
    assert compare([f"sweep={runs}"]) == 0
    found = read_json(runs / "compare.json")
    assert [arm["name"] for arm in found["arms"]] == ["headline_where=none", "headline_where=sorm"]
    assert len(found["differences"]) == 1 and not found["missing"] and (runs / "compare.html").is_file()
