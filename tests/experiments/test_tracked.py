"""A tiny pipeline in W&B: what is kept offline is read back, the dashboard's panels find their metrics, and what was
made without tracking is mirrored afterwards."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import dashboard, track
from experiments.commands.config import Job, RunArgs
from experiments.commands.tracked import TrackedPipeline, TrackedStage, resolved
from experiments.commands.yaml_files import write_yaml
from experiments.report.words import SCORER_TITLES
from stages.artifacts import open_artifact
from stages.files import read_json, write_json
from stages.make import make
from stages.pipeline import Node, NodeResult, run_pipeline
from stages.stage import plain_args
from stages.tracking import Mode, TrackingArgs
from tests.experiments.test_glore import arguments, nodes_with_script, scripted_policy, with_implicit
from tests.wandb_runs import Kept, read_runs

ROOT = Path(__file__).parents[2]
FOUND = "samples"  # made before the pipeline, without tracking


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of glore with a scripted policy, as `experiments.glore` and its stages' processes track it."""
    folder = tmp_path_factory.mktemp("pipeline")
    args = with_implicit(arguments(scripted_policy(folder / "policy")))
    nodes, given = nodes_with_script(args, folder / "policy")
    run = RunArgs(name="sweep", artifacts=str(folder / "artifacts"))
    tracking = TrackingArgs(mode=Mode.wandb, tags=["tiny"])
    config = json.loads(json.dumps({"seed": args.seed, "run": dataclasses.asdict(run), "tracking": {"mode": "wandb"}}))
    job = Job(args=args, folder=folder / "runs" / "arm", config=config, run=run, tracking=tracking)
    pipeline = TrackedPipeline(job, "glore")

    def run_here(node: Node, args: Any) -> NodeResult:
        if node.name == FOUND:
            make(node.stage, args, run.artifacts)
        own = replace(
            job,
            args=args,
            folder=job.folder / "stages",
            config=plain_args(args),
            tracking=resolved(job).of_stage(node.name),
        )
        tracked = TrackedStage(own, node.stage)
        artifact, reused = make(node.stage, args, run.artifacts, None if node.name == FOUND else tracked.track)
        pipeline.done(node, NodeResult(artifact.path, reused), artifact)
        return NodeResult(artifact.path, reused)

    results = run_pipeline(nodes, given, run_here, 1)
    pipeline.end(open_artifact(results["report"].path))
    paths = given | {name: str(one.path) for name, one in results.items()}
    write_yaml(job.folder / "config.yaml", config)
    write_json(job.folder / "result.json", {"report": "report.md", "artifacts": paths, "reused": [FOUND]})
    return SimpleNamespace(folder=folder, job=job, paths=paths, runs=read_runs(job.folder), nodes=nodes)


def named(pipeline: SimpleNamespace, name: str = "") -> Kept:
    (found,) = [run for run in pipeline.runs if run.name == ("arm" if not name else f"arm/{name}")]
    return found


def test_one_run_for_the_pipeline_and_one_for_each_stage(pipeline: SimpleNamespace) -> None:
    kinds = {node.name: node.stage.name for node in pipeline.nodes}
    found = {run.name: run.facts["job_type"] for run in pipeline.runs}
    assert found == {"arm": "glore"} | {f"arm/{name}": kind for name, kind in kinds.items()}
    assert {(run.facts["run_group"], run.facts["project"], *run.facts["tags"]) for run in pipeline.runs} == {
        ("sweep", "stepwise", "tiny")
    }
    assert {run.exit_code for run in pipeline.runs} == {0}
    assert named(pipeline).config["seed"] == 0 and named(pipeline, "orm").config["kind"] == "orm"


def test_summaries_are_the_manifests_counts(pipeline: SimpleNamespace) -> None:
    for node in pipeline.nodes:
        manifest = read_json(Path(pipeline.paths[node.name]) / "manifest.json")
        summary = named(pipeline, node.name).summary
        own = {name: summary.get(name) for name in manifest["counts"]}
        assert own == pytest.approx(manifest["counts"]), node.name
        assert summary["tokens"] == manifest["tokens"]
    assert [one["stages_done"] for one in named(pipeline).history if "stages_done" in one] == [
        *range(1, len(pipeline.nodes) + 1)
    ]


def test_stages_log_while_they_work(pipeline: SimpleNamespace) -> None:
    for name in ("rollouts", "drafts", "revise", "rerank"):
        last = named(pipeline, name).history[-1]
        assert last["samples"] == last["step"] > 0 and last["samples_per_second"] > 0
    for name in ("orm", "sorm", "implicit", "global_refiner"):
        rows = [row for row in named(pipeline, name).history if "loss" in row]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) != []
        for metric in ("gradient_norm", "learning_rate", "tokens_per_second", "memory_gib"):
            assert all(row[metric] > 0 for row in rows), metric


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [one for key, item in value.items() for one in leaves(item, f"{name}/{key}" if name else key)]
    return [(name, value)]


@pytest.mark.parametrize("of", ["", "report"])
def test_the_report(pipeline: SimpleNamespace, of: str) -> None:
    """Every key of report.json, and tables; in the run of the stage, and of the pipeline."""
    report, run = read_json(Path(pipeline.paths["report"]) / "report.json"), named(pipeline, of)
    keys = dict(leaves(report))
    assert keys.keys() <= run.summary.keys() and len(keys) > 300
    assert (
        run.summary["accuracy/local/value"] == 1.0 and run.summary["strongest_control"] == report["strongest_control"]
    )
    results = {row[0]: row[1:5] for row in run.tables["results"]["data"]}
    assert results["local"] == [report["accuracy"]["local"][name] for name in ("value", "low", "high", "n")]
    assert {row[0] for row in run.tables["differences"]["data"]} == report["difference"].keys()
    bins = [row[2:] for row in run.tables["calibration"]["data"] if row[:2] == ["orm", "solutions"]]
    assert bins == [
        [one[name] for name in ("low", "high", "n", "predicted", "observed")] for one in report["reliability"]["orm"]
    ]
    columns, rows = (run.tables["examples"][name] for name in ("columns", "data"))
    assert len(rows) == report["problems"]
    shown = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}[report["example"]["problem_id"]]
    draft = report["example"]["solutions"]["draft"]
    assert shown["draft"] == "\n".join(draft["steps"]) and shown["draft right"] is False
    for scorer, title in SCORER_TITLES.items():
        assert shown[f"{title} scores"] == " ".join(f"{score:.2f}" for score in draft[scorer]) != ""
    assert (shown["first error"], shown["choice"]) == (report["example"]["located_error"], report["example"]["chosen"])
    assert shown["local right"] is True and shown["question"] == report["example"]["question"]
    wrong = run.tables["wrong"]["data"]
    assert all(row[-1] is False for row in wrong) and len(wrong) == sum(row[-1] is False for row in rows)


def test_lineage_goes_from_rollouts_to_the_report(pipeline: SimpleNamespace) -> None:
    made = {entry["digest"]: (run.name, entry["type"]) for run in pipeline.runs for entry in run.made.values()}

    def parents(name: str) -> set[tuple[str, str]]:
        return {made[entry["digest"]] for entry in named(pipeline, name).used.values()}

    assert parents("labels") == {("arm/rollouts", "rollouts")}
    assert ("arm/labels", "labels") in parents("sorm")
    assert ("arm/sorm", "reward_model") in parents("revise") and ("arm/local_refiner", "refiner") in parents("revise")
    assert ("arm/implicit", "reward_model") in parents("rerank")
    assert {("arm/rerank", "choices"), ("arm/sorm", "reward_model")} <= parents("report")
    assert parents("") == {("arm/report", "report")}
    (files,) = [
        one["manifest"]["contents"] for one in named(pipeline, "report").made.values() if one["type"] == "report"
    ]
    assert {one["path"]: "ref" in one for one in files}["report.html"] is False  # a copy: people look at it
    (files,) = [one["manifest"]["contents"] for one in named(pipeline, "orm").made.values()]
    assert all(one["ref"].startswith("file:///") for one in files)


def test_a_stage_that_was_found_is_a_run_with_its_counts(pipeline: SimpleNamespace) -> None:
    found = named(pipeline, FOUND)
    assert found.summary["rollouts"] > 0 and found.facts["job_type"] == "sample" and found.made
    assert not (Path(pipeline.paths[FOUND]) / "metrics.jsonl").exists()


def test_what_panels_name_is_logged(pipeline: SimpleNamespace) -> None:
    logged = {name for run in pipeline.runs for row in (run.summary, *run.history) for name in row}
    tables = {name for run in pipeline.runs for name in run.tables}
    for panels in dashboard.SECTIONS.values():
        for panel in panels:
            # what could not be measured here has no value, but its key
            missing = {
                name
                for name in panel.metrics
                if name not in (tables if panel.kind == "table" else logged)
                and name.removesuffix("/value") not in logged
            }
            assert not missing, f"{panel.title}: nobody logs {missing}"
    (run,) = [run for run in pipeline.runs if run.name == "arm"]
    assert set(dashboard.SECTIONS["Right answers"][0].metrics) <= run.summary.keys()  # what a sweep compares


def test_what_is_mirrored_already_is_left_out(pipeline: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.run([str(pipeline.job.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(pipeline.nodes) + 1
    assert [line for line in lines if not line.endswith("(there already)")] == []
    assert {run.id for run in read_runs(pipeline.job.folder)} == {run.id for run in pipeline.runs}


def test_a_run_and_artifacts_are_mirrored_afterwards(
    pipeline: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "result.json"):
        target = tmp_path / "runs" / "arm" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((pipeline.job.folder / name).read_bytes())
    assert track.run(["runs", "--tag", "late"]) == 0
    found = {run.name: run for run in read_runs(tmp_path / "runs")}
    assert found.keys() == {run.name for run in pipeline.runs}
    assert {(run.facts["run_group"], *run.facts["tags"]) for run in found.values()} == {("sweep", "late")}
    capsys.readouterr()
    assert track.run([".", "--tag", "late"]) == 0  # arms are two folders down
    assert capsys.readouterr().out.count("(there already)\n") == len(found)
    for old in pipeline.runs:
        new = found[old.name]
        assert new.summary.keys() >= old.summary.keys() - {"stages_done", "step", "seconds", "tokens"}, old.name
        if old.name != "arm":
            assert [row["step"] for row in new.history] == [row["step"] for row in old.history]
            assert new.made.keys() >= {name for name in old.made if "run-" not in name}
    capsys.readouterr()
    assert track.run([pipeline.job.run.artifacts, "--group", "old", "--project", "mine"]) == 0
    alone = read_runs(tmp_path / "runs" / "track")
    assert {(run.facts["run_group"], run.facts["project"]) for run in alone} == {("old", "mine")}
    assert {run.name for run in alone} >= {f"sample/{Path(pipeline.paths[FOUND]).name}"} and len(alone) >= 10
    one = Path(pipeline.paths["orm"])
    assert track.run([str(one)]) == 0 and capsys.readouterr().out.endswith(f"train_reward/{one.name} (there already)\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "error: nowhere: neither an artifact nor a finished run, nor a folder of such\n"),
        (["nowhere", "--project", "a/b"], "error: tracking.project='a/b' must not hold any of / \\ # ? % :\n"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.run(argv) == 2 and capsys.readouterr().err == message


def test_disabled_is_said(
    pipeline: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert track.run([str(pipeline.job.folder)]) == 2
    assert capsys.readouterr().err == "error: WANDB_MODE=disabled: nothing can be shown in W&B\n"


@pytest.mark.parametrize("name", ["track", "dashboard", "push"])
def test_a_connection_that_breaks_ends_no_command(name: str) -> None:
    """A process that SIGPIPE may end dies where W&B's process, or a server, closes a connection."""
    program = (
        "import socket\n"
        f"from experiments import {name} as command\n"
        "def run(argv):\n"
        "    ours, theirs = socket.socketpair()\n"
        "    theirs.close()\n"
        "    try:\n"
        "        ours.send(b'x')\n"
        "    except BrokenPipeError:\n"
        "        print('broken, ' * 10_000)\n"
        "    return 3\n"
        "command.run = run\n"
        "command.main()\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout[:8], done.stderr) == (3, "broken, ", "")
    reader, writer = os.pipe()
    os.close(reader)  # and where nobody reads what is printed, it ends quietly
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.returncode in (1, -signal.SIGPIPE) and done.stderr == ""
