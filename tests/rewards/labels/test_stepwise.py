"""The SORM's labels (GLoRe sec. 3.2) against a reference of a few lines, rule by rule, and the stage on a script."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.labels.cleaning import balance_lengths, changed_labels, drop_doubtful, propagate_positives, to_solutions
from rewards.labels.labeller import Labeller
from rewards.labels.stepwise import (
    LABEL_STEPS,
    LabelArgs,
    choose_rollouts,
    count_cost,
    count_labels,
    label_right,
    sample_waves,
    wave_requests,
)
from rewards.labels.traces import Trace, grade_trace, is_consistent, step_result, vouches
from rollouts.prompts import render_prompt
from rollouts.records import Problem, StepLabels
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Sample, refuse
from rollouts.sampling.sample import SampleArgs, grade_sample
from rollouts.steps import MAX_STEPS
from stages.make import make
from stages.rows import read_rows
from stages.stage import Stage
from stages.workspace import Quarantined, Untracked, Workspace
from tests.tiny import problem, rollout


def args_of(**changes) -> LabelArgs:
    """The paper's labels, but for what is changed."""
    paper = {"search": "exhaustive", "rule": "any", "continuations": 8}
    return LabelArgs(rollouts="r", policy="p", **(paper | changes))


def label_all(cases, args: LabelArgs) -> list[StepLabels]:
    """Labels of (steps, traces of each prefix), each of another problem."""
    wrong = [rollout(steps, problem_id=f"p{i}") for i, (steps, _) in enumerate(cases)]
    labeller = Labeller(wrong, args, args.consistency, propagate=args.positive_propagation)
    for (problem_id, prefix), number in labeller.wave().items():
        given = cases[int(problem_id[1:])][1][len(prefix) - 1]
        labeller.add((problem_id, prefix), [*given, *[None] * (number - len(given))])
    assert labeller.wave() == {}
    return labeller.label()


def label_rollout(steps, traces, args: LabelArgs) -> StepLabels:
    return label_all([(steps, traces)], args)[0]


@pytest.mark.parametrize(
    ("step", "result"),
    [
        ("<<7+5=12>>12 for Ann", "12"),
        ("Ann has 7+5=<<7+5=12>>12 apples", "12"),
        ("She sells 16-3-4=<<16-3-4=9>>9 eggs a day for 7 days", "9"),
        ("7 + 5 = $1,080.50 in all", "1080.5"),
        ("so 3 = -5", "-5"),
        ("x = y, and 4 remain", "4"),
        ("She has 12 eggs", "12"),
        ("Half of 12.0", "12"),
        ("#### 12", "12"),
        ("no number = none", None),
        ("", None),
        ("<<7+5=", "5"),
    ],
)
def test_the_result_of_a_step(step, result):
    assert step_result(step) == result


@pytest.mark.parametrize(
    ("prefix", "suffix", "consistent"),
    [
        ("<<7+5=12>>12", ["<<12+3=15>>15", "#### 15"], True),
        ("<<7+5=12>>12", ["<<7+3=10>>10", "#### 10"], False),
        ("<<7+5=12>>12", ["<<112-3=109>>109"], False),  # a part of a number is not the number
        ("<<7+5=12>>12", ["<<15-12=3>>3"], True),  # nor is the minus a sign there
        ("<<7+5=12>>12", ["15 - 12"], True),
        ("<<7-5=2>>2", ["it is -2 degrees"], False),
        ("<<2-5=-3>>-3", ["<<4+-3=1>>1"], True),
        ("<<900+900=1800>>1800", ["1,800 apples"], True),
        ("= 12.50", ["$12.5 each"], True),
        ("<<7+5=12>>12", ["#### 12"], True),
        ("<<7+5=12>>12", [], False),
        ("first, count them", [], True),
        ("#### 12", [], True),
    ],
)
def test_a_trace_must_use_the_result(prefix, suffix, consistent):
    assert is_consistent(["<<1+1=2>>2", prefix], suffix) is consistent


def test_numbers_of_any_length_are_compared():
    huge = "9" * 100_000
    assert is_consistent([f"= {huge}"], [f"{huge}.000"]) and step_result(huge) == huge


def test_traces_that_vouch():
    prefix = ["<<7+5=12>>12"]
    wrong, right = Trace(("#### 12",), False), Trace(("#### 12",), True)
    ignores = Trace(("#### 13",), True)
    assert [vouches(prefix, trace, True) for trace in (wrong, ignores, right)] == [False, False, True]
    assert [vouches(prefix, trace, False) for trace in (wrong, ignores, right)] == [False, True, True]


def test_what_writes_nothing_vouches_but_is_no_target():
    silent, right = Trace((), True), Trace(("#### 12",), True)
    steps = ["<<7+5=12>>12", "#### 13"]
    row = label_rollout(steps, [[silent, right], []], args_of(consistency=False))
    assert row.successes == (2, 0) and row.fix_steps == right.steps
    assert label_rollout(steps, [[silent], []], args_of(consistency=False)).fix_length is None


def reference_labels(steps, traces, propagate: bool, consistency: bool) -> list[bool | None]:
    """The paper's rules, as they are written."""

    def vouches(i, trace):
        result = steps[i].split("=")[-1]
        used = steps[i].startswith("####") or any(result == number for s in trace.steps for number in s.split("="))
        return trace.correct and (used or not consistency)

    positive = [any(vouches(i, trace) for trace in traces[i]) for i in range(len(steps))]
    known = [bool(traces[i]) or steps[i].startswith("####") for i in range(len(steps))]
    if propagate:
        return [any(positive[i:]) or (False if known[i] else None) for i in range(len(steps))]
    return [positive[i] if known[i] else None for i in range(len(steps))]


def random_case(rng: random.Random):
    length = rng.randint(1, 6)
    steps = [f"x={rng.randint(1, 4)}" for _ in range(length)]
    if rng.random() < 0.7:
        steps[-1] = "####" + steps[-1]
    traces = []
    for step in steps:
        sampled = 0 if step.startswith("####") or rng.random() < 0.1 else rng.randint(1, 4)
        traces.append(
            [
                Trace(tuple(f"{rng.randint(1, 4)}={rng.randint(1, 4)}" for _ in range(rng.randint(1, 3))), hit)
                for hit in (rng.random() < 0.3 for _ in range(sampled))
            ]
        )
    return steps, traces


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("consistency", [True, False])
def test_labels_agree_with_the_paper_on_thousands_of_cases(propagate, consistency):
    rng = random.Random(f"{propagate}{consistency}")
    args = args_of(positive_propagation=propagate, consistency=consistency)
    fixes = Counter()
    cases = [random_case(rng) for _ in range(3000)]
    for i, ((steps, traces), row) in enumerate(zip(cases, label_all(cases, args), strict=True)):
        wanted = reference_labels(steps, traces, propagate, consistency)
        assert list(row.labels) == wanted
        assert (row.steps, row.correct, row.rollout_id, row.problem_id) == (tuple(steps), False, f"p{i}#0", f"p{i}")
        assert row.values == tuple(
            (sum(map(lambda t: vouches(steps[: n + 1], t, consistency), own)) / len(own))
            if own
            else (0.0 if steps[n].startswith("#") else None)
            for n, own in enumerate(traces)
        )
        assert row.trials == tuple(map(len, traces)) and all(s <= t for s, t in zip(row.successes, row.trials))  # noqa: B905
        first = wanted.index(False) if False in wanted else None
        # the kept continuation is a right one of exactly the steps before the first error
        if row.fix_length is not None:
            good = [t for t in traces[first - 1] if t.correct and t.steps == row.fix_steps]
            assert row.fix_length == first and good
            assert not consistency or is_consistent(steps[:first], row.fix_steps)
        else:
            assert row.fix_steps == () and (not first or wanted[first - 1] is not True)
        fixes[row.fix_length is None] += 1
    assert min(fixes.values()) > 300


def test_a_rollout_by_hand():
    steps = ["<<7+5=12>>12", "<<12+1=13>>13", "<<13+1=14>>14", "#### 14"]
    right, other = Trace(("<<12+3=15>>15", "#### 15"), True), Trace(("<<9+6=15>>15", "#### 15"), True)
    miss = Trace(("#### 9",), False)
    row = label_rollout(steps, [[miss, other, right], [miss, other], [miss], []], args_of())
    assert row.labels == (True, False, False, False) and row.successes == (1, 0, 0, 0) and row.trials == (3, 2, 1, 0)
    assert (row.fix_length, row.fix_steps) == (1, right.steps)
    free = label_rollout(steps, [[miss], [miss, other], [miss], []], args_of(consistency=False))
    assert free.labels == (True, True, False, False) and free.successes == (0, 1, 0, 0)
    assert (free.fix_length, free.fix_steps) == (2, other.steps)
    neither = args_of(consistency=False, positive_propagation=False)
    plain = label_rollout(steps, [[miss], [miss, other], [miss], []], neither)
    assert plain.labels == (False, True, False, False) and plain.fix_length is None


def test_what_was_not_sampled_has_no_label():
    row = label_rollout(["x=1", "x=2", "#### 2"], [[Trace(("1", "#### 1"), True)], [], []], args_of())
    assert row.labels == (True, None, False) and row.fix_length is None


@given(st.lists(st.sampled_from([True, False, None])))
def test_propagation(labels):
    found = propagate_positives(labels)
    assert all(found[i] is True if any(labels[i + 1 :]) else found[i] is labels[i] for i in range(len(labels)))
    assert propagate_positives(found) == found


def test_right_rollouts_are_positive_throughout():
    row = label_right(rollout(["a", "b"], True))
    assert row == StepLabels("p#0", "p", ("a", "b"), True, (True, True), (0, 0), (0, 0), None, (), "right")


def rows_of(*labels) -> list[StepLabels]:
    return [
        StepLabels(
            f"p#{i}", "p", tuple("x" for _ in own), False, tuple(own), (0,) * len(own), (0,) * len(own), None, ()
        )
        for i, own in enumerate(labels)
    ]


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=6), max_size=30), st.integers(0, 3))
def test_balance_at_each_length(labels, seed):
    rows = rows_of(*labels)
    before = Counter((i, label) for own in labels for i, label in enumerate(own))
    solutions = balance_lengths(rows, seed)
    assert solutions == balance_lengths(rows, seed)
    after = Counter((i, label) for s in solutions for i, label in enumerate(s.labels))
    for i in range(6):
        assert after[i, 1.0] == after[i, 0.0] == min(before[i, True], before[i, False])
    # labels are dropped, never made or moved
    kept = iter(rows)
    for solution in solutions:
        assert any(
            row.steps == solution.steps
            and all(new is None or new == old for new, old in zip(solution.labels, row.labels, strict=True))
            for row in kept
        )


def test_unbalanced_labels_are_all_kept():
    solutions = to_solutions(rows_of([True, None, False], [None]))
    assert [s.labels for s in solutions] == [(1.0, None, 0.0)]


def test_which_rollouts_are_labelled():
    rollouts = [
        rollout(["a"], True, 0),
        rollout(["a"], True, 1),  # the same again
        rollout(["b"], True, 2),
        rollout(["c"], False, 3),
        rollout(["d"], False, 4),
        rollout(["e"], None, 5),
        rollout([], False, 6),
        rollout(["a"], False, 0, "q"),
    ]

    def chosen(**limits) -> list[str]:
        return [r.id for r in choose_rollouts(rollouts, args_of(**limits))]

    assert chosen() == ["p#0", "p#2", "p#3", "p#4", "q#0"]
    assert chosen(max_wrong_per_problem=1) == ["p#0", "p#2", "p#3", "q#0"]
    assert chosen(max_right_per_problem=1) == ["p#0", "p#3", "p#4", "q#0"]
    assert chosen(max_problems=1) == ["p#0", "p#2", "p#3", "p#4"]


def test_each_prefix_of_wrong_rollouts_is_asked_for_once():
    rollouts = [
        rollout(["a", "b", "#### 1"], False, 0),
        rollout(["a", "c"], False, 1),
        rollout(["a", "b", "#### 2"], False, 2),
        rollout(["z", "#### 3"], True, 3),
        rollout(["a", "b", "#### 1"], False, 0, "q"),
    ]
    problems = {"p": problem("p"), "q": problem("q", question="How many?")}

    def requests_of(rollouts):
        labeller = Labeller(rollouts, args_of(continuations=5))
        found = wave_requests(labeller.wave(), labeller, problems, seed=7)
        return {prefix: request for request, prefix in found.values()}

    requests = requests_of([r for r in rollouts if not r.correct])
    assert list(requests) == [("p", ("a",)), ("p", ("a", "b")), ("p", ("a", "c")), ("q", ("a",)), ("q", ("a", "b"))]
    request = requests["p", ("a", "b")]
    assert (request.prompt, request.prefix) == (render_prompt(problem("p").question), "a\nb\n")
    assert (request.n, request.seed) == (5, 7)
    assert len({r.id for r in requests.values()}) == 5
    # a prefix is sampled the same whatever else is labelled
    assert requests_of(rollouts[1:2])["p", ("a",)] == requests["p", ("a",)]


def test_doubtful_labels_are_removed():
    row = StepLabels("p#0", "p", ("a", "b", "c"), False, (True, False, False), (1, 0, 0), (1, 1, 0), None, (), "", (0.5,) * 3, (0.7, 0.6, None))  # fmt: skip  # noqa: E501
    assert drop_doubtful(row, 0.65).labels == (True, None, False)
    assert drop_doubtful(row, 0.8).labels == (None, None, False)
    assert changed_labels(row.labels, drop_doubtful(row, 0.8).labels) == 2


def test_a_prefix_has_the_same_soft_target_in_every_solution():
    """In a right one too, which has no estimates of its own; what no row has an estimate for keeps its label."""
    zeros = (0, 0, 0)

    def row(name: str, steps: str, correct: bool, *values: float | None) -> StepLabels:
        labels = (True,) * 3 if correct else (True, False, False)
        return StepLabels(name, "p", tuple(steps), correct, labels, zeros, zeros, None, (), values=values)

    rows = [
        row("1", "abc", True),
        row("2", "abd", False, 0.5, 0.25, 0.0),
        row("3", "aef", False, 0.75, None, 0.0),
        dataclasses.replace(row("4", "abc", True), problem_id="q"),
    ]
    assert [one.labels for one in to_solutions(rows, soft=True)] == [
        (0.625, 0.25, 1.0),
        (0.625, 0.25, 0.0),
        (0.625, 0.0, 0.0),
        (1.0, 1.0, 1.0),
    ]
    assert to_solutions(rows)[0].labels == (1.0, 1.0, 1.0)


def test_soft_targets_are_never_rounded():
    row = StepLabels("p#0", "p", ("a", "b", "c"), False, (True, False, None), (1, 0, 0), (1, 1, 0), None, (), "", (0.99, 0.01, 0.5), (1.0, 1.0, 1.0))  # fmt: skip  # noqa: E501
    assert to_solutions([row], soft=True)[0].labels == (0.99, 0.01, None)
    assert to_solutions([row])[0].labels == (1.0, 0.0, None)


def test_a_continuation_is_graded_as_a_part_of_the_whole():
    def trace(text: str, answer: str = "12") -> Trace | None:
        return grade_trace(problem(answer=answer), ["<<7+5=12>>12"], Sample("r", 0, text, "stop", 1, 1, 0))

    assert trace("so\n#### 12\nmore") == Trace(("so", "#### 12"), True)
    assert trace("#### 13") == Trace(("#### 13",), False)
    assert trace("") == Trace((), False)
    assert trace("#### 12", answer=" ") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("continuations", 0),
        ("search", "up"),
        ("rule", "all"),
        ("at_least", 0),
        ("confidence", 1.0),
        ("threshold", 0.0),
        ("least_gain", -1.0),
        ("least_confidence", 2.0),
        ("max_wrong_per_problem", 0),
        ("max_right_per_problem", -1),
        ("max_problems", 0),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        args_of(**{name: value}).validate()
    with pytest.raises(ValueError, match="greedy"):
        args_of(sampler=SamplerArgs(temperature=0.0)).validate()
    args_of().validate()


GOOD, SLIP, LATE = "<<7+5=12>>12\n#### 12", "<<7+5=13>>13\n#### 13", "<<7+5=12>>12\n<<12+1=13>>13\n#### 13"


def write_rollouts(args: SampleArgs, work) -> None:
    problems = [problem("p"), problem("q", question="How many pens does Ann have?")]
    texts = {"p": [(GOOD, True), (SLIP, False), (SLIP, False), (LATE, False)], "q": [(GOOD, True)]}
    work.write_rows("problems", problems)
    rows = [
        rollout(text.split("\n"), correct, i, name)
        for name, own in texts.items()
        for i, (text, correct) in enumerate(own)
    ]
    work.write_rows("rows", rows)


def test_the_stage_on_a_script(tmp_path):
    prompt = render_prompt(problem().question)
    script = {
        prompt + "<<7+5=12>>12\n": ["#### 9", "<<12+0=12>>12\n#### 12", "#### 12"],
        prompt + "<<7+5=13>>13\n": ["#### 12", "#### 9 9 9"],  # right, but not by way of 13
        prompt + "<<7+5=12>>12\n<<12+1=13>>13\n": ["#### 9"],
    }
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps(script))
    made, _ = make(
        Stage("sample", 1, SampleArgs, write_rollouts), SampleArgs(policy=str(tmp_path / "policy")), tmp_path
    )
    args = LabelArgs(
        rollouts=str(made.path),
        policy=str(tmp_path / "policy"),
        sampler=SamplerArgs(backend="scripted", max_tokens=9),
        search="exhaustive",
        rule="any",
        continuations=3,
    )
    artifact, _ = make(LABEL_STEPS, args, tmp_path)
    rows = artifact.rows(StepLabels)
    assert [row.rollout_id for row in rows] == ["p#0", "p#1", "p#3", "q#0"]
    assert [row.labels for row in rows] == [(True, True), (False, False), (True, False, False), (True, True)]
    assert rows[1].trials == (3, 0) and rows[2].successes == (2, 0, 0) and rows[0].trials == (0, 0)
    assert (rows[2].fix_length, rows[2].fix_steps) == (1, ("<<12+0=12>>12", "#### 12"))
    # three prefixes, three continuations each: words of the script's texts, nothing for right rollouts
    counts = artifact.manifest["counts"]
    assert counts["continuations"] == 9 and artifact.manifest["tokens"] == (2 + 2 + 2) + (2 + 4 + 2) + (2 + 2 + 2)
    assert (counts["solutions"], counts["wrong_solutions"], counts["fixes"]) == (4, 2, 1)
    assert (counts["positive_labels"], counts["negative_labels"]) == (5, 4)
    assert counts["positive_labels"] == count_labels(rows)["positive_labels"]
    assert [p.id for p in artifact.rows(Problem, "problems")] == ["p", "q"]


def test_the_rule_is_chosen_and_said(tmp_path, caplog):
    """Every wrong rollout slips at once; from there the policy never recovers."""
    caplog.set_level("INFO")
    prompt = render_prompt(problem().question)
    (tmp_path / "policy").mkdir()
    script = {prompt + "<<7+5=13>>13\n": ["#### 9"]}
    (tmp_path / "policy" / "script.json").write_text(json.dumps(script))

    def write(_args, work) -> None:
        work.write_rows("problems", [problem(f"p{i}") for i in range(120)])
        work.write_rows("rows", [rollout(SLIP.split("\n"), False, 0, f"p{i}") for i in range(120)])

    policy = str(tmp_path / "policy")
    made, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy), tmp_path)
    sampler = SamplerArgs(backend="scripted", max_tokens=9)
    artifact, _ = make(LABEL_STEPS, LabelArgs(rollouts=str(made.path), policy=policy, sampler=sampler), tmp_path)
    note = artifact.manifest["notes"]["rule"]
    assert re.fullmatch(
        r"rule=auto: any of 8, adaptive, as 0\.\d% of the continuations of wrong prefixes were right, not above 1%",
        note,
    )
    assert note in caplog.text and {row.rule for row in artifact.rows(StepLabels)} == {"any of 8, adaptive"}


def test_a_policy_that_does_not_stop_is_labelled_within_the_limits(tmp_path):
    """100,000 lines in the rollout, 10,000 in every continuation of it."""
    endless = "<<7+5=12>>12\n" * 100_000
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": [endless[: len(endless) // 10]]}))

    def write(_args, work) -> None:
        work.write_rows("problems", [problem()])
        work.write_rows("rows", [grade_sample(problem(), Sample("p", 0, endless, "length", 5, 7, 0), 0)])

    policy = str(tmp_path / "policy")
    made, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy), tmp_path)
    sampler = SamplerArgs(backend="scripted", max_tokens=10**6)
    args = LabelArgs(rollouts=str(made.path), policy=policy, sampler=sampler, continuations=2)
    (row,) = make(LABEL_STEPS, args, tmp_path)[0].rows(StepLabels)
    assert len(row.steps) == MAX_STEPS and True not in row.labels


class Refusing:
    """Draws what a script says, and refuses some samples."""

    promise = "a script gives the same texts, always"

    def __init__(self, refuses) -> None:
        self.refuses, self.waves = refuses, 0

    def sample(self, requests):
        self.waves += 1
        for request in requests:
            for index in request.indices:
                if self.refuses(self.waves, request, index):
                    yield from refuse(dataclasses.replace(request, wanted=(index,)), "filtered")
                else:
                    yield Sample(request.id, index, "#### 12", "stop", 1, 2, 0)

    def close(self) -> None: ...


def label_with(folder: Path, refuses, **changes) -> tuple[list[StepLabels], Labeller, Workspace]:
    args = args_of(**changes)
    labeller = Labeller([rollout(LATE.split("\n"), False, 0)], args, consistency=False)
    work = Workspace(folder, {}, Untracked(), folder / "kept")
    with closing(work):
        sample_waves(labeller, Refusing(refuses), {"p": problem()}, work, "label_steps", 0)
        work.finish()
    return labeller.label(), labeller, work


def test_continuations_refused_among_good_ones_cost_only_themselves(tmp_path):
    rows, labeller, work = label_with(
        tmp_path, lambda _, request, index: index == 1, search="exhaustive", rule="any", continuations=4
    )
    assert rows[0].trials == (3, 3, 0) and rows[0].labels == (True, True, False) and work.tokens == 2 * 2 * 3
    assert count_cost([rollout(LATE.split("\n"), False)], labeller, 1.0)["not_graded"] == 2
    names = [one.id for one in read_rows(tmp_path / "quarantine.parquet", Quarantined)]
    assert len(names) == 2 and all(name.endswith("#1") for name in names)


def test_a_late_wave_that_is_refused_whole_does_not_end_what_was_paid_for(tmp_path):
    forward = {"search": "forward", "rule": "any", "continuations": 4}
    rows, labeller, work = label_with(tmp_path / "late", lambda wave, *_: wave > 1, **forward)
    assert labeller.waves > 1 and rows[0].trials[0] > 0 and work.tokens > 0
    with pytest.raises(ValueError, match=r"label_steps/1: none of the 1 requests can be sampled; .*: filtered"):
        label_with(tmp_path / "first", lambda *_: True, **forward)
