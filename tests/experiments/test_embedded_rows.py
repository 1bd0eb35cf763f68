"""Every row of the paper for the embedded world runs to a report in its `debug=smoke` form; they share artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.pipelines.glore import glore_nodes
from stages.files import read_json
from stages.make import make
from stages.pipeline import Node, NodeResult, run_pipeline
from tests.test_configs import CONF, converted

ROWS = [path.stem for path in sorted((CONF / "experiment/glore/embedded").glob("*.yaml"))]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_to_its_report(row: str, artifacts: Path) -> None:
    args = converted("glore", [f"experiment=glore/embedded/{row}", "debug=smoke"]).args
    assert args.problems.source == "arithmetic" and args.train_problems == 6

    def run_here(node: Node, stage_args: object) -> NodeResult:
        artifact, reused = make(node.stage, stage_args, artifacts)
        return NodeResult(artifact.path, reused)

    results = run_pipeline(*glore_nodes(args), run_here, 1)
    report = read_json(results["report"].path / "report.json")
    assert report["problems"] == 4 and report["accuracy"]["reranked"]["n"] == 4
    kind, _, value = row.partition("_")
    if kind in ("where", "when"):
        assert report["headline"][kind] == value
    made = {name for name, result in results.items() if not result.reused}
    assert made if row == ROWS[0] else "samples" not in made
