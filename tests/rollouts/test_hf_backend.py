"""The in-process backend against the library's own `generate` and cache, and the distribution that it draws from."""

from __future__ import annotations

import copy
import random
import re
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from rollouts.backends.attention import fold
from rollouts.backends.draw import NO_TOKEN, draw, read_tokens, uniforms
from rollouts.backends.hf import HFSampler, load
from rollouts.backends.slots import Slots
from rollouts.sampling import Request, Sample, SamplerArgs, SamplingError, sample_seed
from rollouts.steps import encode_prompt, encode_text
from tests.rollouts.contract import SamplerContract, sampler_args, student
from tests.tiny import QUESTION, ids, save_policy, tokenizer


class TestHF(SamplerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls):
        sampler = load(student(), sampler_args(batch_size=7))
        yield sampler
        sampler.close()


PROMPTS = [
    "Q: Ann has 7 pens.\n",
    f"Q: {QUESTION}\n",
    "Q: How many pens does Bob have?\n",
    "Q: Ann has 7 pens. Bob has 5 more pens than Ann.\n",
    "Q\n",
]
WINDOW = 6  # under the length of most prompts

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # so that some tokens are much likelier than others
    "tie_word_embeddings": False,  # so that a text does not repeat one token
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "gemma2": (Gemma2Config, {"sliding_window": WINDOW}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}),
}


@cache
def family(name: str) -> PreTrainedModel:
    """A random model that ends a text at any of twelve tokens, so that texts end early and late."""
    config_class, settings = FAMILIES[name]
    torch.manual_seed(3)
    config = config_class(vocab_size=len(tokenizer()), **(SHAPE | settings))
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = [1, *range(40, 51)]
    return model


def sampler_of(name: str = "llama", **settings) -> HFSampler:
    return HFSampler(
        copy.deepcopy(family(name)), tokenizer(), SamplerArgs(**({"max_tokens": 24, "batch_size": 4} | settings))
    )


def requests_of(n: int = 1, seed: int = 0) -> list[Request]:
    return [Request(f"r{i}", prompt, n=n, seed=seed) for i, prompt in enumerate(PROMPTS)]


def by_name(samples) -> dict[tuple[str, int], Sample]:
    samples = list(samples)
    found = {(sample.request_id, sample.index): sample for sample in samples}
    assert len(found) == len(samples)
    return found


def generate(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_what_the_library_generates(name):
    found = by_name(sampler_of(name, temperature=0.0).sample(requests_of()))
    for i, prompt in enumerate(PROMPTS):
        sample = found[f"r{i}", 0]
        written = generate(family(name), encode_prompt(tokenizer(), prompt), 24)
        ended = written[-1] in family(name).generation_config.eos_token_id
        assert sample.text == tokenizer().decode(written[:-1] if ended else written, skip_special_tokens=True)
        assert (sample.completion_tokens, sample.finish_reason) == (len(written), "stop" if ended else "length")
        assert sample.prompt_tokens == len(encode_prompt(tokenizer(), prompt))


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_text_depends_on_neither_batch_nor_order(name):
    wanted = by_name(sampler_of(name, batch_size=64).sample(requests_of(n=6)))
    assert len({sample.text for sample in wanted.values()}) > 20
    assert {sample.finish_reason for sample in wanted.values()} == {"stop", "length"}
    for size in (1, 4, 7):
        shuffled = requests_of(n=6)
        random.Random(size).shuffle(shuffled)
        assert by_name(sampler_of(name, batch_size=size).sample(shuffled)) == wanted
    alone = by_name(sampler_of(name).sample([Request("r1", PROMPTS[1], n=2)]))
    assert alone == {key: wanted[key] for key in alone} and len(alone) == 2


def test_each_sample_has_a_seed_of_its_own():
    samples = by_name(sampler_of().sample([Request("a", PROMPTS[0], n=8, seed=3)]))
    assert [samples["a", i].seed for i in range(8)] == [sample_seed(3, "a", i) for i in range(8)]
    assert len({sample.text for sample in samples.values()}) > 4
    other = by_name(sampler_of().sample([Request("a", PROMPTS[0], n=8, seed=4)]))
    assert all(other[key].text != sample.text for key, sample in samples.items() if sample.completion_tokens > 3)


def test_the_prefix_is_encoded_apart_from_the_prompt():
    prompt, prefix = PROMPTS[0], "<<7+5=12>>12\n"
    (sample,) = sampler_of(temperature=0.0).sample([Request("a", prompt, prefix)])
    given = encode_prompt(tokenizer(), prompt) + encode_text(tokenizer(), prefix)
    assert given[-9:] == ids("<<", "7", "+", "5", "=", "12", ">>", "12", "\n")
    written = generate(family("llama"), given, 24)
    assert sample.prompt_tokens == len(given) and sample.completion_tokens == len(written)


def test_long_texts_outgrow_the_room_of_the_cache():
    sampler = sampler_of(temperature=0.0, max_tokens=100)
    sampler.ends = {1}
    model = copy.copy(family("llama"))
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = 1
    (sample,) = sampler.sample([Request("a", PROMPTS[0])])
    written = generate(model, encode_prompt(tokenizer(), PROMPTS[0]), 100)
    assert sample.completion_tokens == len(written) == 100
    assert sample.text == tokenizer().decode(written, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("bad", ""), "prompt is empty"),
        (Request("bad", "Q: " + "Ann has 7 pens. " * 30), r"^\d+ prompt tokens.*max_tokens=24.*128"),
        (Request("bad", PROMPTS[0], max_tokens=122), r"^7 prompt tokens.*max_tokens=122.*128"),
        (Request("bad", (2, 3, 10**6)), r"token 1000000, but the model knows only \d+"),
        (Request("bad", (-1,)), "token -1"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_others_are_sampled(request_, message):
    found = by_name(sampler_of().sample([Request("good", PROMPTS[0]), request_]))
    assert set(found) == {("good", 0), ("bad", 0)} and found["good", 0].completion_tokens > 0
    assert found["bad", 0].finish_reason == "refused" and re.search(message, found["bad", 0].reason)


def test_a_prompt_that_just_fits_is_sampled_to_the_end():
    sampler = sampler_of(temperature=0.0)
    sampler.ends = {-1}
    sampler.limit = 7 + 24
    (sample,) = sampler.sample([Request("a", PROMPTS[0])])
    assert (sample.prompt_tokens, sample.completion_tokens, sample.finish_reason) == (7, 24, "length")
    sampler.limit -= 1
    (sample,) = sampler.sample([Request("a", PROMPTS[0])])
    assert sample.finish_reason == "refused" and "more than the model's context of 30" in sample.reason


def draw_all(logits: torch.Tensor, uniform: np.ndarray, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    return draw(logits, uniform, np.full(len(logits), temperature), np.full(len(logits), top_p))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_stop_the_sampling(temperature, value):
    logits = torch.zeros(2, 5)
    logits[1, 2] = value
    token = draw_all(logits, np.array([0.5, 0.5]), temperature)
    assert token[0] >= 0 and token[1] == NO_TOKEN
    with pytest.raises(SamplingError, match="not finite"):
        read_tokens(token)
    model = copy.deepcopy(family("llama"))
    model.lm_head.weight.data[7] = value
    sampler = HFSampler(model, tokenizer(), SamplerArgs(temperature=temperature, max_tokens=24))
    with pytest.raises(SamplingError, match="not finite"):
        list(sampler.sample(requests_of()))


def test_a_token_that_is_ruled_out_is_no_fault():
    assert draw_all(torch.tensor([[-torch.inf, 1.0]]), np.array([0.0])).tolist() == [1]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_slots_give_the_logits_of_a_plain_forward_pass(name):
    """Rows of all lengths come, go and move, the room grows, and each sees its own text and nothing else."""
    model = copy.deepcopy(family(name))
    fold(model)
    choose = random.Random(0)
    slots, texts_ = Slots(model, 7), []

    def add(lengths: list[int], copies: list[int]) -> None:
        prompts = [[choose.randrange(2, 50) for _ in range(length)] for length in lengths]
        slots.read(prompts, copies)
        texts_.extend(list(prompt) for prompt, count in zip(prompts, copies, strict=True) for _ in range(count))

    add([1, 9, 4], [1, 2, 1])
    with torch.inference_mode():
        for step in range(80):
            logits = slots.step(np.array([text[-1] for text in texts_]), np.array([len(text) - 1 for text in texts_]))
            for row, text in enumerate(texts_):
                plain = family(name)(torch.tensor([text])).logits[0, -1]
                torch.testing.assert_close(logits[row], plain, rtol=0, atol=2e-5)
            if step in (2, 3, 30, 70):
                gone = np.array(sorted(choose.sample(range(len(texts_)), choose.randrange(1, 4))))
                moved, free = slots.drop(gone)
                for source, target in zip(moved, free, strict=True):
                    texts_[target] = texts_[source]
                del texts_[slots.rows :]
            for text in texts_:
                text.append(choose.randrange(2, 50))
            if step in (3, 30):
                add([12, 1], [2, 1])
            assert slots.rows == len(texts_)


PROBABILITIES = [0.4, 0.25, 0.2, 0.1, 0.05]


def drawn(count: int, position: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    seeds = np.array([sample_seed(0, "chi", i) for i in range(count)], dtype=np.int64)
    logits = torch.tensor(PROBABILITIES).log().expand(count, -1)
    return draw_all(logits, uniforms(seeds, position), temperature, top_p)


@pytest.mark.parametrize("position", [0, 1, 200])
def test_tokens_are_drawn_as_often_as_they_are_likely(position):
    count = 100_000
    seen = torch.bincount(drawn(count, position), minlength=5).numpy()
    assert stats.chisquare(seen, np.array(PROBABILITIES) * count).pvalue > 1e-3


def test_temperature_sharpens():
    count = 50_000
    sharp = np.array(PROBABILITIES) ** 2 / sum(p**2 for p in PROBABILITIES)
    seen = torch.bincount(drawn(count, temperature=0.5), minlength=5).numpy()
    assert stats.chisquare(seen, sharp * count).pvalue > 1e-3


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.99, 5)])
def test_top_p_keeps_the_likeliest_and_their_proportions(top_p, kept):
    count = 20_000
    seen = torch.bincount(drawn(count, top_p=top_p), minlength=5).numpy()
    assert (seen[:kept] > 0).all() and not seen[kept:].any()
    share = np.array(PROBABILITIES[:kept]) / sum(PROBABILITIES[:kept])
    assert kept == 1 or stats.chisquare(seen[:kept], share * count).pvalue > 1e-3


def test_top_p_works_on_unsorted_logits():
    logits = torch.tensor([[0.05, 0.4, 0.1, 0.25, 0.2]]).log().expand(1000, -1)
    seeds = np.arange(1000, dtype=np.int64)
    assert set(draw_all(logits, uniforms(seeds, 0), 1.0, 0.6).tolist()) == {1, 3}


def test_the_ends_of_the_unit_interval_never_give_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(2, -1)
    ends = np.array([0.0, 1 - 2**-53])
    assert draw_all(logits, ends).tolist() == [1, 3]


def test_uniform_numbers_are_even_and_independent():
    bins, count = 16, 60_000
    for seeds in (np.arange(count), np.array([sample_seed(1, "u", i) for i in range(count)])):
        first, second = (uniforms(seeds.astype(np.int64), position) for position in (0, 1))
        assert first.min() >= 0 and first.max() < 1
        assert stats.chisquare(np.histogram(first, bins, (0, 1))[0]).pvalue > 1e-3
        for other in (second, np.roll(first, 1)):  # the next token, and the row beside
            table, _, _ = np.histogram2d(first, other, bins, [(0, 1), (0, 1)])
            assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_load_opens_a_folder(tmp_path):
    sampler = load(save_policy(tmp_path / "policy"), SamplerArgs(temperature=0.0, max_tokens=3, device="cpu"))
    assert sampler.limit == 128 and sampler.ends == {1}
    assert not sampler.model.training and next(sampler.model.parameters()).dtype == torch.float32
    (sample,) = sampler.sample([Request("a", PROMPTS[0])])
    assert sample.completion_tokens <= 3
