"""The stage `sample`: problems into graded rollouts, on the scripted backend."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rollouts.backends.scripted import ScriptedSampler
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.records import Problem, Rollout
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sample, refuse, sample_seed
from rollouts.sampling.sample import SAMPLE, RolloutCounts, SampleArgs, grade_sample
from rollouts.steps import MAX_STEPS
from stages.artifacts import ArtifactError
from stages.make import make
from tests.tiny import problem, rollout


def write_script(folder: Path, script: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


def sample_of(text: str, index: int = 0) -> Sample:
    return Sample("p", index, text, "stop", 5, 7, 99)


def test_many_greedy_samples_are_refused():
    with pytest.raises(ValueError, match="n=2"):
        SampleArgs(policy="x", sampler=SamplerArgs(temperature=0.0), n=2).validate()
    SampleArgs(policy="x", sampler=SamplerArgs(temperature=0.0), n=1).validate()
    with pytest.raises(ValueError, match="not 0"):
        SampleArgs(policy="x", n=0).validate()


def test_a_sample_becomes_a_graded_rollout():
    found = grade_sample(problem(), sample_of(" <<7+5=12>>12 \n\n#### 12\nmore", 3), 3)
    assert found == Rollout(
        "p#3", "p", 3, " <<7+5=12>>12 \n\n#### 12\nmore", ("<<7+5=12>>12", "#### 12"), "12", True, "hash:number",
        "stop", 5, 7, 99,
    )  # fmt: skip


def test_a_text_that_does_not_end_is_graded_and_kept_up_to_the_limits():
    found = grade_sample(problem(), sample_of("<<7+5=12>>12\n" * 100_000 + "#### 12"), 0)
    assert found.steps == ("<<7+5=12>>12",) * MAX_STEPS and found.text == "<<7+5=12>>12\n" * MAX_STEPS
    assert (found.correct, found.answer, found.finish_reason) == (False, None, "length")


@pytest.mark.parametrize(
    ("text", "last_number", "correct"),
    [("#### 13", False, False), ("", False, False), ("so 12", False, False), ("so 12", True, True)],
)
def test_the_last_number_counts_only_where_asked_for(text, last_number, correct):
    assert grade_sample(problem(), sample_of(text), 0, last_number).correct is correct


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_text_is_graded_however_it_ended(finish):
    """PB73: a policy ends by its end token, by a stop string, or at the limit."""
    found = grade_sample(problem(), replace(sample_of("5+7\n#### 12"), finish_reason=finish), 0)
    assert (found.correct, found.steps, found.finish_reason) == (True, ("5+7", "#### 12"), finish)


def test_what_cannot_be_graded_is_neither_right_nor_wrong():
    assert grade_sample(problem(answer=" "), sample_of("#### 12"), 0).correct is None


def test_a_refused_sample_is_neither_right_nor_wrong():
    (sample,) = refuse(Request("p", ""), "the prompt is empty")
    found = grade_sample(problem(), sample, 0)
    assert (found.correct, found.answer, found.rule, found.finish_reason) == (None, None, "refused", "refused")
    assert found.text == "" and found.steps == ()


def test_what_is_counted_of_rollouts_by_hand():
    rollouts = [
        rollout(["1", "#### 12"], True, 0, "p"),
        rollout(["1", "#### 12"], True, 1, "p"),
        rollout(["2", "#### 12"], True, 2, "p"),
        rollout(["3"], False, 3, "p"),
        rollout(["1"], False, 0, "q"),
        rollout(["1"], None, 1, "q"),
        rollout(["1"], True, 0, "r"),
        rollout(["2"], None, 1, "r"),
    ]
    counts = RolloutCounts()
    problems = [[one for one in rollouts if one.problem_id == name] for name in "pqr"]
    assert list(counts.watch(problems)) == rollouts
    assert counts.result() == {
        "problems": 3,
        "rollouts": 8,
        "graded": 6,
        "graded_problems": 3,
        "accuracy": 4 / 6,
        "solved_problems": 2 / 3,
        "mixed_problems": 1 / 3,
        "distinct_correct": 3 / 3,
        "ungraded": 2,
        "truncated": 0,
        "refused": 0,
    }


def test_what_was_refused_or_undecided_is_in_no_fraction():
    counts = RolloutCounts()
    refused = dataclasses.replace(rollout([], None, 1, "p"), finish_reason="refused")
    problems = [
        [rollout(["#### 12"], True, 0, "p"), refused, rollout(["#### 13"], False, 2, "p")],
        [rollout(["#### 12"], None, 0, "q"), rollout(["#### 13"], None, 1, "q")],
    ]
    assert len(list(counts.watch(problems))) == 5
    found = counts.result()
    assert (found["accuracy"], found["solved_problems"], found["mixed_problems"], found["distinct_correct"]) == (
        *(1 / 2, 1.0, 1.0, 1.0),
    )
    assert (found["rollouts"], found["graded"], found["ungraded"], found["refused"]) == (5, 2, 3, 1)
    counts = RolloutCounts()
    list(counts.watch(problems[1:]))
    assert counts.result() == {
        "problems": 1, "rollouts": 2, "graded": 0, "graded_problems": 0, "ungraded": 2, "truncated": 0, "refused": 0,
    }  # fmt: skip


def test_two_refused_samples_of_16_cost_the_other_14_nothing(tmp_path, monkeypatch):
    whole = ScriptedSampler.sample

    def some(self, requests):
        for sample in whole(self, requests):
            if sample.index in (3, 11):
                sample = dataclasses.replace(sample, text="", finish_reason="refused", reason="filtered")
            yield sample

    monkeypatch.setattr(ScriptedSampler, "sample", some)
    problems = ProblemArgs(split="test", limit=2)
    script = {load_problems(problems)[0].id: [load_problems(problems)[0].solution], "*": ["#### 0"]}
    sampler = SamplerArgs(backend="scripted", max_tokens=40)
    args = SampleArgs(policy=write_script(tmp_path / "policy", script), problems=problems, sampler=sampler, n=16)
    made, _ = make(SAMPLE, args, tmp_path / "artifacts")
    rows, counts = made.rows(Rollout), made.manifest["counts"]
    assert [row.sample for row in rows] == [*range(16)] * 2
    assert [row.correct for row in rows if row.finish_reason != "refused"] == [True] * 14 + [False] * 14
    assert [row.correct for row in rows if row.finish_reason == "refused"] == [None] * 4
    assert (counts["refused"], counts["graded"], counts["accuracy"], counts["quarantine"]) == (4, 28, 1 / 2, 4)


def test_the_stage_samples_grades_and_counts(tmp_path):
    problems = ProblemArgs(split="test", limit=3)
    known = load_problems(problems)
    script = {known[0].id: [known[0].solution, "#### 0"], "*": ["one two three"]}
    args = SampleArgs(
        policy=write_script(tmp_path / "policy", script),
        problems=problems,
        sampler=SamplerArgs(backend="scripted", max_tokens=40),
        n=2,
        seed=4,
    )
    artifact, reused = make(SAMPLE, args, tmp_path / "artifacts")
    assert not reused and artifact.rows(Problem, "problems") == known
    rows = artifact.rows(Rollout)
    assert [(row.problem_id, row.sample) for row in rows] == [(p.id, index) for p in known for index in (0, 1)]
    assert [row.correct for row in rows] == [True, *[False] * 5]
    assert rows[0].seed == sample_seed(4, known[0].id, 0)
    assert rows[0].prompt_tokens == len(render_prompt(known[0].question).split(" "))
    assert artifact.manifest["tokens"] == sum(row.completion_tokens for row in rows)
    assert artifact.manifest["counts"]["accuracy"] == 1 / 6 and artifact.manifest["counts"]["mixed_problems"] == 1 / 3
    assert make(SAMPLE, args, tmp_path / "artifacts")[1]


def test_a_policy_that_is_a_name_needs_a_server(tmp_path):
    args = SampleArgs(policy="some-model", problems=ProblemArgs(limit=1))
    with pytest.raises(ArtifactError, match="policy: some-model: there is no such file or folder"):
        make(SAMPLE, args, tmp_path)
    assert SampleArgs(policy="some-model", sampler=SamplerArgs(backend="openai")).served == "some-model@127.0.0.1"
    assert args.served is None
