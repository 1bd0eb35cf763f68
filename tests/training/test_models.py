"""Making, saving and opening models: the same seed, there and back, and what is refused by name."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rewards.reward_model import FACTS, load_reward_model, make_reward_model, read_facts, save_reward_model
from rollouts.world.tokenizer import make_tokenizer
from tests.tiny import make_model, save_policy, save_reward, tokenizer
from training.models import ModelArgs, add_layers, add_matching, grow_vocabulary, make_policy, save_model

WORDS = len(tokenizer())
SHAPE = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "eos_token_id": 1}


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    return save_policy(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="module")
def reward(tmp_path_factory) -> Path:
    return Path(save_reward(tmp_path_factory.mktemp("models") / "reward", "sorm", threshold=0.25))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_larger_vocabulary_leaves_the_words_that_are_known(tied: bool):
    def grown(seed: int) -> PreTrainedModel:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(Qwen2Config(**SHAPE, num_key_value_heads=1, tie_word_embeddings=tied))
        before = logits(model)
        grow_vocabulary(model, WORDS + 3, seed)
        assert torch.allclose(logits(model)[..., :WORDS], before, atol=1e-6)
        # as likely as the words are on average, and not all alike
        new = logits(model)[..., WORDS:]
        assert (new - before.mean(dim=-1, keepdim=True)).abs().max() < 4 * before.std() and new.std(dim=-1).min() > 0
        return model

    one, same, other = (grown(seed).get_output_embeddings().weight for seed in (0, 0, 1))
    assert one.shape[0] == WORDS + 3 and torch.equal(one, same) and not torch.equal(one, other)


def test_a_policy_is_a_function_of_its_seed():
    a, b, c = (make_model(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(weight, b[name]) for name, weight in a.items())
    assert not torch.equal(a["model.embed_tokens.weight"], c["model.embed_tokens.weight"])


def test_a_policy_has_the_shape_and_tokens_asked_for():
    model = make_model(layers=2, context=64, hidden=16)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (2, 16, 64)
    assert config.vocab_size == len(tokenizer()) and (config.pad_token_id, config.eos_token_id) == (0, 1)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": 0},
        {"hidden_size": 30, "heads": 4},
        {"hidden_size": 12, "heads": 4},
        {"branch_range": -1.0},
        {"embedding_range": math.inf},
        {"look_back": [1, 2, 3]},
        {"look_back": [0]},
    ],
)
def test_a_shape_that_no_model_has_is_refused(bad):
    with pytest.raises(ValueError, match=re.escape(str(next(iter(bad.values()))))):
        ModelArgs(**bad).validate()
    ModelArgs().validate()


def test_embeddings_and_branches_start_at_their_own_ranges():
    plain = make_policy(ModelArgs(32, 3, 2, 64, embedding_range=0.05, branch_range=0.05), tokenizer(), 0).state_dict()
    own = make_policy(ModelArgs(32, 3, 2, 64, embedding_range=0.2, branch_range=0.01), tokenizer(), 0).state_dict()
    for name, weight in plain.items():
        factor = (
            0.2 if "o_proj" in name or "down_proj" in name else 4.0 if "embed" in name or "lm_head" in name else 1.0
        )
        torch.testing.assert_close(own[name], weight * factor)


@pytest.mark.parametrize("distances", [[1], [3, 1], [2, 7, 5]])
def test_heads_of_the_first_layer_begin_by_looking_back(distances):
    model = make_policy(ModelArgs(128, 2, 4, 64, look_back=distances), tokenizer(), 0)
    model.set_attn_implementation("eager")
    ids = torch.randint(5, len(tokenizer()), (4, 60), generator=torch.Generator().manual_seed(0))
    looked = model(input_ids=ids, output_attentions=True).attentions
    for head, distance in enumerate(distances):
        assert looked[0][:, head, distance:].diagonal(0, 1, 2).mean() > 0.8
    for head in range(len(distances), 4):
        assert all(looked[0][:, head, back:].diagonal(0, 1, 2).mean() < 0.3 for back in range(1, 9))
    assert all(looked[1][:, :, back:].diagonal(0, 2, 3).mean() < 0.3 for back in range(1, 9))


def test_the_layers_below_find_where_a_token_was_before():
    model = make_policy(ModelArgs(128, 2, 4, 64, look_back=[1]), tokenizer(), 0)
    add_matching(model, 0)
    assert model.config.num_hidden_layers == 4 == len(model.model.layers)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    model.set_attn_implementation("eager")
    drawn = torch.Generator().manual_seed(0)
    half = torch.stack([torch.randperm(60, generator=drawn)[:20] + 5 for _ in range(8)])
    ids = torch.cat([half, half], 1)  # each token but the last of them was there 20 tokens before
    lower, upper = model(input_ids=ids, output_attentions=True).attentions[:2]
    assert lower[:, :, 1:].diagonal(0, 2, 3).mean() > 0.8  # the token before
    late = upper.mean(1)[:, 20:]  # (texts, tokens of the second half, tokens looked at)
    same, following = late.diagonal(0, 1, 2).mean(), late[:, :, 1:].diagonal(0, 1, 2).mean()
    others = late[:, :, :20].mean()
    assert same > 3 * others and following > 1.5 * others
    again = make_policy(ModelArgs(128, 2, 4, 64, look_back=[1]), tokenizer(), 0)
    add_matching(again, 0)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
    plain = make_policy(ModelArgs(128, 2, 4, 64), tokenizer(), 0)
    with pytest.raises(ValueError, match="names=true: a llama needs attention with biases"):
        add_matching(plain, 0)


def test_each_layer_keeps_its_kind_whatever_is_put_below_and_above():
    config = Qwen2Config(
        vocab_size=30, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, layer_types=["full_attention", "sliding_attention"], sliding_window=8,
        use_sliding_window=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    add_matching(model, 0)
    add_layers(model, 1, 0)
    kinds = [*["sliding_attention"] * 2, "full_attention", *["sliding_attention"] * 2]
    assert model.config.layer_types == kinds
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3, 4]
    model(input_ids=torch.arange(20)[None])


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight[3] = math.nan
    with pytest.raises(ValueError, match=r"spoilt: weight model\.norm\.weight is not finite"):
        save_model(model, tokenizer(), tmp_path / "spoilt")
    assert not (tmp_path / "spoilt").exists()


def test_a_new_reward_model_is_the_policy_with_an_undecided_head(policy):
    model, words = make_reward_model(policy, "cpu")
    assert logits(model).shape == (1, 4, 1) and not logits(model).any()
    body = make_model().model.state_dict()
    assert all(torch.equal(weight, body[name]) for name, weight in model.model.state_dict().items())
    assert model.config.num_labels == 1 and model.dtype == torch.float32
    assert len(words) == len(tokenizer())
    model.train()
    with torch.no_grad():
        model.score.weight.fill_(1.0)
    assert torch.equal(logits(model), logits(model))  # no dropout before the head


def test_a_reward_model_that_is_trained_further_keeps_its_head(reward):
    opened, _, _ = load_reward_model(str(reward), device="cpu")
    further, _ = make_reward_model(str(reward), "cpu")
    assert opened.score.weight.any()
    assert all(torch.equal(weight, opened.state_dict()[name]) for name, weight in further.state_dict().items())


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SHAPE, intermediate_size=48, num_key_value_heads=1),
        GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=1, n_head=2, n_positions=64),
    ],
    ids=lambda config: config.model_type,
)
def test_other_families_get_the_same_head(tmp_path, config):
    save_model(AutoModelForCausalLM.from_config(config), tokenizer(), tmp_path / "policy")
    model, words = make_reward_model(str(tmp_path / "policy"), "cpu")
    assert not logits(model).any()
    model.train()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("score.", "classifier.")):
                weight.fill_(0.5)
    save_reward_model(model, words, tmp_path / "reward", "orm", 0.5)
    again, _, _ = load_reward_model(str(tmp_path / "reward"), device="cpu")
    assert torch.equal(logits(again), logits(model.eval()))


def test_a_family_without_such_a_head_is_refused_in_one_line(tmp_path):
    config = Gemma3TextConfig(**SHAPE, intermediate_size=48, num_key_value_heads=1, head_dim=16)
    save_model(AutoModelForCausalLM.from_config(config), tokenizer(), tmp_path / "gemma")
    with pytest.raises(ValueError, match=r"gemma has no body for a reward model that loads: .*Gemma3") as caught:
        make_reward_model(str(tmp_path / "gemma"), "cpu")
    assert "\n" not in str(caught.value)


def test_a_reward_model_comes_back_as_it_was(policy, tmp_path):
    model, words = make_reward_model(policy, "cpu")
    with torch.no_grad():
        model.score.weight.normal_()
    save_reward_model(model, words, tmp_path / "reward", "orm", 0.375)
    again, _, facts = load_reward_model(str(tmp_path / "reward"), device="cpu")
    assert (facts["kind"], facts["threshold"]) == ("orm", 0.375) and not again.training
    assert (facts["template"], facts["separator"]) == ("Q: {question}\n", "\n")
    # saved by the library, the facts stay with the model
    again.save_pretrained(tmp_path / "copy")
    words.save_pretrained(tmp_path / "copy")
    assert load_reward_model(str(tmp_path / "copy"), device="cpu")[2] == facts == read_facts(tmp_path / "copy")
    assert torch.equal(logits(again), logits(model.eval()))


def test_a_reward_model_has_no_dropout_anywhere(tmp_path):
    config = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=1, n_head=2, n_positions=64, classifier_dropout=0.3)
    assert config.attn_pdrop == config.resid_pdrop == config.embd_pdrop == 0.1
    save_model(AutoModelForCausalLM.from_config(config), tokenizer(), tmp_path / "policy")
    model, _ = make_reward_model(str(tmp_path / "policy"), "cpu")
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_a_reward_model_of_other_texts_is_not_trained_further(reward, tmp_path):
    shutil.copytree(reward, tmp_path / "other")
    facts(tmp_path / "other", {"separator": "\n\n"})
    with pytest.raises(ValueError, match=r"other was trained with the separator '\\n\\n', not with '\\n'"):
        make_reward_model(str(tmp_path / "other"), "cpu")


def test_a_tokenizer_with_more_tokens_than_the_model_has_is_refused(tmp_path):
    config = Qwen2Config(**SHAPE | {"vocab_size": WORDS - 1}, intermediate_size=48, num_key_value_heads=1)
    save_model(AutoModelForCausalLM.from_config(config), tokenizer(), tmp_path / "small")
    with pytest.raises(ValueError, match=rf"small: the tokenizer has {WORDS} tokens, the model embeddings for"):
        make_reward_model(str(tmp_path / "small"), "cpu")


def spoil(folder: Path, name: str, value: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(name, None)
    if value is not None:
        weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def facts(folder: Path, value: object) -> None:
    """Change the facts (a dict: some of them; None: all are gone)."""
    config = json.loads((folder / "config.json").read_text())
    config[FACTS] = config[FACTS] | value if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def other_tokenizer(folder: Path) -> None:
    make_tokenizer(60).save_pretrained(folder)


HEAD = torch.full((1, 32), math.nan)
DAMAGES = {
    "no facts": (lambda path: facts(path, None), "no reward model: it has no config.json with 'stepwise'"),
    "torn config": (lambda path: (path / "config.json").write_text("{"), r"config.json, line 1"),
    "other facts": (lambda path: facts(path, ["orm"]), r"must name a kind .*\['orm'\]"),
    "unknown kind": (lambda path: facts(path, {"kind": "prm"}), "must name a kind .*prm"),
    "no threshold": (lambda path: facts(path, {"threshold": None}), "must name a kind"),
    "threshold over 1": (lambda path: facts(path, {"threshold": 1.5}), r"thresholds in \[0, 1\], not .*1\.5"),
    "threshold under 0": (lambda path: facts(path, {"threshold": -0.1}), r"thresholds in \[0, 1\], not .*-0\.1"),
    "NaN threshold": (lambda path: facts(path, {"threshold": math.nan}), "thresholds in .*, not .*nan"),
    "other template": (
        lambda path: facts(path, {"template": "Question: {question}"}),
        "not a template of a question: 'Question: {question}'",
    ),
    "no template": (lambda path: facts(path, {"template": 7}), "not a template of a question: 7"),
    "other separator": (lambda path: facts(path, {"separator": "ки"}), r"separator 'ки', not with '\\n'"),
    "other tokenizer": (other_tokenizer, "the tokenizer of .* is not the one"),
    "other tokens": (lambda path: facts(path, {"tokenizer": "0"}), "the tokenizer of .* is not the one"),
    "weights too many": (lambda path: spoil(path, "score.scale", torch.ones(3)), r"too many: \['score.scale'\]"),
    "missing head": (lambda path: spoil(path, "score.weight", None), r"lacks weights: \['score.weight'\]"),
    "NaN head": (lambda path: spoil(path, "score.weight", HEAD), "score.weight is not finite"),
    "wide head": (lambda path: spoil(path, "score.weight", torch.zeros(2, 32)), "no reward model that loads"),
    "no tokenizer": (
        lambda path: [(path / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "no tokenizer",
    ),
    "torn weights": (
        lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-9]),
        "no reward model that loads",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_reward_model_is_refused_in_one_line(reward, tmp_path, name):
    damage, message = DAMAGES[name]
    shutil.copytree(reward, tmp_path / "bad")
    damage(tmp_path / "bad")
    with pytest.raises(ValueError, match=message) as caught:
        load_reward_model(str(tmp_path / "bad"), device="cpu")
    assert str(tmp_path / "bad") in str(caught.value) and "\n" not in str(caught.value)


def test_a_policy_is_no_reward_model(policy, tmp_path):
    with pytest.raises(ValueError, match=rf"{policy} is no reward model"):
        load_reward_model(policy, device="cpu")
    with pytest.raises(ValueError, match="gone is no reward model"):
        load_reward_model(str(tmp_path / "gone"), device="cpu")


def test_a_body_that_is_no_number_makes_no_reward_model(policy, tmp_path):
    shutil.copytree(policy, tmp_path / "bad")
    spoil(tmp_path / "bad", "model.norm.weight", torch.full((32,), math.inf))
    with pytest.raises(ValueError, match=r"bad: weight model\.norm\.weight is not finite"):
        make_reward_model(str(tmp_path / "bad"), "cpu")
