"""Implicit process rewards: the loss, the scores of steps, and the stage, against plain computations."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rewards.implicit import (
    ImplicitScorer,
    Likelihood,
    implicit_loss,
    load_implicit,
    save_implicit,
    step_rewards,
    token_example,
)
from rewards.reward_model import read_facts
from rewards.scorer import TooLong, load_scorer, score_all
from rewards.train_implicit import TRAIN_IMPLICIT, TrainImplicitArgs
from rollouts.prompts import PLAIN, render_prompt
from rollouts.sampling.sample import SampleArgs
from rollouts.steps import encode_steps
from stages import processes
from stages.artifacts import open_artifact
from stages.make import make
from stages.stage import Stage
from stages.workspace import Untracked, Workspace
from tests.cards import code
from tests.tiny import make_model, problem, rollout, save_policy, tokenizer
from tests.training.runs import close, on_two
from training.adapters import LoraArgs
from training.args import CheckpointArgs, TrainArgs
from training.attention.install import packed_attention
from training.examples import Batch, list_members, pad_batch
from training.packing import pack_batch
from training.prefix_sharing import share_batch

PROBLEMS = [problem(f"p{i}", question=f"Ann has {i} pens. How many pens does Ann have?") for i in range(30)]
STEPS = [["<<7+5=12>>12", "#### 12"], ["<<7+5=12>>12", "<<12-5=7>>7", "#### 7"], ["#### 3"]]
FAST = TrainArgs(device="cpu", tokens_per_step=1500, tokens_per_batch=1500, learning_rate=3e-3, epochs=6)
BETA = 0.5


def ratios(model, reference, encoded) -> list[float]:
    """log(pi / pi_ref) of each token of a solution, one forward pass a token and model, in float64."""
    found = []
    for at in range(encoded.prompt_length, len(encoded.ids)):
        before, token = torch.tensor([encoded.ids[:at]]), encoded.ids[at]
        with torch.no_grad():
            own, old = (m(input_ids=before).logits[0, -1].double().log_softmax(-1)[token] for m in (model, reference))
        found.append(float(own - old))
    return found


def encoded_of(i: int):
    return encode_steps(tokenizer(), render_prompt(PROBLEMS[i].question), STEPS[i])


@pytest.fixture(scope="module")
def pair():
    return make_model(seed=1), make_model(seed=2)


@pytest.fixture(scope="module")
def scorer(pair) -> ImplicitScorer:
    return ImplicitScorer(*pair, tokenizer(), BETA)


def test_scores_of_steps_are_those_of_a_loop_over_tokens(pair, scorer):
    found = scorer.score(PROBLEMS[:3], STEPS)
    for i, own in enumerate(found):
        encoded = encoded_of(i)
        logs = ratios(*pair, encoded)
        q = [BETA * sum(logs[: end + 1 - encoded.prompt_length]) for end in encoded.ends]
        assert own == pytest.approx([1 / (1 + math.exp(-one)) for one in q], abs=1e-5)
        starts = [encoded.prompt_length, *(end + 1 for end in encoded.ends)]
        rewards = [BETA * sum(logs[a - encoded.prompt_length : b - encoded.prompt_length]) for a, b in pairwise(starts)]
        assert scorer.rewards(PROBLEMS[i], STEPS[i]) == pytest.approx(rewards, abs=1e-5)
    assert any(abs(p - 0.5) > 0.01 for own in found for p in own)
    assert step_rewards([0.5, 0.25, 1.0]) == [0.5, -0.25, 0.75]


def test_any_batch_gives_the_same_and_both_readings_are_counted(pair, scorer):
    together = scorer.score(PROBLEMS[:1] * 3, STEPS)
    alone = [scorer.score(PROBLEMS[:1], [steps])[0] for steps in STEPS]
    assert together == [pytest.approx(own, abs=1e-5) for own in alone]
    plain = ImplicitScorer(*pair, tokenizer(), BETA, batch_tokens=60, share_prefixes=False)
    assert plain.score(PROBLEMS[:1] * 3, STEPS) == [pytest.approx(own, abs=1e-5) for own in alone]
    lengths = [len(encode_steps(tokenizer(), render_prompt(PROBLEMS[0].question), steps).ids) for steps in STEPS]
    assert plain.tokens == 2 * sum(lengths) == sum(plain.length(PROBLEMS[0], steps) for steps in STEPS)
    assert plain.score(PROBLEMS[:1], [""]) == [[]]


def examples():
    reader = Likelihood(make_model(), tokenizer(), "implicit", 0.5)
    return [reader.encode(PROBLEMS[0], steps) for steps in STEPS]


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_the_loss_is_the_cross_entropy_of_whole_solutions(pair, layout):
    model, reference = pair
    labels, whole = [1.0, 0.0, 1.0], examples()
    reader = Likelihood(reference, tokenizer(), "implicit", 0.5)
    before = {i: sums[-1] for i, sums, _ in reader.logits(whole, ["a", "b", "c"])}
    loss = implicit_loss(labels, [before[i] for i in range(3)], BETA)
    coded = [token_example(one, number) for number, one in enumerate(whole)]
    batch: Batch = {
        "padded": lambda: pad_batch(coded, 0),
        "packed": lambda: pack_batch([coded], 0),
        "shared": lambda: share_batch(coded, 0, targets_only=True),
    }[layout]()
    batch = dataclasses.replace(batch, members=list_members([[one] for one in coded]))
    expected = 0.0
    for label, steps in zip(labels, STEPS, strict=True):
        encoded = encode_steps(tokenizer(), render_prompt(PROBLEMS[0].question), steps)
        right = 1 / (1 + math.exp(-BETA * sum(ratios(model, reference, encoded))))
        expected -= math.log(right if label else 1 - right)
    if layout == "padded":
        found = loss(model, batch)
    else:
        with packed_attention(model):
            found = loss(model, batch)
    assert found.item() == pytest.approx(expected, abs=1e-4)
    found.backward()
    assert all(weight.grad is None for weight in reference.parameters())
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    model.zero_grad()


def test_the_first_token_needs_a_prompt():
    with pytest.raises(ValueError, match="needs a prompt"):
        token_example(dataclasses.replace(examples()[0], prompt=0))


def outcomes() -> list:
    """Right where the second step takes 1 away, wrong where it adds 1."""
    found = []
    for one in PROBLEMS:
        for sample in range(6):
            right = sample % 2 == 0
            steps = [f"<<{sample}+2={sample + 2}>>{sample + 2}", "<<9-1=8>>8" if right else "<<9+1=10>>10", "#### 1"]
            found.append(rollout(steps, right, sample, one.id))
    return found


def write_rollouts(_args, work) -> None:
    work.write_rows("problems", PROBLEMS)
    work.write_rows("rows", outcomes())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("implicit")
    policy = save_policy(root / "policy")
    rollouts, _ = make(Stage("sample", 1, SampleArgs, write_rollouts), SampleArgs(policy=policy), root)
    args = TrainImplicitArgs(policy=policy, rollouts=str(rollouts.path), validation_share=0.2, train=FAST)
    found, _ = make(TRAIN_IMPLICIT, args, root)
    return {"root": str(root), "policy": policy, "rollouts": str(rollouts.path), "implicit": str(found.path)}


def args_of(made, **changes) -> TrainImplicitArgs:
    own = {"policy": made["policy"], "rollouts": made["rollouts"], "validation_share": 0.2, "train": FAST}
    return TrainImplicitArgs(**(own | changes))


def opened(made) -> ImplicitScorer:
    key = open_artifact(made["implicit"]).manifest["parents"]["policy"]["key"]
    return load_implicit(made["implicit"], made["policy"], key, device="cpu")


def test_it_learns_which_step_is_wrong_from_outcomes_alone(made):
    counts = open_artifact(made["implicit"]).manifest["counts"]
    # (right or wrong) is in the second step only, and the first step tells nothing: of three steps two can be told
    assert counts["validation_final_auroc"] > 0.95 and counts["validation_final_accuracy"] > 0.9
    scorer = opened(made)
    one = PROBLEMS[3]
    right, wrong = (scorer.rewards(one, ["<<1+2=3>>3", step, "#### 1"]) for step in ("<<9-1=8>>8", "<<9+1=10>>10"))
    assert right[1] > 0 > wrong[1] and abs(right[0]) < right[1]
    facts = read_facts(made["implicit"])
    assert facts["reference"] == open_artifact(made["implicit"]).manifest["parents"]["policy"]["key"]
    assert (scorer.threshold, scorer.final_threshold) == (facts["threshold"], facts["final_threshold"])
    assert scorer.final_threshold == pytest.approx(counts["validation_final_threshold"])


def test_untrained_every_probability_is_one_half(made):
    same = ImplicitScorer(make_model(), make_model(), tokenizer(), BETA)
    assert same.score(PROBLEMS[:3], STEPS) == [[0.5] * len(steps) for steps in STEPS]


def test_what_was_killed_goes_on_to_the_same_weights(made, tmp_path, monkeypatch):
    args = args_of(made, train=dataclasses.replace(FAST, max_steps=6, checkpoints=CheckpointArgs(every_steps=1)))
    whole, _ = make(TRAIN_IMPLICIT, args, tmp_path / "whole")
    from training.loop import _Run

    save, left = _Run.save, [3]

    def killed(run) -> None:
        save(run)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Run, "save", killed)
        make(TRAIN_IMPLICIT, args, tmp_path / "again")
    resumed = []
    resume = _Run.resume
    monkeypatch.setattr(_Run, "resume", lambda run: (resume(run), resumed.append(run.done))[0])
    again, _ = make(TRAIN_IMPLICIT, args, tmp_path / "again")
    assert resumed == [3] and again.key == whole.key
    one, other = ((found.path / "model.safetensors").read_bytes() for found in (whole, again))
    assert one == other


def test_every_layout_trains_alike(made, tmp_path):
    found = []
    for layout in ("packed", "padded"):
        how = dataclasses.replace(FAST, max_steps=1, layout=layout)
        artifact, _ = make(TRAIN_IMPLICIT, args_of(made, train=how), tmp_path)
        found.append(artifact.manifest["counts"]["loss"])
    # before the first step every reward is 0, and the loss a mean over solutions (all have as many tokens)
    assert found == [pytest.approx(math.log(2), rel=1e-3)] * 2


def _on_each(args: TrainImplicitArgs, root: str) -> None:
    make(TRAIN_IMPLICIT, args, root)
    processes.current().leave()


@pytest.mark.parametrize(("shard", "rank"), [("none", 0), ("fsdp2", 0), ("none", 4), ("fsdp2", 4)])
def test_two_processes_make_the_same_implicit_reward_model(made, tmp_path, shard, rank):
    """At equal batches, of all weights and of an adapter's."""
    how = dataclasses.replace(FAST, max_steps=4, learning_rate=1e-3, shard=shard)
    args = args_of(made, train=how, lora=LoraArgs(rank=rank, alpha=8))
    one, _ = make(TRAIN_IMPLICIT, args, tmp_path / "one")
    on_two(_on_each, args, tmp_path / "two")
    two, there = make(TRAIN_IMPLICIT, args, tmp_path / "two")
    assert there and two.key == one.key
    ours, theirs, before = (
        load_file(Path(folder) / "model.safetensors") for folder in (one.path, two.path, made["policy"])
    )
    close(ours, theirs)
    moved = {name for name, weight in ours.items() if not torch.allclose(weight, before[name], atol=1e-4)}
    assert moved and (len(moved) < len(ours)) == (rank > 0)  # an adapter is merged into the layers that it is for
    assert two.manifest["tokens"] == one.manifest["tokens"] and "loss" in one.manifest["counts"]
    for name, value in one.manifest["counts"].items():
        if name not in ("train_seconds", "useful_tokens"):  # those of the first process
            assert two.manifest["counts"][name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be in"),
        ({"balance": "odd"}, "balance='?odd"),
        ({"validation_share": 1.0}, "validation_share must be in"),
        ({"max_length": 4}, "max_length must be at least 8"),
    ],
)
def test_settings_out_of_range_are_refused(made, changes, message):
    with pytest.raises(ValueError, match=message):
        args_of(made, **changes).validate()


def test_a_reference_that_is_not_its_own_and_other_models_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"was trained from sha256:\w+, and reference=.* is sha256:0"):
        load_implicit(made["implicit"], made["policy"], "sha256:0", device="cpu")
    with pytest.raises(ValueError, match="is no reward model"):
        load_implicit(made["policy"], made["policy"], "k", device="cpu")
    with pytest.raises(ValueError, match=r"implicit reward model, read beside its reference"):
        load_scorer(made["implicit"], device="cpu")


def test_solutions_too_long_are_left_out_of_training_and_have_no_score(made, tmp_path, scorer):
    with pytest.raises(TooLong):
        scorer.rewards(problem("long", question="Ann has 7 pens. " * 40), STEPS[0])
    artifact, _ = make(TRAIN_IMPLICIT, args_of(made, max_length=8, allow_empty=True), tmp_path)
    counts = artifact.manifest["counts"]
    assert counts["labels"] == 0 and counts["too_long"] == 24 * 6
    work = Workspace(tmp_path / "w", {}, Untracked())
    scores = score_all(scorer, ["a", "b"], PROBLEMS[:2], [STEPS[0], []], work, "score implicit")
    assert scores == [pytest.approx(scorer.score(PROBLEMS[:1], STEPS[:1])[0], abs=1e-5), []]
    assert work.counts["implicit_too_long"] == 0


def test_the_lines_of_the_card_give_the_scores(made, tmp_path):
    text = (Path(made["implicit"]) / "README.md").read_text()
    assert "Implicit PRM" in text and read_facts(made["implicit"])["reference"] in text
    lines = code(text).replace('folder = "."', f"folder = {made['implicit']!r}")
    known: dict = {}
    exec(lines.replace('before = "reference"', f"before = {made['policy']!r}"), known)
    one = problem("q", question=known["prompt"].removeprefix("Q: ").removesuffix("\n"))
    scorer = opened(made)
    assert known["scores"] == pytest.approx(scorer.score([one], [known["steps"]])[0], abs=1e-5)
    assert known["rewards"] == pytest.approx(scorer.rewards(one, known["steps"]), abs=1e-5)


def test_a_weight_that_is_no_number_is_not_saved(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        save_implicit(model, tokenizer(), tmp_path, BETA, "k", (0.5, 0.5), PLAIN)
