"""Expert Iteration: what a round learns from, when the rounds end, and which of them is the student."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.pipelines import students
from experiments.pipelines.glore import GloreArgs, glore_nodes
from experiments.pipelines.students import StudentArgs
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.steps import join_steps, split_steps
from stages.make import make
from stages.pipeline import NodeResult, StageFailedError, run_pipeline
from tests.tiny import save_policy
from training.args import TrainArgs

ARGS = GloreArgs(
    problems=ProblemArgs(), train_problems=3, student=StudentArgs(start="start", rounds=4, validation_problems=2)
)


def run(args: GloreArgs, worth: list[float], monkeypatch, fail: str = "") -> tuple[dict[str, dict], dict[str, str]]:
    """The arguments of the stages that were run for the student, where `worth` is the accuracy after each round; and
    the path of each node."""
    monkeypatch.setattr(students, "accuracy", lambda path: worth[int(path.split("_")[1])])
    nodes, given = glore_nodes(args, find=str)
    ran = {}

    def note(node, stage_args) -> NodeResult:
        if node.name == fail:
            raise StageFailedError(fail)
        ran[node.name] = stage_args
        return NodeResult(Path(node.name), False)

    own = [node for node in nodes if node.name.startswith(("round", "student", "sft"))]
    results = run_pipeline(own, given, note, 2)
    return ran, {name: str(result.path) for name, result in results.items()}


@pytest.mark.parametrize(
    ("worth", "rounds", "student"),
    [
        ([0.40, 0.50, 0.505, 0.9, 0.9], 2, "round_2"),  # a gain under one point ends it, and is taken
        ([0.40, 0.50, 0.45, 0.9, 0.9], 2, "round_1"),
        ([0.40, 0.30, 0.9, 0.9, 0.9], 1, "start"),
        ([0.40, 0.50, 0.60, 0.70, 0.80], 4, "round_4"),
    ],
)
def test_rounds_end_where_one_gains_too_little(worth, rounds, student, monkeypatch, caplog):
    caplog.set_level("INFO")
    ran, paths = run(ARGS, worth, monkeypatch)
    assert paths["student"] == student
    numbers = range(1, rounds + 1)
    assert set(ran) == {
        "round_0_drafts",
        *(f"round_{n}{end}" for n in numbers for end in ("", "_rollouts", "_drafts")),
    }
    told = ", ".join(f"{100 * one:.1f}%" for one in worth[: rounds + 1])
    assert f"right on {told} of the validation problems" in caplog.text and f"{student} is taken" in caplog.text


def test_a_round_starts_anew_on_the_rollouts_of_all_rounds(monkeypatch):
    ran, _ = run(ARGS, [0.1, 0.2, 0.3, 0.4, 0.5], monkeypatch)
    for number in (1, 2, 3, 4):
        own = ran[f"round_{number}"]
        earlier = [f"round_{n}_rollouts" for n in range(number - 1, 0, -1)]
        assert (own.policy, own.rollouts, own.more_rollouts) == ("start", f"round_{number}_rollouts", earlier)
        assert ran[f"round_{number}_rollouts"].policy == (f"round_{number - 1}" if number > 1 else "start")
    drafts = ran["round_2_drafts"]
    assert (drafts.policy, drafts.n, drafts.sampler.temperature) == ("round_2", 1, 0.0)
    assert (drafts.problems.split, drafts.problems.limit) == ("validation", 2)


def test_after_fine_tuning_every_round_starts_from_it(monkeypatch):
    args = replace(ARGS, student=replace(ARGS.student, fine_tune=True, rounds=2))
    ran, paths = run(args, [0.1, 0.2, 0.3], monkeypatch)
    assert {ran[name].policy for name in ("round_1", "round_2", "round_0_drafts", "round_1_rollouts")} == {"sft"}
    assert paths["student"] == "round_2"


def test_without_a_least_gain_all_rounds_are_run_and_nothing_is_measured(monkeypatch):
    args = replace(ARGS, student=replace(ARGS.student, rounds=2, least_gain=None))
    ran, paths = run(args, [], monkeypatch)
    assert set(ran) == {"round_1_rollouts", "round_1", "round_2_rollouts", "student"} and paths["student"] == "student"
    assert ran["student"].more_rollouts == ["round_1_rollouts"]


def test_a_round_that_fails_ends_the_pipeline(monkeypatch):
    with pytest.raises(StageFailedError, match="round_2"):
        run(ARGS, [0.1, 0.2, 0.3, 0.4, 0.5], monkeypatch, fail="round_2")


def test_the_report_lists_the_rounds_that_were_run(monkeypatch):
    _, paths = run(ARGS, [0.40, 0.50, 0.505, 0.9, 0.9], monkeypatch)
    nodes, given = glore_nodes(ARGS, find=str)
    report = nodes[-1].build({node.name: node.name for node in nodes} | given | paths)
    rounds = [name for name in report.names if name.startswith(("round", "student"))]
    assert sorted(rounds) == sorted(
        ["round_0_drafts", *(f"round_{n}{end}" for n in (1, 2) for end in ("", "_rollouts", "_drafts"))]
    )
    assert report.stages == report.names and "rollouts" in report.names


def test_the_stages_themselves_stop_and_go_on(tmp_path):
    """Samples from a script, which no training changes: the first round gains nothing, and the start is the student. A
    pipeline that was stopped in between finds what it had made."""
    policy = Path(save_policy(tmp_path / "policy"))
    problems = [p for split in ("train", "validation") for p in load_problems(ProblemArgs(split=split, limit=3))]
    script = {render_prompt(p.question): [join_steps(split_steps(p.solution))] for p in problems}
    (policy / "script.json").write_text(json.dumps(script | {"*": ["#### 1"]}))
    scripted = SamplerArgs(backend="scripted")
    own = replace(
        ARGS.student.round, train=TrainArgs(max_steps=1, device="cpu", tokens_per_step=600, tokens_per_batch=600)
    )
    args = replace(
        ARGS,
        rollouts=replace(ARGS.rollouts, sampler=scripted),
        drafts=replace(ARGS.drafts, sampler=scripted),
        student=replace(ARGS.student, start=str(policy), rounds=3, round_samples=2, round=own),
    )

    def with_script(stage):
        def ran(stage_args, work):
            stage.run(stage_args, work)
            shutil.copy(policy / "script.json", work.folder)

        return replace(stage, run=ran) if stage.name == "train_policy" else stage

    nodes, given = glore_nodes(args)
    nodes = [
        replace(node, stage=with_script(node.stage)) for node in nodes if node.name.startswith(("round", "student"))
    ]

    def run_all(stop: str | None) -> tuple[list[str], dict[str, NodeResult]]:
        made: list[str] = []

        def run_here(node, stage_args) -> NodeResult:
            if node.name == stop:
                raise StageFailedError(stop)
            artifact, reused = make(node.stage, stage_args, tmp_path / "artifacts")
            made.extend([] if reused else [node.name])
            return NodeResult(artifact.path, reused)

        try:
            return made, run_pipeline(nodes, given, run_here, 1)
        except StageFailedError:
            return made, {}

    assert sorted(run_all("round_1")[0]) == ["round_0_drafts", "round_1_rollouts"]
    made, results = run_all(None)
    assert made == ["round_1", "round_1_drafts"]
    assert results["student"].path == policy and results["round_3"].path == results["round_1"].path
    assert students.accuracy(str(results["round_1_drafts"].path)) == 1.0
    assert run_all(None)[0] == []
