"""The stage that trains policies: which texts of which rows, and the checkpoint that it leaves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.oracle import OracleArgs
from refine.lema.texts import CorrectionTextArgs, correction_texts
from refine.mix import MixArgs
from refine.pairs import BUILD_PAIRS, PairArgs
from refine.train_policy import (
    TRAIN_POLICY,
    Row,
    TrainPolicyArgs,
    hold_out,
    pair_texts,
    rollout_texts,
    solution_texts,
)
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Correction, Problem, RefinementPair
from rollouts.sampling.policies import load_policy
from rollouts.sampling.sample import SampleArgs
from stages.artifacts import Artifact, ArtifactError
from stages.make import make
from stages.stage import Stage
from tests.refine.lema.made import make_mistakes, world_mistakes, write_script
from tests.tiny import problem, rollout, save_policy
from training.args import EarlyStoppingArgs, TrainArgs
from training.completions import Text, completion_loss, encode_completion
from training.examples import pad_batch
from training.models import ModelArgs

SMALL = ModelArgs(hidden_size=32, layers=1, heads=2, feed_forward=64, context=512)
FAST = TrainArgs(device="cpu", tokens_per_step=1500, tokens_per_batch=1500, learning_rate=1e-2, max_steps=4)
FEW = ProblemArgs(limit=40)
PAIRS = [
    RefinementPair("global/1", "p", "global", "Why?", ("a",), None, ("b", "#### 1")),
    RefinementPair("control/1", "p", "control", "Why?", (), None, ("b", "#### 1")),
    RefinementPair("local/1", "p", "local", "Why?", ("a", "c"), 1, ("d", "#### 1")),
]


def args_of(**changes) -> TrainPolicyArgs:
    return TrainPolicyArgs(**({"problems": FEW, "model": SMALL, "train": FAST} | changes))


def test_gold_solutions_become_lines():
    rows = [
        dataclasses.replace(problem("a", "One?"), solution=" <<1+0=1>>1 \n\n#### 1"),
        problem("b", "Two?"),
        dataclasses.replace(problem("c", "Three?"), solution=" \n "),
    ]
    assert solution_texts(rows) == [Text("Q: One?\n", "<<1+0=1>>1\n#### 1\n")]


def test_right_rollouts_once_each_and_so_many_a_problem():
    rows = [
        rollout(["a"], False, 0),
        rollout(["b"], True, 1),
        rollout(["b"], True, 2),
        rollout([], True, 3),
        rollout(["c"], True, 4),
        rollout(["d"], None, 5),
        rollout(["e"], True, 6),
        rollout(["b"], True, 0, "q"),
    ]
    problems = {"p": problem("p", "One?"), "q": problem("q", "Two?")}
    found = rollout_texts(problems, rows, 2)
    assert found == [Text("Q: One?\n", "b\n"), Text("Q: One?\n", "c\n"), Text("Q: Two?\n", "b\n")]
    assert len(rollout_texts(problems, rows, 9)) == len(rollout_texts(problems, rows)) == 4


def rounds_of_rollouts(root):
    """Two artifacts of rollouts of the same problems, which have a right solution in common."""
    shared = ["<<1+1=2>>2", "#### 2"]
    rounds = ([(shared, True), (["#### 3"], False)], [(shared, True), (["<<2+0=2>>2", "#### 2"], True)])
    paths = []
    for number, own in enumerate(rounds):

        def write(args, work, own=own):
            work.write_rows("problems", [problem("p", "Ada has 2 eggs.")])
            work.write_rows("rows", [rollout(steps, right, i) for i, (steps, right) in enumerate(own)])

        found, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(str(root / "elsewhere"), seed=number), root)
        paths.append(str(found.path))
    return paths


def test_rollouts_of_several_rounds_count_once_each(tmp_path):
    policy = save_policy(tmp_path / "elsewhere")
    earlier, latest = rounds_of_rollouts(tmp_path)
    args = args_of(policy=policy, examples=["rollouts"], rollouts=latest, more_rollouts=[earlier])
    both, _ = make(TRAIN_POLICY, args, tmp_path)
    one, _ = make(TRAIN_POLICY, dataclasses.replace(args, rollouts=earlier, more_rollouts=[]), tmp_path)
    assert (both.manifest["counts"]["rollouts_texts"], one.manifest["counts"]["rollouts_texts"]) == (2, 1)
    assert [parent["key"] for parent in both.manifest["parents"]["more_rollouts"]] == [earlier.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (problem("p", "Two?"), r"problem p is another one here, 'Ada has 2 eggs.', than before, 'Two\?'"),
        (dataclasses.replace(problem("q"), split="test"), "problem q is of the test split, which trains no model"),
    ],
    ids=["same id", "test split"],
)
def test_rollouts_of_test_problems_and_of_others_with_the_same_ids_are_refused(other, message, tmp_path):
    def write(args, work):
        work.write_rows("problems", [other])
        work.write_rows("rows", [rollout(["a"], True, 0, other.id)])

    policy = save_policy(tmp_path / "elsewhere")
    earlier = rounds_of_rollouts(tmp_path)[0]
    found, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(str(policy), seed=7), tmp_path)
    args = args_of(policy=policy, examples=["rollouts"], rollouts=str(found.path), more_rollouts=[earlier])
    with pytest.raises(ValueError, match=message):
        make(TRAIN_POLICY, args, tmp_path)


def test_pairs_of_the_kinds_asked_for():
    assert pair_texts(PAIRS, ["global"]) == [Text("Q: Why?\na\n[REFINE]\n", "b\n#### 1\n")]
    assert pair_texts(PAIRS, ["control"]) == [Text("Q: Why?\n[REFINE]\n", "b\n#### 1\n")]
    assert pair_texts(PAIRS, ["local"]) == [Text("Q: Why?\na\n[BAD]c\n[REFINE]\na\n", "d\n#### 1\n")]
    assert pair_texts(PAIRS, []) == []


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    root = tmp_path_factory.mktemp("train_policy")
    args = args_of(train=dataclasses.replace(FAST, epochs=30, max_steps=60))
    return make(TRAIN_POLICY, args, root)[0]


def test_a_student_from_nothing_learns_and_loads(student):
    model, tokenizer = load_policy(str(student.path), device="cpu")
    counts = student.manifest["counts"]
    assert counts["solutions_texts"] == counts["examples"] == 40 and counts["too_long"] == 0
    assert counts["steps"] == 60
    assert student.manifest["tokens"] == counts["trained_tokens"] > 0
    assert counts["loss"] < 3.5  # that of a guess among 251 words is 5.5
    assert model.config.hidden_size == 32 and len(tokenizer) == model.config.vocab_size


def test_questions_are_held_out_with_all_of_their_texts():
    rows = [Row("global", f"{i % 10}?", Text(f"Q: {i % 10}?\n", str(i))) for i in range(40)]
    train, held = hold_out(rows, 0.2, 0)
    ours, theirs = ({row.question for row in part} for part in (train, held))
    assert len(theirs) == 2 and not ours & theirs and sorted(train + held, key=rows.index) == rows
    assert hold_out(rows, 0.2, 0) == (train, held) != hold_out(rows, 0.2, 1)
    assert hold_out(rows, 0.0, 0) == (rows, []) and hold_out(rows[:1], 0.5, 0) == (rows[:1], [])
    assert len(hold_out(rows[:2], 0.9, 0)[1]) == 1


def test_the_loss_on_texts_held_out_is_measured_and_may_stop_early(student, tmp_path):
    """It is that of the model that is saved, worked out anew."""
    stopping = EarlyStoppingArgs("cross_entropy", "min", 1)
    train = dataclasses.replace(FAST, max_steps=None, epochs=40, evaluations=20, early_stopping=stopping)
    args = args_of(policy=str(student.path), validation_share=0.25, train=train)
    found, _ = make(TRAIN_POLICY, args, tmp_path)
    counts = found.manifest["counts"]
    assert counts["examples"] == 30 and counts["steps"] > counts["best_step"]
    model, tokenizer = load_policy(str(found.path), device="cpu")
    rows = [Row("solutions", text.prompt[3:-1], text) for text in solution_texts(load_problems(FEW))]
    _, held = hold_out(rows, 0.25, 0)
    total = targets = 0
    for row in held:
        batch = pad_batch([encode_completion(tokenizer, row.text)], 0)
        with torch.no_grad():
            total, targets = total + float(completion_loss(model, batch)), targets + len(batch.targets)
    assert counts["validation_cross_entropy"] == pytest.approx(total / targets, rel=1e-4)


def test_the_same_arguments_give_the_same_weights(tmp_path):
    first, second = (make(TRAIN_POLICY, args_of(), tmp_path / name)[0] for name in "ab")
    assert first.manifest["files"] == second.manifest["files"]


@pytest.fixture
def parents(tmp_path) -> dict[str, str]:
    def write_rollouts(_args, work) -> None:
        work.write_rows("problems", [problem()])
        work.write_rows("rows", [rollout(["<<7+5=12>>12", "#### 12"], True), rollout(["#### 1"], False, 1)])

    def write_pairs(_args, work) -> None:
        work.write_rows("rows", PAIRS[:2])

    (tmp_path / "policy").mkdir()
    args = SampleArgs(policy=str(tmp_path / "policy"))
    rollouts, _ = make(Stage("sample", 1, SampleArgs, write_rollouts), args, tmp_path)
    pairs, _ = make(dataclasses.replace(BUILD_PAIRS, run=write_pairs), PairArgs(rollouts=str(rollouts.path)), tmp_path)
    return {"rollouts": str(rollouts.path), "pairs": str(pairs.path)}


def test_a_policy_goes_on_from_another_with_rows_of_every_kind(student, parents, tmp_path):
    args = args_of(examples=["rollouts", "global", "control"], policy=str(student.path), **parents)
    artifact, _ = make(TRAIN_POLICY, args, tmp_path)
    counts = artifact.manifest["counts"]
    assert [counts[f"{name}_texts"] for name in args.examples] == [1, 1, 1]
    before, after = (load_policy(str(path), device="cpu")[0] for path in (student.path, artifact.path))
    assert not torch.equal(before.model.norm.weight, after.model.norm.weight)
    assert artifact.manifest["parents"]["policy"]["key"] == student.key


@pytest.fixture(scope="module")
def corrections(tmp_path_factory) -> Artifact:
    """Some of them wrong, so that not all are kept."""
    root = tmp_path_factory.mktemp("corrections")
    problems, own = world_mistakes(12, FEW.world)
    mistakes = make_mistakes(root, write_script(root / "student", {"*": ["a"]}), own, problems)
    return make(CORRECT, CorrectArgs(mistakes=str(mistakes.path), oracle=OracleArgs(wrong_correction=0.3)), root)[0]


def test_corrections_that_are_kept_are_trained_on_with_words_that_the_student_did_not_know(
    student, corrections, tmp_path
):
    kept = [one for one in corrections.rows(Correction) if one.reason is None]
    assert 0 < len(kept) < len(corrections.rows(Correction))
    settings = {"policy": str(student.path), "corrections": [str(corrections.path)]}
    found, _ = make(TRAIN_POLICY, args_of(examples=["solutions", "corrections"], **settings), tmp_path)
    counts = found.manifest["counts"]
    assert (counts["solutions_examples"], counts["corrections_examples"]) == (40, len(kept))
    # FAST ends after 4 steps, which are not all of the tokens
    assert counts["trained_tokens"] < counts["solutions_tokens"] + counts["corrections_tokens"]
    model, tokenizer = load_policy(str(found.path), device="cpu")
    assert model.config.vocab_size == len(tokenizer) > load_policy(str(student.path), device="cpu")[0].config.vocab_size
    before = load_policy(str(student.path), device="cpu")[1]
    text = "Incorrect Step: Step 1\nExplanation: " + kept[0].explanation
    assert before.unk_token_id in before(text).input_ids
    assert (
        tokenizer.decode(tokenizer(text).input_ids) == text and tokenizer.unk_token_id not in tokenizer(text).input_ids
    )
    asked = "Q: Ann has 7 pens. How many pens does Ann have?\n"
    assert tokenizer(asked).input_ids == before(asked).input_ids  # the words of before have their ids
    again, _ = make(TRAIN_POLICY, args_of(examples=["solutions", "corrections"], **settings), tmp_path / "again")
    assert again.manifest["files"] == found.manifest["files"]


def test_corrections_of_test_problems_train_nobody(student, tmp_path):
    problems, own = world_mistakes(3, FEW.world)
    tested = [dataclasses.replace(one, split="test") for one in problems]
    mistakes = make_mistakes(tmp_path, write_script(tmp_path / "student", {"*": ["a"]}), own, tested)
    made, _ = make(CORRECT, CorrectArgs(mistakes=str(mistakes.path)), tmp_path)
    args = args_of(examples=["corrections"], policy=str(student.path), corrections=[str(made.path)])
    with pytest.raises(ValueError, match="is of the test split, which trains no model"):
        make(TRAIN_POLICY, args, tmp_path)


def test_a_mix_has_the_size_of_the_solutions_alone(student, corrections, tmp_path):
    settings = {"policy": str(student.path), "corrections": [str(corrections.path)]}
    alone, _ = make(TRAIN_POLICY, args_of(policy=str(student.path)), tmp_path)
    counts = alone.manifest["counts"]
    args = args_of(examples=["solutions", "corrections"], **settings)
    equal, _ = make(TRAIN_POLICY, dataclasses.replace(args, mix=MixArgs("examples", corrections=0.5)), tmp_path)
    own = equal.manifest["counts"]
    assert own["solutions_examples"] == own["corrections_examples"] == 20
    equal, _ = make(TRAIN_POLICY, dataclasses.replace(args, mix=MixArgs("tokens", corrections=0.5)), tmp_path)
    own = equal.manifest["counts"]
    missing = counts["solutions_tokens"] - own["solutions_tokens"] - own["corrections_tokens"]
    assert 0 <= missing < 100  # less than the next example has
    # whole examples, as many as fit: less than the next one is missing
    _, tokenizer = load_policy(str(equal.path), device="cpu")
    problems = {problem.id: problem for problem in corrections.rows(Problem, "problems")}
    texts = correction_texts(problems, corrections.rows(Correction), args.correction, args.prompt)
    longest = max(len(tokenizer(text.prompt).input_ids + tokenizer(text.completion).input_ids) for text in texts)
    assert 0 <= counts["solutions_tokens"] // 2 - own["corrections_tokens"] <= longest + 1 < 500  # an end token


def test_rows_of_which_there_are_none(student, parents, tmp_path):
    args = args_of(examples=["local"], policy=str(student.path), pairs=parents["pairs"])
    with pytest.raises(ValueError, match="examples=local: there is not one"):
        make(TRAIN_POLICY, args, tmp_path)
    handed_on, _ = make(TRAIN_POLICY, dataclasses.replace(args, allow_empty=True), tmp_path)
    before, after = (load_policy(str(path), device="cpu")[0] for path in (student.path, handed_on.path))
    assert all(torch.equal(weight, after.state_dict()[name]) for name, weight in before.state_dict().items())
    assert handed_on.manifest["tokens"] == 0


def test_texts_that_are_all_too_long(tmp_path):
    with pytest.raises(ValueError, match="not one of 40 texts has at most 9 tokens"):
        make(TRAIN_POLICY, args_of(max_length=9), tmp_path)
    with pytest.raises(ValueError, match="at most 8 tokens"):  # nor does a model read beyond its context
        make(TRAIN_POLICY, args_of(model=dataclasses.replace(SMALL, context=8)), tmp_path)
    assert not list(tmp_path.glob("train_policy/*/"))


def test_other_words_need_a_policy_to_start_from(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "What is one and one?", "answer": "2", "solution": "1+1=2\\n#### 2"}\n')
    args = args_of(problems=ProblemArgs(source="jsonl", path=str(file), split_shares=[1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="source=jsonl needs a policy"):
        make(TRAIN_POLICY, args, tmp_path)


def test_a_parent_of_another_stage_is_refused(student, parents, tmp_path):
    with pytest.raises(ArtifactError, match=r"pairs: .*made by stage sample.*build_pairs"):
        make(TRAIN_POLICY, args_of(examples=["global"], pairs=parents["rollouts"]), tmp_path)
    with pytest.raises(ArtifactError, match=r"policy: .*made by stage sample.*train_policy"):
        make(TRAIN_POLICY, args_of(policy=parents["rollouts"]), tmp_path)
    bare = save_policy(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=f"policy folder {bare} has no tokenizer"):
        make(TRAIN_POLICY, args_of(policy=bare), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": []}, r"examples=\[\]"),
        ({"examples": ["solution"]}, "'solution'"),
        ({"examples": ["rollouts"]}, "rollouts=None"),
        ({"rollouts": "x"}, "rollouts=x"),
        ({"examples": ["local"]}, "pairs=None"),
        ({"pairs": "x"}, "pairs=x"),
        ({"examples": ["corrections"]}, r"corrections=\[\]: give both or neither"),
        ({"corrections": ["x"]}, r"corrections=\['x'\]: give both or neither"),
        ({"correction": CorrectionTextArgs(explanation=False)}, "correction has no effect"),
        ({"mix": MixArgs("weight")}, "mix.by='weight'"),
        ({"mix": MixArgs(size=3)}, "mix.size=3 and mix.corrections have no effect"),
        ({"mix": MixArgs("examples")}, "mix.by=examples needs mix.size, or corrections and another kind"),
        ({"max_per_problem": 0}, "not 0"),
        ({"max_length": 3}, "max_length must be at least 8, not 3"),
        ({"validation_share": 1.0}, "not 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        args_of(**changes).validate()
    args_of().validate()
