"""An adapter beside a base in bfloat16 or 4 bits: how it is opened, what is float32, that it learns and is merged."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.losses import reward_loss, step_logits
from rewards.reward_model import load_reward_model, make_reward_model, save_reward_model
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.sampling import policies
from rollouts.sampling.sample import SampleArgs
from stages.make import make
from stages.stage import Stage
from tests.tiny import make_model, problem, rollout, tokenizer
from tests.training.runs import examples_of, same, train
from training.adapters import ADAPTER, LoraArgs, add_adapter, how_to_open, merge_adapter
from training.args import CheckpointArgs, TrainArgs
from training.examples import Example, pad_batch
from training.models import ModelArgs, grow_vocabulary, make_policy, save_model

QUANTIZED = pytest.param(
    "nf4", marks=pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
)
TEXTS = [Example([5, 6, 7, 8, 9], [1, 2, 4], [1.0, 0.0, 0.5]), Example([9, 10, 11], [2], [0.0])]
EXAMPLES = [  # a step is right where its token's number is odd
    dataclasses.replace(one, targets=[float(one.ids[at] % 2) for at in one.positions]) for one in examples_of(60)
]
RUN = {"dtype": "bfloat16", "learning_rate": 5e-3, "epochs": 5}
LORA = LoraArgs(rank=8, alpha=16, keep_adapter=True)
TRAIN = TrainArgs(
    device="cpu", dtype="bfloat16", tokens_per_step=400, tokens_per_batch=400, learning_rate=2e-2, epochs=6
)  # fmt: skip


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    """Stored in float32, as this project stores all that it trains."""
    folder = tmp_path_factory.mktemp("half") / "policy"
    save_model(make_policy(ModelArgs(hidden_size=64, layers=2), tokenizer(), 0), tokenizer(), folder)
    return str(folder)


def adapted(policy: str, quantize: str = "none"):
    lora = dataclasses.replace(LORA, quantize=quantize)
    dtype, device = how_to_open(lora, TRAIN)
    return add_adapter(make_reward_model(policy, device, dtype=dtype)[0], lora, 1, "cpu")


def learnt(model, folder: Path, loss=reward_loss, **changes):
    return train(folder, EXAMPLES, model, loss, **(RUN | changes))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return step_logits(model, pad_batch(TEXTS, 0))


def test_how_models_are_opened():
    half, cpu = TrainArgs(dtype="bfloat16", device="cuda:1"), TrainArgs(device="cpu")
    assert how_to_open(LoraArgs(), half) == ("float32", "cuda:1")  # all of it is trained
    assert how_to_open(LoraArgs(rank=2), half) == ("bfloat16", "cuda:1")
    assert how_to_open(LoraArgs(rank=2, quantize="nf4"), half) == ("bfloat16", "cpu")
    assert how_to_open(LoraArgs(rank=2), TrainArgs(device="cuda")) == ("bfloat16", "cuda")
    assert how_to_open(LoraArgs(rank=2), cpu) == ("float32", "cpu")


@pytest.mark.parametrize("quantize", ["none", QUANTIZED])
def test_adapter_and_head_are_float32_and_all_that_is_trained(policy, quantize):
    model = adapted(policy, quantize)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(".lora_" in name or ".score." in name for name in trained)
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad and ".score." not in name}
    linear = {p.dtype for name, p in frozen.items() if ".base_layer." in name}
    assert linear == {torch.bfloat16 if quantize == "none" else torch.uint8}
    assert {p.dtype for name, p in frozen.items() if ".base_layer." not in name} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        assert model(**pad_batch(TEXTS, 0).inputs()).logits.dtype == torch.float32


def test_a_trained_head_is_not_rounded(policy, tmp_path):
    model, words = make_reward_model(policy, "cpu")
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    save_reward_model(model, words, tmp_path / "reward", "orm", 0.5)
    again, _ = make_reward_model(str(tmp_path / "reward"), "cpu", dtype="bfloat16")
    judge, _, _ = load_reward_model(str(tmp_path / "reward"), "bfloat16", "cpu")
    for found in (again, judge):
        assert found.model.norm.weight.dtype == torch.bfloat16 and torch.equal(found.score.weight, model.score.weight)
        found.save_pretrained(tmp_path / "saved")
        assert type(found).__name__ in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize("quantize", ["none", QUANTIZED])
def test_it_learns_and_merged_scores_the_same(policy, quantize, tmp_path):
    model = adapted(policy, quantize)
    _, done = learnt(model, tmp_path / "run")
    assert done.figures["loss"] < 0.4  # it begins at log 2
    wanted = logits(model)
    merged = merge_adapter(model, reopen=lambda: make_reward_model(policy, "cpu")[0])
    assert {p.dtype for p in merged.parameters()} == {torch.float32} and not hasattr(merged, "peft_config")
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=0.03 * float(wanted.abs().max()))
    save_reward_model(merged, tokenizer(), tmp_path / "merged", "orm", 0.5)
    again, _, _ = load_reward_model(str(tmp_path / "merged"), device="cpu")
    assert torch.equal(logits(again), logits(merged))


def test_merging_takes_the_base_before_it_was_rounded(policy, tmp_path):
    model = adapted(policy)
    learnt(model, tmp_path / "run", max_steps=2)
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    added = layer.get_delta_weight("default").detach()
    merged = merge_adapter(model, tmp_path / ADAPTER, lambda: make_reward_model(policy, "cpu")[0])
    stored = load_file(Path(policy) / "model.safetensors")
    for name, weight in merged.state_dict().items():
        kept = name.startswith("model.") and ("norm" in name or "embed" in name)
        assert not kept or torch.equal(weight, stored[name])
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(merged.state_dict()[name], stored[name] + added) and added.any()
    # what is kept beside it is the same adapter
    kept = load_file(tmp_path / ADAPTER / "adapter_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}


@pytest.mark.parametrize("quantize", ["none", QUANTIZED])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(policy, quantize, tmp_path):
    class Stop(Exception):
        pass

    calls = iter(range(1000))

    def dying(model, batch):
        if next(calls) == 7:
            raise Stop
        return reward_loss(model, batch)

    often = CheckpointArgs(every_seconds=None, every_steps=3)
    wanted, _ = learnt(adapted(policy, quantize), tmp_path / "whole", checkpoints=often)
    with pytest.raises(Stop):
        learnt(adapted(policy, quantize), tmp_path / "cut", dying, checkpoints=often)
    found, done = learnt(adapted(policy, quantize), tmp_path / "cut", checkpoints=often)
    assert done.figures["steps"] > 7
    parts = ({name: p for name, p in one.named_parameters() if p.requires_grad} for one in (found, wanted))
    assert same(*parts)


@pytest.fixture
def opened(monkeypatch) -> list[tuple[str, set[torch.dtype], str]]:
    """All models that are opened: the precision asked for, those of the body's weights, and where they are."""
    seen = []
    own = policies.open_folder

    def watch(kind, path, part, **settings):
        found = own(kind, path, part, **settings)
        if "output_loading_info" in settings:
            weights = dict(found[0].named_parameters())
            body = {p.dtype for name, p in weights.items() if not name.startswith("score.")}
            seen.append((settings["dtype"], body, found[0].device.type))
        return found

    monkeypatch.setattr(policies, "open_folder", watch)
    return seen


def write_rollouts(_args, work) -> None:
    problems = [problem(f"p{i}", question=f"Ann has {i} pens. How many pens does Ann have?") for i in range(8)]
    work.write_rows("problems", problems)
    steps = [[f"<<{i}+{k}={i + k}>>{i + k}", f"#### {k}"] for i in range(8) for k in range(4)]
    work.write_rows("rows", [rollout(own, n % 2 == 0, n % 4, f"p{n // 4}") for n, own in enumerate(steps)])


@pytest.mark.parametrize("quantize", ["none", QUANTIZED])
@pytest.mark.parametrize("kind", ["reward", "policy"])
def test_a_stage_opens_no_base_in_float32_before_it_merges(kind, quantize, policy, opened, tmp_path):
    lora, short = dataclasses.replace(LORA, quantize=quantize), dataclasses.replace(TRAIN, max_steps=2)
    if kind == "reward":
        sample = Stage("sample", 1, SampleArgs, write_rollouts)
        rollouts, _ = make(sample, SampleArgs(policy=policy), tmp_path)
        args = TrainRewardArgs(
            kind="orm", policy=policy, rollouts=str(rollouts.path), validation_share=0.2, lora=lora, train=short
        )
        made, _ = make(TRAIN_REWARD, args, tmp_path)
    else:
        made, _ = make(
            TRAIN_POLICY,
            TrainPolicyArgs(policy=policy, problems=ProblemArgs(limit=20), lora=lora, train=short),
            tmp_path,
        )
    half, whole = torch.bfloat16, torch.float32
    # 4 bits are put together from themselves, the others from what they were rounded from
    assert opened == [(half, {half}, "cpu"), (whole, {whole}, "cpu")][: 1 if quantize == "nf4" else 2]
    stored = load_file(Path(made.path) / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {whole}


def test_new_words_are_the_same_in_each_precision():
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model().to(dtype)
        before = model.get_input_embeddings().weight.clone()
        grow_vocabulary(model, len(before) + 5, 3)
        assert model.lm_head.weight is model.model.embed_tokens.weight and model.lm_head.weight.dtype == dtype
        assert torch.equal(model.lm_head.weight[: len(before)], before)
        found[dtype] = model.lm_head.weight[len(before) :].detach()
    gap = (found[torch.float32] - found[torch.bfloat16]).abs().max()
    assert 0 < gap < 0.01 * found[torch.float32].abs().max()
