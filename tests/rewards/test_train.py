"""The stage that trains reward models: held out by problem, thresholds, the shuffled control, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from refine.revise import REVISE, ReviseArgs
from rewards.encode import LabelledSolution
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs, label_right
from rewards.scorer import load_scorer
from rewards.thresholds import by_position
from rewards.train import (
    TRAIN_REWARD,
    TrainRewardArgs,
    build_solutions,
    shuffle_labels,
    split_problems,
)
from rollouts.records import Candidate, StepLabels
from rollouts.sampling.sample import SampleArgs
from stages import processes
from stages.artifacts import ArtifactError, open_artifact
from stages.make import make
from stages.stage import Stage
from stages.tracking import Tracker
from stages.workspace import Quarantined, Untracked, Workspace
from tests.tiny import problem, rollout, save_policy
from tests.training.runs import close, on_two
from training.args import EarlyStoppingArgs, TrainArgs
from training.loop import TrainingError

PROBLEMS = [problem(f"p{i}", question=f"Ann has {i} pens. How many pens does Ann have?") for i in range(30)]
FAST = TrainArgs(device="cpu", tokens_per_step=1500, tokens_per_batch=1500, learning_rate=1e-2, epochs=12)


def rollouts_of(i: int, per_problem: int = 6) -> list:
    """Solutions of problem i: right where the second step takes 1 away, wrong where it adds 1."""
    found = []
    for sample in range(per_problem):
        right = sample % 2 == 0
        steps = [f"<<{i}+2={i + 2}>>{i + 2}", "<<9-1=8>>8" if right else "<<9+1=10>>10", f"#### {sample}"]
        found.append(rollout(steps, right, sample, PROBLEMS[i].id))
    return found


def labels_of(row) -> StepLabels:
    if row.correct:
        return label_right(row)
    return StepLabels(row.id, row.problem_id, row.steps, False, (True, False, False), (1, 0, 0), (2, 2, 0), None, ())


def write_rollouts(_args, work) -> None:
    work.write_rows("problems", PROBLEMS)
    work.write_rows("rows", [row for i in range(len(PROBLEMS)) for row in rollouts_of(i)])


def write_labels(_args, work) -> None:
    work.write_rows("problems", PROBLEMS)
    work.write_rows("rows", [labels_of(row) for i in range(len(PROBLEMS)) for row in rollouts_of(i)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("train_reward")
    policy = save_policy(root / "policy", layers=2)
    rollouts, _ = make(Stage("sample", 1, SampleArgs, write_rollouts), SampleArgs(policy=policy), root)
    args = LabelArgs(rollouts=str(rollouts.path), policy=policy)
    labels, _ = make(dataclasses.replace(LABEL_STEPS, run=write_labels), args, root)
    return {"root": str(root), "policy": policy, "rollouts": str(rollouts.path), "labels": str(labels.path)}


def tracked(folder, key) -> Tracker:
    return Tracker(folder)


def args_of(made, kind: str, **changes) -> TrainRewardArgs:
    source = {"rollouts": made["rollouts"]} if kind == "orm" else {"labels": made["labels"]}
    given_ = {"kind": kind, "policy": made["policy"], "validation_share": 0.2, "train": FAST} | source
    return TrainRewardArgs(**(given_ | changes))


@given(st.lists(st.text("abcdef", max_size=2)), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_share_of_the_problems_is_held_out(ids, share, seed):
    unique = set(ids)
    if len(unique) < 2:
        with pytest.raises(ValueError, match=f"not {len(unique)}"):
            split_problems(ids, share, seed)
        return
    held = split_problems(ids, share, seed)
    assert held < unique and len(held) == min(len(unique) - 1, max(1, round(share * len(unique))))
    assert held == split_problems(sorted(unique, reverse=True), share, seed)


@pytest.mark.parametrize("kind", ["orm", "sorm"])
def test_no_problem_is_in_both_parts_and_training_is_balanced(made, tmp_path, kind):
    args = args_of(made, kind)
    field = "rollouts" if kind == "orm" else "labels"
    work = Workspace(tmp_path, {field: open_artifact(made[field])}, Untracked())
    train, validation = build_solutions(args, work)
    ours, theirs = ({s.problem_id for s in part} for part in (train, validation))
    assert not ours & theirs and len(theirs) == 6 and ours | theirs == {p.id for p in PROBLEMS}
    counts = Counter((i, label) for s in train for i, label in enumerate(s.labels))
    if kind == "orm":
        assert all(counts[i, 1.0] == counts[i, 0.0] == 24 * 3 for i in range(3))
        assert len(validation) == 36 and all(None not in s.labels for s in validation)
        last, _ = build_solutions(dataclasses.replace(args, positions="last"), work)
        assert {s.labels[:2] for s in last} == {(None, None)}
    else:
        assert counts[0, 1.0] == counts[0, 0.0] == 0  # the first step is never wrong: nothing to balance it with
        assert counts[1, 1.0] == counts[1, 0.0] == counts[2, 0.0] == 24 * 3
        free, _ = build_solutions(dataclasses.replace(args, balance_lengths=False), work)
        assert sum(s.labels[0] == 1.0 for s in free) == 24 * 6


def write(name: str, cls, rows, problems, root, **args) -> str:
    """An artifact with these rows."""

    def run(_args, work) -> None:
        work.write_rows("problems", problems)
        work.write_rows("rows", rows)

    return str(make(Stage(name, 1, cls, run), cls(**args), root)[0].path)


def test_an_orm_learns_from_several_parents_without_duplicates_and_cut_texts(made, tmp_path):
    """Rollouts of two rounds, and refinements of other training problems."""
    again = [row for i in range(10) for row in rollouts_of(i, 8)]  # six of eight are those of `made`
    cut = [dataclasses.replace(row, finish_reason="length", id=f"{row.id}/cut", steps=("cut",)) for row in again]
    second = write("sample", SampleArgs, [*again, *cut, *again], PROBLEMS, tmp_path, policy=made["policy"])
    others = [dataclasses.replace(PROBLEMS[0], id=f"other{i}", question=f"Question {i}?") for i in range(10)]
    refined = [
        Candidate(one.id, kind, "none", None, 0, "", (f"{kind} of {i}",), "1", kind != "draft", tokens)
        for i, one in enumerate(others)
        for kind, tokens in (("draft", 5), ("global", 5), ("control", 512))
    ]
    of = {"drafts": second, "global_refiner": made["policy"], "local_refiner": made["policy"], "where": ["none"]}
    candidates = write("revise", ReviseArgs, refined, others, tmp_path, **of)
    args = args_of(made, "orm", more_rollouts=[second, candidates], validation_share=0.01)
    how = dataclasses.replace(FAST, max_steps=1)
    found, _ = make(TRAIN_REWARD, dataclasses.replace(args, train=how), tmp_path)
    assert [one["stage"] for one in found.manifest["parents"]["more_rollouts"]] == ["sample", REVISE.name]
    more = [open_artifact(path) for path in (second, candidates)]
    work = Workspace(tmp_path, {"rollouts": open_artifact(made["rollouts"]), "more_rollouts": more}, Untracked())
    train, validation = build_solutions(args, work)
    assert len({(s.problem_id, s.steps) for s in train}) == len(train)
    held = {s.problem_id for s in validation}
    own = [min(8, 8 if i < 10 else 6) for i in range(30) if f"p{i}" not in held]
    new = [one.id for one in others if one.id not in held]
    assert len(train) == sum(own) + 2 * len(new) and not any(s.steps == ("cut",) for s in train)
    assert {s.steps[0] for s in train if s.problem_id == new[0]} == {
        f"{kind} of {new[0][5:]}" for kind in ("draft", "global")
    }
    counts = found.manifest["counts"]
    assert counts["truncated"] == 80 + 10 and counts["ungraded"] == 0 and counts["unbalanced"] == 0
    assert counts["duplicates"] == work.counts["duplicates"] == 160 - 20 - 14 * sum(f"p{i}" in held for i in range(10))


def test_duplicates_are_dropped_before_balancing(made, tmp_path):
    """Eight right rollouts with one text and two wrong ones: one of each is left, not two."""
    rows = [
        dataclasses.replace(
            row, id=str(n), steps=row.steps if n % 5 else ("<<9+1=10>>10", f"#### {n}"), correct=n % 5 > 0
        )
        for i in range(4)
        for n, row in enumerate(rollouts_of(i, 1) * 10)
    ]
    path = write("sample", SampleArgs, rows, PROBLEMS, tmp_path, policy=made["policy"])
    work = Workspace(tmp_path, {"rollouts": open_artifact(path)}, Untracked())
    train, validation = build_solutions(args_of(made, "orm", rollouts=path), work)
    assert Counter(s.labels[-1] for s in train) == {1.0: 3, 0.0: 3} and len(validation) == 10
    assert work.counts == {"truncated": 0, "ungraded": 0, "duplicates": 3 * 7, "unbalanced": 3}


def test_problems_that_must_not_train_a_judge(made, tmp_path):
    for change, message in (
        ({"split": "test"}, "problem p3 is of the test split"),
        ({"question": "Another?"}, "problem p3 is another one here"),
    ):
        path = write("sample", SampleArgs, rollouts_of(3), [dataclasses.replace(PROBLEMS[3], **change)],
                     tmp_path / message[:14], policy=made["policy"], seed=len(message))  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make(TRAIN_REWARD, args_of(made, "orm", more_rollouts=[path]), tmp_path)


def test_shuffling_moves_labels_and_keeps_their_number_and_places():
    rng = random.Random(0)
    solutions = [
        LabelledSolution("p", ("x",) * 4, tuple(rng.choice([None, 0.0, 1.0]) for _ in range(4))) for _ in range(50)
    ]
    shuffled = shuffle_labels(solutions, 0)
    assert shuffled == shuffle_labels(solutions, 0) != solutions
    for one, other in zip(solutions, shuffled, strict=True):
        assert [label is None for label in one.labels] == [label is None for label in other.labels]
        assert (one.problem_id, one.steps) == (other.problem_id, other.steps)
    assert Counter(label for s in solutions for label in s.labels) == Counter(l for s in shuffled for l in s.labels)  # noqa: E741


@pytest.fixture(scope="module")
def orm(made):
    return make(TRAIN_REWARD, args_of(made, "orm"), made["root"], tracked)[0]


def test_an_orm_learns_what_tells_right_from_wrong(made, orm):
    counts = orm.manifest["counts"]
    assert counts["validation_final_auroc"] > 0.95 and counts["validation_pairwise_accuracy"] > 0.95
    assert counts["labels"] == 24 * 6 * 3 and counts["labels_lost"] == 0
    assert orm.manifest["tokens"] == counts["trained_tokens"] > 0
    scorer = load_scorer(orm.path, device="cpu")
    assert scorer.kind == "orm" and scorer.threshold == counts["validation_threshold"]
    assert scorer.final_threshold == counts["validation_final_threshold"] != scorer.threshold
    assert counts["validation_final_accuracy"] > 0.9
    right, wrong = scorer.score([PROBLEMS[3]] * 2, [row.steps for row in rollouts_of(3)[:2]])
    assert right[1] > scorer.threshold > wrong[1]
    assert right[0] == pytest.approx(wrong[0], abs=1e-6)  # the steps so far are the same, and so is the score


def test_what_evaluations_say_has_fixed_names(orm):
    """In metrics.jsonl as in the manifest."""
    rows = [json.loads(line) for line in (orm.path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "auroc" in row]
    places = {f"accuracy_at_{place}" for place in (1, 2, 3)}
    names = {"cross_entropy", "auroc", "brier", "calibration_error", "accuracy", "threshold"} | places
    names |= {"final_threshold", "final_accuracy"}
    assert len(evaluated) == 4 and all(names <= row.keys() for row in evaluated)
    last = {f"validation_{name}": evaluated[-1][name] for name in names | {"pairwise_accuracy", "final_auroc"}}
    assert last.items() <= orm.manifest["counts"].items()


def test_stopping_early_saves_the_best_model(made, tmp_path):
    """With a learning rate that soon spoils it."""
    stopping = EarlyStoppingArgs("cross_entropy", "min", 2)
    how = dataclasses.replace(FAST, epochs=30, learning_rate=3e-2, evaluations=15, early_stopping=stopping)
    found, _ = make(TRAIN_REWARD, args_of(made, "orm", shuffled_labels=True, train=how), tmp_path, tracked)
    rows = [json.loads(line) for line in (found.path / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "auroc" in row]
    best = min(evaluated, key=lambda row: row["cross_entropy"])
    counts = found.manifest["counts"]
    assert counts["best_step"] == best["step"] and counts["validation_cross_entropy"] == best["cross_entropy"]
    assert evaluated.index(best) + 3 == len(evaluated) < 15 and counts["steps"] == evaluated[-1]["step"]
    # what is saved is what was measured then
    assert load_scorer(found.path, device="cpu").threshold == best["threshold"] == counts["validation_threshold"]


def test_a_sorm_may_go_on_from_an_orm(made, orm):
    args = args_of(made, "sorm", policy=str(orm.path), train=dataclasses.replace(FAST, epochs=4))
    sorm, _ = make(TRAIN_REWARD, args, made["root"])
    scorer, counts = load_scorer(sorm.path, device="cpu"), sorm.manifest["counts"]
    assert scorer.kind == "sorm" and scorer.final_threshold == counts["validation_final_threshold"]
    # labels of the held-out problems: 36 of 36 right at the first step, half of them later
    priors = [37 / 38, 19 / 38, 19 / 38]
    assert scorer.threshold == pytest.approx(by_position(counts["validation_threshold"], priors))
    assert counts["validation_first_error_f1"] > 0.9
    assert sorm.manifest["counts"]["validation_auroc"] > 0.9
    assert sorm.manifest["parents"]["policy"]["key"] == orm.key


def test_an_orm_learns_from_pairs(made, tmp_path):
    found, _ = make(TRAIN_REWARD, args_of(made, "orm", loss="pairwise"), tmp_path)
    counts = found.manifest["counts"]
    assert counts["labels"] == 24 * 6 and counts["unpaired"] == 0  # one a solution
    assert counts["validation_pairwise_accuracy"] > 0.95
    right, wrong = load_scorer(found.path, device="cpu").score([PROBLEMS[3]] * 2, [r.steps for r in rollouts_of(3)[:2]])
    assert 1 >= right[-1] > wrong[-1] >= 0
    head = load_file(found.path / "model.safetensors")["score.bias"]
    assert float(head) == 0  # no pair says anything of it


def test_a_sorm_learns_to_rank_steps(made, tmp_path):
    args = args_of(made, "sorm", loss="pqm", balance_lengths=False)
    found, _ = make(TRAIN_REWARD, args, tmp_path)
    assert found.manifest["counts"]["validation_first_error_f1"] > 0.9
    right, wrong = load_scorer(found.path, device="cpu").score([PROBLEMS[3]] * 2, [r.steps for r in rollouts_of(3)[:2]])
    assert min(right) > 0.5 > wrong[1] and right[0] < right[2]  # right steps rise from 0.5, a wrong one is below it


def test_shuffled_labels_teach_nothing(made, orm):
    control, _ = make(TRAIN_REWARD, args_of(made, "orm", shuffled_labels=True), made["root"])
    # how good its order is by chance says nothing; how far its probabilities are from the truth does
    assert control.manifest["counts"]["validation_brier"] > 0.2 > 2 * orm.manifest["counts"]["validation_brier"]


def test_the_same_arguments_give_the_same_weights(made, tmp_path):
    args = args_of(made, "sorm", train=dataclasses.replace(FAST, max_steps=3))
    first, second = (make(TRAIN_REWARD, args, tmp_path / name)[0] for name in "ab")
    assert first.manifest["files"] == second.manifest["files"] and first.key == second.key


def _on_each(args: TrainRewardArgs, root: str) -> None:
    make(TRAIN_REWARD, args, root, tracked)
    processes.current().leave()


@pytest.mark.parametrize("shard", ["none", "fsdp2"])
def test_two_processes_make_the_same_reward_model(made, tmp_path, shard):
    """With evaluations on the way, where every weight is shared out too.

    Not balanced: the first gradient of the head's bias is then nothing but rounding, and Adam makes a step of it.
    """
    stopping = EarlyStoppingArgs("auroc")
    how = dataclasses.replace(FAST, max_steps=8, learning_rate=1e-3, shard=shard, early_stopping=stopping)
    args = args_of(made, "sorm", train=how, balance_lengths=False)
    one, _ = make(TRAIN_REWARD, args, tmp_path / "one")
    on_two(_on_each, args, tmp_path / "two")
    two, there = make(TRAIN_REWARD, args, tmp_path / "two")
    assert there and two.key == one.key
    ours, theirs = (load_file(found.path / "model.safetensors") for found in (one, two))
    close(ours, theirs)
    for name, value in one.manifest["counts"].items():
        if name not in ("train_seconds", "useful_tokens"):  # those of the first process
            assert two.manifest["counts"][name] == pytest.approx(value, rel=1e-3), name


def test_labels_beyond_max_length_are_counted(made, tmp_path):
    args = args_of(made, "orm", max_length=24, train=dataclasses.replace(FAST, max_steps=2))
    counts = make(TRAIN_REWARD, args, tmp_path)[0].manifest["counts"]
    assert counts["labels_lost"] > 0 and counts["labels"] + counts["labels_lost"] == 24 * 6 * 3


@pytest.mark.parametrize("many", [1, 30])
def test_what_is_held_out_and_too_long_is_left_out_and_counted(made, tmp_path, many):
    """One problem of those held out, or all of them: their solutions do not fit the model's context of 128 tokens."""
    args = args_of(made, "orm", train=dataclasses.replace(FAST, max_steps=2))
    held = sorted(split_problems([p.id for p in PROBLEMS], args.validation_share, args.train.seed))[:many]

    def write(_args, work) -> None:
        work.write_rows("problems", PROBLEMS)
        rows = [row for i in range(len(PROBLEMS)) for row in rollouts_of(i)]
        longer = [("<<9-1=8>>8",) * 30 if row.problem_id in held else row.steps for row in rows]
        work.write_rows("rows", [dataclasses.replace(r, steps=s) for r, s in zip(rows, longer, strict=True)])

    drafts, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=made["policy"], seed=many), tmp_path)
    found, _ = make(TRAIN_REWARD, dataclasses.replace(args, rollouts=str(drafts.path)), tmp_path, tracked)
    counts = found.manifest["counts"]
    assert (counts["validation_too_long"], counts["validation_labels_lost"]) == (len(held) * 6, len(held) * 6 * 30)
    assert counts["labels"] == 24 * 6 * 3 and counts["labels_lost"] == 0
    assert ("validation_brier" in counts) == (many == 1)  # with none left there is nothing to measure
    rows = found.rows(Quarantined, "quarantine")
    assert {row.id for row in rows} == set(held) and all("the orm reads 128" in row.reason for row in rows)


def test_nothing_to_train_on(made, tmp_path):
    args = args_of(made, "orm", max_length=8)
    with pytest.raises(TrainingError, match="no example"):
        make(TRAIN_REWARD, args, tmp_path)
    empty, _ = make(TRAIN_REWARD, dataclasses.replace(args, allow_empty=True), tmp_path)
    assert empty.manifest["counts"]["labels"] == 0 and empty.manifest["tokens"] == 0
    scores = load_scorer(empty.path, device="cpu").score(PROBLEMS[:1], ["#### 3"])
    assert scores == [[0.5]]


def test_an_artifact_of_another_stage_is_refused(made, tmp_path):
    args = dataclasses.replace(args_of(made, "orm"), rollouts=made["labels"])
    with pytest.raises(ArtifactError, match=r"rollouts: .*label_steps.*wanted is an artifact of stage sample"):
        make(TRAIN_REWARD, args, tmp_path)


SORM = {"kind": "sorm", "rollouts": None, "labels": "x"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "prm"}, "'prm'"),
        ({"positions": "first"}, "'first'"),
        ({"balance": "step"}, "'step'"),
        ({"rollouts": None}, "rollouts=None"),
        ({"labels": "x"}, "labels=x"),
        ({"kind": "sorm"}, "kind=sorm"),
        ({"validation_share": 0.0}, "not 0.0"),
        ({"validation_share": 1.0}, "not 1.0"),
        ({"max_length": 3}, "not 3"),
        (
            {"kind": "sorm", "rollouts": None, "labels": "x", "more_rollouts": ["y"]},
            "more_rollouts=\\['y'\\] are an orm's",
        ),
        ({"targets": "fuzzy"}, "targets='fuzzy'"),
        ({"targets": "soft"}, "targets='soft' must be hard, or soft for a sorm"),
        ({"loss": "mse"}, "loss.*'mse'"),
        ({"margin": -1.0}, "margin.*-1.0"),
        ({"loss": "pqm"}, "loss=pqm .*kind=orm"),
        ({"kind": "sorm", "rollouts": None, "labels": "x", "loss": "pairwise"}, "loss=pairwise .*kind=sorm"),
        (
            {"kind": "sorm", "rollouts": None, "labels": "x", "loss": "pqm", "targets": "soft"},
            "loss=pqm .*targets=soft",
        ),
        ({"kind": "sorm", "rollouts": None, "labels": "x", "loss": "pqm", "names": True}, "loss=pqm .*names=True"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainRewardArgs(**({"policy": "p", "rollouts": "r"} | changes)).validate()
    TrainRewardArgs(policy="p", rollouts="r").validate()
