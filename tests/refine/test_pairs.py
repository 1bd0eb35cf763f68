"""Pairs of the refiners: which drafts and targets, how many, and the stage from rollouts and labels."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine.lema.correct import CORRECT, CorrectArgs
from refine.pairs import (
    BUILD_PAIRS,
    PairArgs,
    build_pairs,
    closeness,
    control_pairs,
    correction_pairs,
    first_step_pairs,
    global_pairs,
    local_pair,
    shuffled_pairs,
)
from refine.prompts import render_refinement
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rollouts.records import Correction, RefinementPair, StepLabels
from rollouts.sampling.sample import SampleArgs
from stages.artifacts import ArtifactError, open_artifact
from stages.make import make
from stages.stage import Stage
from stages.workspace import Untracked, Workspace
from tests.refine.lema.made import HARD, make_mistakes, world_mistakes, write_script
from tests.tiny import problem, rollout

ARGS = PairArgs(rollouts="r")
RIGHT = [rollout(["a", "b", "#### 12"], True, 0), rollout(["z", "#### 12"], True, 1)]
WRONG = [rollout(["a", "c", "#### 1"], False, 2), rollout(["z", "#### 2"], False, 3), rollout(["y"], False, 4)]
UNUSED = [rollout(["u"], None, 5), rollout([], False, 6), rollout(["a", "c", "#### 1"], False, 7)]


def labels(steps, *, right=False, labels_=(True, False), fix=None, fix_steps=()) -> StepLabels:
    zeros = (0,) * len(steps)
    return StepLabels("p#9", "p", tuple(steps), right, tuple(labels_), zeros, zeros, fix, tuple(fix_steps))


@pytest.mark.parametrize(("a", "b", "shared"), [("abc", "abd", 2), ("abc", "ab", 2), ("x", "abc", 0), ("", "a", 0)])
def test_closeness(a, b, shared):
    assert closeness(a, b) == closeness(b, a) == shared


def test_each_wrong_rollout_goes_to_the_nearest_right_one():
    pairs = global_pairs(problem(), RIGHT + WRONG + UNUSED, dataclasses.replace(ARGS, max_per_problem=9))
    found = {pair.draft: pair.target for pair in pairs}
    assert found.keys() == {r.steps for r in WRONG}  # the same draft twice is one pair
    assert found["a", "c", "#### 1"] == RIGHT[0].steps and found["z", "#### 2"] == RIGHT[1].steps
    assert all((p.kind, p.error_step, p.question) == ("global", None, problem().question) for p in pairs)
    assert len({pair.id for pair in pairs}) == 3


def test_no_pair_without_both_outcomes():
    assert global_pairs(problem(), RIGHT, ARGS) == global_pairs(problem(), WRONG + UNUSED, ARGS) == []


@pytest.mark.parametrize(("most", "targets", "count"), [(1, 1, 1), (2, 1, 2), (3, 2, 3), (9, 2, 6), (9, 5, 6)])
def test_never_more_pairs_of_a_problem_than_asked(most, targets, count):
    args = PairArgs(rollouts="r", max_per_problem=most, max_right_per_wrong=targets)
    pairs = global_pairs(problem(), RIGHT + WRONG, args)
    assert len(pairs) == count and pairs == global_pairs(problem(), RIGHT + WRONG, args)


def test_the_seed_decides_which_drafts_are_taken():
    first = {global_pairs(problem(), RIGHT + WRONG, PairArgs("r", None, 1, 1, seed))[0].draft for seed in range(30)}
    assert len(first) == 3


def test_the_control_has_the_targets_without_the_drafts():
    pairs = global_pairs(problem(), RIGHT + WRONG, ARGS)
    control = control_pairs(pairs)
    assert [p.target for p in control] == [p.target for p in pairs]
    assert all((p.kind, p.draft, p.error_step) == ("control", (), None) for p in control)
    assert {p.id for p in control}.isdisjoint(p.id for p in pairs) and len({p.id for p in control}) == len(pairs)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(0, 3))
def test_shuffled_pairs_have_the_targets_and_all_drafts_but_never_ones_own(sizes, seed):
    pairs = [
        RefinementPair(f"global/{name}-{i}", str(name), "global", f"q{name}", (f"draft {name}-{i}",), None, (f"t{i}",))
        for name, size in enumerate(sizes)
        for i in range(size)
    ]
    found = shuffled_pairs(pairs, seed)
    assert found == shuffled_pairs(pairs, seed)
    of = {pair.draft: pair.problem_id for pair in pairs}
    assert all(of[p.draft] != p.problem_id and (p.kind, p.error_step) == ("shuffled", None) for p in found)
    if 2 * max(sizes) <= len(pairs):  # else there are not enough drafts of others
        assert len(found) == len(pairs)
    assert len({p.draft for p in found}) == len({p.id for p in found}) == len(found)
    wanted = {(p.problem_id, p.question, p.target, p.id.replace("global", "shuffled")) for p in pairs}
    assert {(p.problem_id, p.question, p.target, p.id) for p in found} <= wanted


def test_the_seed_shuffles_and_one_problem_alone_has_no_other():
    pairs = [
        dataclasses.replace(p, problem_id=str(i), draft=(f"{i}", *p.draft))
        for i in range(9)
        for p in global_pairs(problem(), RIGHT + WRONG, ARGS)
    ]
    assert len({tuple(p.draft for p in sorted(shuffled_pairs(pairs, s), key=str)) for s in range(5)}) > 1
    assert shuffled_pairs(pairs[:3], 0) == shuffled_pairs([], 0) == []


def test_a_local_pair_marks_the_first_error_and_goes_on_from_there():
    row = labels(["a", "c", "#### 1"], labels_=(True, False, False), fix=1, fix_steps=("b", "#### 12"))
    pair = local_pair(problem(), row)
    assert pair == RefinementPair(
        "local/p#9", "p", "local", problem().question, ("a", "c", "#### 1"), 1, ("b", "#### 12")
    )
    assert render_refinement("local", "Q", pair.draft, pair.error_step) == "Q: Q\na\n[BAD]c\n#### 1\n[REFINE]\na\n"
    assert local_pair(problem(), dataclasses.replace(row, correct=True)) is None
    assert local_pair(problem(), dataclasses.replace(row, fix_length=None, fix_steps=())) is None


def test_wrong_from_the_start_is_rewritten_as_a_whole():
    rows = [
        labels(["x", "#### 1"], labels_=(False, False)),
        labels(["y", "#### 2"], labels_=(False, False)),
        labels(["a", "#### 3"], labels_=(True, False)),
        labels(["v", "#### 4"], labels_=(None, False)),
        labels(["z", "#### 12"], right=True, labels_=(True, True)),
    ]
    pairs = first_step_pairs(problem(), rows, [*WRONG, *RIGHT])
    assert [(p.draft[0], p.error_step, p.target) for p in pairs] == [("x", 0, RIGHT[0].steps), ("y", 0, RIGHT[1].steps)]
    assert first_step_pairs(problem(), rows, WRONG) == []


@pytest.mark.parametrize(("name", "value"), [("max_per_problem", 0), ("max_right_per_wrong", -1)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        dataclasses.replace(ARGS, **{name: value}).validate()
    ARGS.validate()


LABELS = [
    labels(["a", "c", "#### 1"], labels_=(True, False, False), fix=1, fix_steps=("b", "#### 12")),
    dataclasses.replace(labels(["y"], labels_=(False,)), rollout_id="p#4"),
]


@pytest.fixture
def made(tmp_path) -> dict[str, str]:
    def write_rollouts(_args, work) -> None:
        work.write_rows("problems", [problem("p"), problem("q")])
        work.write_rows("rows", [*RIGHT, *WRONG, *UNUSED, rollout(["a", "#### 12"], True, 0, "q")])

    def write_labels(_args, work) -> None:
        work.write_rows("problems", [problem("p"), problem("q")])
        work.write_rows("rows", LABELS)

    policy = tmp_path / "policy"
    policy.mkdir()
    rollouts, _ = make(Stage("sample", 1, SampleArgs, write_rollouts), SampleArgs(policy=str(policy)), tmp_path)
    args = LabelArgs(rollouts=str(rollouts.path), policy=str(policy))
    labelled, _ = make(dataclasses.replace(LABEL_STEPS, run=write_labels), args, tmp_path)
    return {"rollouts": str(rollouts.path), "labels": str(labelled.path)}


def test_the_stage(made, tmp_path):
    artifact, _ = make(BUILD_PAIRS, PairArgs(**made), tmp_path)
    pairs = artifact.rows(RefinementPair)
    kinds = [pair.kind for pair in pairs]
    assert (kinds.count("global"), kinds.count("control"), kinds.count("local")) == (3, 3, 2)
    assert "shuffled" not in kinds and artifact.manifest["counts"]["shuffled_pairs"] == 0  # there is one problem only
    assert {pair.problem_id for pair in pairs} == {"p"}  # q has no wrong rollout
    local = [pair for pair in pairs if pair.kind == "local"]
    assert [(pair.error_step, pair.target) for pair in local] == [(1, ("b", "#### 12")), (0, RIGHT[0].steps)]
    counts = artifact.manifest["counts"]
    assert (counts["global_pairs"], counts["local_pairs"], counts["rows"]) == (3, 2, 8)
    few, _ = make(BUILD_PAIRS, PairArgs(**made, max_per_problem=1), tmp_path)
    assert [pair.kind for pair in few.rows(RefinementPair)] == ["global", "control", "local"]


def test_without_labels_there_are_no_local_pairs(made, tmp_path):
    artifact, _ = make(BUILD_PAIRS, PairArgs(rollouts=made["rollouts"]), tmp_path)
    assert {pair.kind for pair in artifact.rows(RefinementPair)} == {"global", "control"}


def correction(step: int, new: list[str], reason: str | None = None, number: int = 0) -> Correction:
    mistake = ("4 * 3 = 12", "12 + 2 = 15", "#### 15")
    return Correction(
        f"c{number}", "p", "m", "s", "c", number, mistake, None, step, "why", (*mistake[: step - 1], *new), "14",
        reason, "", 1, 1,
    )  # fmt: skip


def test_a_correction_is_a_local_pair_at_the_step_that_it_names():
    own, new = problem(), ["12 + 2 = 14", "#### 14"]
    rows = [correction(2, new), correction(2, new, number=1), correction(1, ["a", *new], number=2),
            correction(2, ["b"], "wrong_answer", 3)]  # fmt: skip
    first, second = correction_pairs({"p": own}, rows, 4)
    assert (first.kind, first.error_step, first.target) == ("local", 1, tuple(new))
    assert first.draft == rows[0].mistake and (second.error_step, second.target) == (0, ("a", *new))
    assert len(correction_pairs({"p": own}, rows, 1)) == 1
    shown = render_refinement("local", own.question, first.draft, first.error_step)
    assert "[BAD]12 + 2 = 15" in shown and shown.endswith("[REFINE]\n4 * 3 = 12\n")


def test_the_stage_adds_pairs_of_corrections_of_training_problems(made, tmp_path):
    problems, own = world_mistakes(3, HARD)

    def corrected(root, problems):
        policy = write_script(root / "student", {"*": [root.name]})
        source = make_mistakes(root, policy, own, problems)
        return str(make(CORRECT, CorrectArgs(mistakes=str(source.path)), root)[0].path)

    args = PairArgs(**made, corrections=[corrected(tmp_path / "train", problems)])
    pairs = make(BUILD_PAIRS, args, tmp_path)[0]
    added = [pair for pair in pairs.rows(RefinementPair) if pair.id.startswith("local/correction/")]
    assert len(added) == pairs.manifest["counts"]["correction_pairs"] > 3
    alone = make(BUILD_PAIRS, dataclasses.replace(args, corrections=[]), tmp_path)[0]
    assert len(alone.rows(RefinementPair)) == len(pairs.rows(RefinementPair)) - len(added)
    tested = corrected(tmp_path / "test", [dataclasses.replace(one, split="test") for one in problems])
    with pytest.raises(ValueError, match="is of the test split, which trains no model"):
        make(BUILD_PAIRS, dataclasses.replace(args, corrections=[tested]), tmp_path)


def test_parents_that_do_not_fit_are_named(made, tmp_path):
    with pytest.raises(ArtifactError, match=r"labels: .*made by stage sample"):
        make(BUILD_PAIRS, PairArgs(rollouts=made["rollouts"], labels=made["rollouts"]), tmp_path)

    def others(_args, work) -> None:
        work.write_rows("problems", [problem("other")])
        work.write_rows("rows", [rollout(["a"], True, 0, "other")])

    foreign, _ = make(
        Stage("sample", 1, SampleArgs, others), SampleArgs(policy=str(tmp_path / "policy"), seed=1), tmp_path
    )
    parents = {"rollouts": foreign, "labels": open_artifact(made["labels"])}
    with pytest.raises(ValueError, match="labels of 1 problems that the rollouts do not have, such as p"):
        build_pairs(PairArgs(rollouts="r", labels="l"), Workspace(tmp_path, parents, Untracked()))
