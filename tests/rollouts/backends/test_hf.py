"""The in-process backend against the library's own `generate` and cache, and the distribution that it draws from."""

from __future__ import annotations

import copy
import itertools
import random
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from rollouts.backends.hf.attention import fold
from rollouts.backends.hf.decoding import Decoder
from rollouts.backends.hf.rows import Ending
from rollouts.backends.hf.sampler import HFSampler, load
from rollouts.backends.hf.slots import Slots
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sample, SamplingError, sample_seed
from rollouts.steps import Chat, encode_prompt, encode_text
from tests.rollouts.backends.contract import SamplerContract, sampler_args, student
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, save_policy, tokenizer


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


SETTINGS = [
    {"temperature": 0.0},
    {"max_tokens": 5},
    {"temperature": 0.6, "top_p": 0.8},
    {"stop": (" pens", ".")},
    {"top_p": 0.5, "logprobs": True},
]


def test_rows_of_one_batch_keep_their_own_settings():
    requests = [
        replace(request, id=f"{request.id}/{i}", **settings)
        for request in requests_of(n=2)
        for i, settings in enumerate(SETTINGS)
    ]
    together = by_name(sampler_of(batch_size=64).sample(requests))
    assert len({sample.text for sample in together.values()}) > 20
    for (name, index), sample in together.items():
        i, settings = int(name[1]), SETTINGS[int(name[-1])]
        request = Request(name, PROMPTS[i], n=2, wanted=(index,), logprobs=bool(sample.logprobs))
        sampler = sampler_of(batch_size=1, **{k: v for k, v in settings.items() if k not in ("stop", "logprobs")})
        (alone,) = sampler.sample([replace(request, stop=settings.get("stop"))])
        assert sample.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert replace(sample, logprobs=()) == replace(alone, logprobs=())
        assert bool(sample.logprobs) == ("logprobs" in settings)


def watched(sampler: HFSampler) -> list[tuple[int, int]]:
    """The shape (rows, tokens) of everything that the sampler's model is given to read."""
    shapes = []
    forward = sampler.model.forward

    def note(input_ids, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **kwargs)

    sampler.model.forward = note
    return shapes


def endless(**settings) -> HFSampler:
    sampler = sampler_of(**settings)
    sampler.ends = {-1}
    return sampler


def test_a_row_that_ends_makes_room_and_no_row_waits_for_the_slowest():
    limits = [20, 2, 4, 2, 6, 3, 3]
    sampler = endless(batch_size=2)
    shapes = watched(sampler)
    requests = [Request(f"r{i}", PROMPTS[0], max_tokens=limit) for i, limit in enumerate(limits)]
    found = list(sampler.sample(requests))
    assert [sample.request_id for sample in found] == ["r1", "r2", "r3", "r4", "r5", "r0", "r6"]
    assert {sample.request_id: sample.completion_tokens for sample in found} == {
        f"r{i}": limit for i, limit in enumerate(limits)
    }
    steps = [shape for shape in shapes if shape[1] == 1]
    assert len(steps) == 20 and all(rows == 2 for rows, _ in steps)  # both slots busy to the end


def test_a_sample_comes_as_soon_as_its_row_ends():
    sampler = endless(batch_size=8)
    shapes = watched(sampler)
    stream = sampler.sample([Request("long", PROMPTS[0], max_tokens=24), Request("short", PROMPTS[1], max_tokens=3)])
    assert next(stream).request_id == "short" and len(shapes) == 1 + 3
    assert next(stream).request_id == "long" and len(shapes) == 1 + 24


def test_samples_of_one_request_share_one_reading_of_its_prompt():
    sampler = endless(batch_size=8, max_tokens=2)
    shapes = watched(sampler)
    assert len(list(sampler.sample([Request("a", PROMPTS[1], n=6), Request("b", PROMPTS[0], n=2)]))) == 8
    assert shapes == [(2, len(PROMPT_TOKENS) - 1), (8, 1), (8, 1)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_far_ahead_of_the_others_waits_and_goes_on_as_if_it_had_not(name, monkeypatch):
    again = []
    begin = Decoder._begin

    def note(self, row):
        again.append(row.request.id if row.ids else "new")
        return begin(self, row)

    monkeypatch.setattr(Decoder, "_begin", note)
    long = Request("long", PROMPTS[1], n=2, max_tokens=60, logprobs=True)
    short = [Request(f"r{i}", PROMPTS[i % 3 // 2 * 4], max_tokens=3 + i % 4, seed=i) for i in range(40)]
    found = by_name(endless(name=name, batch_size=6).sample([long, *short]))
    assert again.count("long") == 2  # each was set aside once
    for index in range(2):
        (alone,) = endless(name=name, batch_size=1).sample([replace(long, wanted=(index,))])
        assert found["long", index].token_ids == alone.token_ids
        assert found["long", index].logprobs == pytest.approx(alone.logprobs, abs=1e-3)


def test_an_empty_reading_comes_before_no_step():
    """A prompt of one token has nothing to be read before its first step."""
    found = by_name(sampler_of(temperature=0.0).sample([Request("a", (7,)), Request("b", (9,)), Request("c", (7,))]))
    assert found["a", 0].token_ids == found["c", 0].token_ids == tuple(generate(family("llama"), [7], 24))
    assert found["b", 0].token_ids == tuple(generate(family("llama"), [9], 24))


def greedy(**settings) -> Sample:
    (sample,) = sampler_of(temperature=0.0).sample([Request("a", PROMPTS[1], **settings)])
    return sample


def test_stop_strings_cut_exactly():
    whole = greedy()
    assert whole.completion_tokens > 6
    pieces = [tokenizer().decode(token) for token in whole.token_ids]
    inside = "".join(pieces[3:5])
    across = inside[1:-1]  # from inside one token to inside the next
    assert len(across) > 2
    for stop in (inside, across, whole.text[:1], whole.text[-2:]):
        cut = greedy(stop=("never written", stop))
        start = whole.text.index(stop)
        assert (cut.text, cut.finish_reason) == (whole.text[:start], "stop")
        wanted = next(k for k in range(1, 99) if stop in "".join(pieces[:k]))
        assert cut.completion_tokens == wanted and cut.token_ids == whole.token_ids[:wanted]
    first, second = greedy(stop=(across, whole.text[:2])), greedy(stop=(whole.text[:2],))
    assert first == second and first.text == ""
    assert greedy(stop=("never written",)) == whole


def test_text_is_decoded_at_each_step_only_for_stop_strings(monkeypatch):
    seen = []
    text = Ending.text
    monkeypatch.setattr(Ending, "text", lambda self, ids: seen.append(len(ids)) or text(self, ids))
    sampler = endless(max_tokens=60)
    list(sampler.sample(requests_of(n=2)))
    assert seen == [60] * 10
    seen.clear()
    (sample,) = sampler.sample([Request("a", PROMPTS[0], stop=("never",))])
    assert sample.completion_tokens == 60 and max(seen[:-2]) <= len("never") + 8 and len(seen) == 61


@pytest.mark.parametrize("read", [1, 3, 100])
def test_memory_is_given_back_however_the_sampling_ends(read, monkeypatch):
    """The cache of a large model must be gone before the next one is made."""
    made = []
    monkeypatch.setattr("rollouts.backends.hf.decoding.Slots", lambda *args: made.append(Slots(*args)) or made[-1])
    stream = sampler_of(batch_size=2).sample(requests_of())
    next(stream)
    assert len(made) == 1 and all(layer.keys.numel() for layer in made[0].layers)
    assert len(list(itertools.islice(stream, read - 1))) == min(read, 5) - 1
    stream.close()
    assert all(layer.keys is None and layer.values is None for layer in made[0].layers)


def test_running_out_of_memory_says_what_to_set():
    sampler = sampler_of(batch_size=3)

    def fail(**kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    sampler.model.forward = fail
    with pytest.raises(SamplingError, match=r"sampler\.batch_size=3"):
        list(sampler.sample(requests_of()))


def test_a_closed_sampler_samples_no_more():
    sampler = sampler_of()
    sampler.close()
    sampler.close()
    with pytest.raises(SamplingError, match="closed"):
        next(sampler.sample(requests_of()))


UNFIT = {
    "BloomForCausalLM": BloomConfig(vocab_size=99, hidden_size=32, n_layer=1, n_head=2),
    "chunked_attention": Llama4TextConfig(
        **(SHAPE | {"num_local_experts": 1, "intermediate_size_mlp": 48, "layer_types": ["chunked_attention"] * 2})
    ),
    "MambaForCausalLM": MambaConfig(vocab_size=99, hidden_size=32, state_size=4, num_hidden_layers=1),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_model_that_cannot_be_decoded_in_slots_is_refused(name):
    with pytest.raises(ValueError, match=rf"hf cannot sample.*{name}|{name}.*use vllm"):
        HFSampler(AutoModelForCausalLM.from_config(UNFIT[name]), tokenizer(), SamplerArgs())


def test_each_sample_has_a_seed_of_its_own():
    samples = by_name(sampler_of().sample([Request("a", PROMPTS[0], n=8, seed=3)]))
    assert [samples["a", i].seed for i in range(8)] == [sample_seed(3, "a", i) for i in range(8)]
    assert len({sample.text for sample in samples.values()}) > 4
    other = by_name(sampler_of().sample([Request("a", PROMPTS[0], n=8, seed=4)]))
    assert all(other[key].text != sample.text for key, sample in samples.items() if sample.completion_tokens > 3)


@pytest.mark.parametrize(("prompt", "finish"), [(Chat("7"), "stop"), ("7\n", "length")])
def test_a_chat_ends_where_its_template_ends_a_turn(prompt, finish):
    sampler = sampler_of(max_tokens=3)
    sampler.tokenizer = copy.deepcopy(tokenizer())
    sampler.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<unk>' }}{% endfor %}"
    turn_end = sampler.tokenizer.unk_token_id

    def prefer_the_end(_module, _inputs, logits):
        logits[..., turn_end] += 1000
        return logits

    sampler.model.get_output_embeddings().register_forward_hook(prefer_the_end)
    (sample,) = sampler.sample([Request("a", prompt)])
    assert (sample.finish_reason, set(sample.token_ids)) == (finish, {turn_end})
    assert sample.completion_tokens == (1 if finish == "stop" else 3) and sample.text == ""


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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_stop_the_sampling(temperature, value):
    model = copy.deepcopy(family("llama"))
    model.lm_head.weight.data[7] = value
    sampler = HFSampler(model, tokenizer(), SamplerArgs(temperature=temperature, max_tokens=24))
    with pytest.raises(SamplingError, match="not finite"):
        list(sampler.sample(requests_of()))


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


def test_load_opens_a_folder(tmp_path):
    sampler = load(save_policy(tmp_path / "policy"), SamplerArgs(temperature=0.0, max_tokens=3, device="cpu"))
    assert sampler.limit == 128 and sampler.ends == {1}
    assert not sampler.model.training and next(sampler.model.parameters()).dtype == torch.float32
    (sample,) = sampler.sample([Request("a", PROMPTS[0])])
    assert sample.completion_tokens <= 3
