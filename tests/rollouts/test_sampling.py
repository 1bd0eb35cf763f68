"""Requests, seeds and grading of samples; the scripted backend; the stage `sample` on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rollouts.artifacts import Untracked, Workspace, make
from rollouts.problems import ProblemArgs, load_problems
from rollouts.prompts import render_prompt
from rollouts.sampling import (
    SAMPLE,
    Request,
    Sample,
    SampleArgs,
    SamplerArgs,
    collect,
    count_rollouts,
    grade_sample,
    load_sampler,
    sample_seed,
)
from rollouts.types import Problem, Rollout
from tests.tiny import problem, rollout

SCRIPTED = SamplerArgs(backend="scripted", max_tokens=50)


def write_script(folder: Path, script: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


def sample_of(text: str, index: int = 0) -> Sample:
    return Sample("p", index, text, "stop", 5, 7, 99)


def test_a_seed_is_a_function_of_run_request_and_number():
    assert sample_seed(0, "a", 0) == 0x4AA040E13D4E7414  # the same in every process and version
    seeds = [sample_seed(run, name, index) for run in (0, 1) for name in ("a", "b", "a0") for index in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    "bad",
    [
        {"backend": "telepathy"},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"max_tokens": 0},
        {"batch_size": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_value(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        load_sampler("nowhere", SamplerArgs(**bad))


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


@pytest.mark.parametrize(
    ("text", "last_number", "correct"),
    [("#### 13", False, False), ("", False, False), ("so 12", False, False), ("so 12", True, True)],
)
def test_the_last_number_counts_only_where_asked_for(text, last_number, correct):
    assert grade_sample(problem(), sample_of(text), 0, last_number).correct is correct


def test_what_cannot_be_graded_is_neither_right_nor_wrong():
    assert grade_sample(problem(answer=" "), sample_of("#### 12"), 0).correct is None


def test_the_script_answers_by_id_then_prompt(tmp_path):
    script = {"one": ["a b c", "d"], "Q: x\n<<1": ["by prefix"], "Q: x\n": ["by prompt"], "*": ["any"]}
    args = SamplerArgs(backend="scripted", max_tokens=2)
    sampler = load_sampler(write_script(tmp_path / "p", script), args)
    requests = [Request("one", "Q: x\n", n=3, seed=5), Request("two", "Q: x\n", "<<1"), Request("three", "Q: x\n", "<")]
    found = list(sampler.sample([*requests, Request("four", "Q: y\n")]))
    assert [sample.text for sample in found] == ["a b", "d", "a b", "by prefix", "by prompt", "any"]
    assert [sample.finish_reason for sample in found] == ["length", "stop", "length", "stop", "stop", "stop"]
    assert [sample.completion_tokens for sample in found[:2]] == [2, 1]
    assert found[1].seed == sample_seed(5, "one", 1)


@pytest.mark.parametrize("script", [[], {"a": []}, {"a": "text"}, {"a": [1]}])
def test_a_malformed_script_is_refused_by_name(tmp_path, script):
    with pytest.raises(ValueError, match=r"script\.json"):
        load_sampler(write_script(tmp_path / "p", script), SCRIPTED)


def test_a_missing_script_or_text_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_sampler(str(tmp_path / "nowhere"), SCRIPTED)
    with pytest.raises(ValueError, match="'lost'"):
        list(load_sampler(write_script(tmp_path / "p", {"a": ["b"]}), SCRIPTED).sample([Request("lost", "Q: ?\n")]))
    (tmp_path / "p" / "script.json").write_text("{")
    with pytest.raises(ValueError, match=r"script\.json, line 1"):
        load_sampler(str(tmp_path / "p"), SCRIPTED)


class Backwards:
    """A sampler that answers the last request first, its last sample first, and forgets those in `forgets`."""

    def __init__(self, forgets: tuple[tuple[str, int], ...] = ()) -> None:
        self.forgets = forgets

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        for request in reversed(requests):
            for index in reversed(range(request.n)):
                if (request.id, index) not in self.forgets:
                    yield Sample(request.id, index, f"{request.id}{index}", "stop", 1, 3, 0)


def test_collect_puts_samples_in_order_and_counts_tokens(tmp_path):
    work = Workspace(tmp_path, {}, Untracked())
    found = collect(Backwards(), [Request("b", "x", n=2), Request("a", "x", n=1)], work, "test")
    assert {name: [sample.text for sample in own] for name, own in found.items()} == {"b": ["b0", "b1"], "a": ["a0"]}
    assert work.tokens == 9


def test_collect_misses_what_the_sampler_forgot(tmp_path):
    work = Workspace(tmp_path, {}, Untracked())
    with pytest.raises(RuntimeError, match="1 of 2 samples of b"):
        collect(Backwards((("b", 0),)), [Request("b", "x", n=2)], work, "test")
    with pytest.raises(ValueError, match="same id"):
        collect(Backwards(), [Request("b", "x"), Request("b", "y")], work, "test")


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
    assert count_rollouts(rollouts) == {
        "problems": 3,
        "rollouts": 8,
        "accuracy": 4 / 8,
        "solved_problems": 2 / 3,
        "mixed_problems": 1 / 3,
        "distinct_correct": 3 / 3,
        "ungraded": 2,
        "truncated": 0,
    }


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
