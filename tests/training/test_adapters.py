"""LoRA: what is trained, that merged weights score the same, that the head stays with the adapter, and QLoRA."""

from __future__ import annotations

import importlib.util
import math
import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from rewards.losses import reward_loss, step_logits
from rewards.reward_model import load_reward_model, make_reward_model, save_reward_model
from rollouts.sampling.policies import check_adapter
from tests.tiny import make_model, save_policy, tokenizer
from training.adapters import LoraArgs, add_adapter, merge_adapter
from training.attention.install import packed_attention
from training.completions import completion_loss, keeps_logits, target_logits
from training.examples import Example, pad_batch
from training.models import save_model
from training.packing import pack_batch

TEXTS = [Example([5, 6, 7, 8, 9], [1, 2, 4], [1.0, 0.0, 0.5]), Example([9, 10, 11], [2], [0.0])]
NO_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is None


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    return save_policy(tmp_path_factory.mktemp("adapters") / "policy", layers=2)


def trained(model, loss=reward_loss, steps: int = 5):
    """A few large steps on what may be trained."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, pad_batch(TEXTS, 0)).backward()
        optimizer.step()
    return model.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return step_logits(model, pad_batch(TEXTS, 0))


def test_only_the_adapter_and_the_head_are_trained(policy):
    plain, _ = make_reward_model(policy, "cpu")
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    adapted = add_adapter(make_reward_model(policy, "cpu")[0], LoraArgs(rank=4))
    assert torch.equal(logits(adapted), logits(plain))  # it starts by adding nothing
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    layers = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in names if ".lora_" in n}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {n.rsplit(".", 1)[-1] for n in names if ".lora_" not in n} == {"weight", "bias"}
    assert all("score" in n for n in names if ".lora_" not in n)
    assert not torch.equal(logits(trained(adapted)), logits(plain))
    base = adapted.unload().state_dict()
    assert all(torch.equal(base[name], weight) for name, weight in before.items() if not name.startswith("score"))


def test_merged_weights_score_the_same_and_are_a_normal_folder(policy, tmp_path):
    model, words = make_reward_model(policy, "cpu")
    adapted = trained(add_adapter(model, LoraArgs(rank=4, alpha=16)))
    wanted = logits(adapted)
    merged = merge_adapter(adapted)
    assert not hasattr(merged, "peft_config")
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=1e-5)
    save_reward_model(merged, words, tmp_path / "merged", "sorm", 0.5)
    again, _, _ = load_reward_model(str(tmp_path / "merged"), device="cpu")
    torch.testing.assert_close(logits(again), wanted, rtol=0, atol=1e-5)


def test_the_head_is_saved_and_comes_back_with_the_adapter(policy, tmp_path):
    adapted = trained(add_adapter(make_reward_model(policy, "cpu")[0], LoraArgs(rank=4)))
    wanted = logits(adapted)
    merged = merge_adapter(adapted, tmp_path / "adapter")
    again = PeftModel.from_pretrained(make_reward_model(policy, "cpu")[0], tmp_path / "adapter").eval()
    assert torch.equal(logits(again), wanted)
    assert torch.equal(merge_adapter(again).score.weight, merged.score.weight)


def test_an_adapter_is_read_from_safetensors_only(policy, tmp_path):
    adapted = add_adapter(make_reward_model(policy, "cpu")[0], LoraArgs(rank=4))
    merge_adapter(adapted, tmp_path / "bad")
    file = tmp_path / "bad" / "adapter_model.safetensors"
    weights = load_file(file)
    torch.save(weights, tmp_path / "bad" / "adapter_model.bin")
    save_file(weights | {min(weights): weights[min(weights)].to(torch.int8)}, file)
    with pytest.raises(ValueError, match=rf"weight {re.escape(min(weights))} is stored as I8, not"):
        check_adapter(str(tmp_path / "bad"))
    file.unlink()
    with pytest.raises(ValueError, match=r"bad is no adapter: it has no adapter_model\.safetensors"):
        check_adapter(str(tmp_path / "bad"))


def test_a_policy_with_an_adapter_learns_packed_and_is_merged(tmp_path):
    texts = [Example([5, 6, 7, 8, 9], [1, 2, 3], [7.0, 8.0, 9.0]), Example([9, 10, 11], [1], [11.0])]
    model = make_model(layers=2)
    adapted = add_adapter(model, LoraArgs(rank=4, target_modules=["q_proj", "v_proj"]), seed=1)
    assert keeps_logits(adapted)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    adapted.gradient_checkpointing_enable()
    adapted.train()
    with packed_attention(adapted):
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = completion_loss(adapted, pack_batch([texts], 0))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        wanted = target_logits(adapted.eval(), pack_batch([texts], 0))
    assert losses[-1] < 0.7 * losses[0]
    merged = merge_adapter(adapted)
    torch.testing.assert_close(target_logits(merged, pad_batch(texts, 0)), wanted, rtol=0, atol=1e-5)
    save_model(merged, tokenizer(), tmp_path / "merged")
    assert "lora" not in " ".join(load_file(tmp_path / "merged" / "model.safetensors"))


def test_the_same_seed_gives_the_same_adapter():
    one, other, third = (
        add_adapter(make_model(), LoraArgs(rank=2), seed).state_dict()[
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
        ]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, other) and not torch.equal(one, third)


def test_layers_of_another_kind_get_an_adapter_too():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    names = {n for n, p in add_adapter(model, LoraArgs(rank=2)).named_parameters() if p.requires_grad}
    assert names and all(".lora_" in name for name in names) and not any("lm_head" in name for name in names)


def test_no_rank_means_no_adapter():
    model = make_model()
    assert add_adapter(model, LoraArgs()) is model is merge_adapter(model)


@pytest.mark.skipif(NO_BITSANDBYTES, reason="bitsandbytes is not installed (extra qlora)")
def test_4_bit_layers_train_and_merge_to_what_they_scored(policy):
    model, _ = make_reward_model(policy, "cpu")
    plain = logits(trained(add_adapter(make_reward_model(policy, "cpu")[0], LoraArgs(rank=4))))
    adapted = add_adapter(model, LoraArgs(rank=4, quantize="nf4"))
    torch.testing.assert_close(logits(adapted), torch.zeros_like(plain))  # the head is whole, and starts at zero
    kinds = {type(module).__name__ for name, module in adapted.named_modules() if name.endswith(".base_layer")}
    assert kinds == {"Linear4bit"}
    wanted = logits(trained(adapted))
    assert wanted.any() and not torch.allclose(wanted, plain, atol=1e-4)  # 4 bits are not 32
    merged = merge_adapter(adapted)
    assert merged.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
    torch.testing.assert_close(logits(merged), wanted, rtol=0, atol=1e-5)


@pytest.mark.skipif(not NO_BITSANDBYTES, reason="bitsandbytes is installed")
def test_4_bits_without_bitsandbytes_are_refused_in_one_line():
    with pytest.raises(ValueError, match="needs bitsandbytes: pip install"):
        add_adapter(make_model(), LoraArgs(rank=2, quantize="nf4"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, "not -1"),
        ({"rank": 2, "alpha": math.inf}, "inf"),
        ({"rank": 2, "dropout": 1.0}, "1.0"),
        ({"rank": 2, "quantize": "int3"}, "'int3' is none of none, nf4"),
        ({"quantize": "nf4"}, "rank=0 trains all weights"),
        ({"keep_adapter": True}, "rank=0 trains all weights"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraArgs(**settings).validate()
    LoraArgs().validate()
    LoraArgs(rank=8, quantize="nf4").validate()


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"named 'query'; there are .*'q_proj'"):
        add_adapter(make_model(), LoraArgs(rank=2, target_modules=["q_proj", "query"]))
