"""Tokens a second of the backend hf, and the share of the memory's bandwidth that it uses.

A step of decoding must read every weight once, and the keys and values of every row: bytes that are counted while it
runs, with the width that its attention really has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.gpu.setting import Peaks, Row, Setting, each, needs_gpu, peaks, release, row, synchronize
from tests.gpu.texts import random_model, shape_of

_LATER = 20  # seconds: more rows are not tried with less


def run(setting: Setting) -> Iterator[Row]:
    import torch

    policy = setting.model or _random_policy(setting)
    known = peaks(torch.device(setting.device))
    yield row("taken as the peak", known.bandwidth / 1e12, "TB/s", note=known.source)

    def decode(rows: int) -> Iterator[Row]:
        if setting.left < _LATER:
            yield row(f"{rows} rows", None, note=f"not begun: {setting.left:.0f} s were left")
            return
        yield from _decode(setting, policy, rows, known)

    yield from each((4, 8) if setting.dry else (64, 256, 1024), decode)
    if not setting.cuda:
        yield needs_gpu("share of a GPU's bandwidth", "the bytes were counted; the rate is a CPU's")


def _random_policy(setting: Setting) -> str:
    """A folder with a model of the shape of Qwen2.5-0.5B; it hardly ever ends a text by itself."""
    from rollouts.world.tokenizer import make_tokenizer
    from training.models import save_model

    folder = setting.work("decoding") / "policy"
    config = shape_of(setting.dry)
    tokenizer = make_tokenizer(50)
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    save_model(random_model(config, setting.device).bfloat16(), tokenizer, folder)
    return str(folder)


def _decode(setting: Setting, policy: str, rows: int, known: Peaks) -> Iterator[Row]:
    import torch

    from experiments.bench.measure import bench_problems
    from rollouts.prompts import render_prompt
    from rollouts.sampling.args import SamplerArgs
    from rollouts.sampling.protocol import Request, load_sampler

    release(setting.device)
    prompts = [render_prompt(problem.question) for problem in bench_problems("train", rows // 4, setting.problems)]
    longest = 8 if setting.dry else 128
    sampler = load_sampler(policy, SamplerArgs(batch_size=rows, max_tokens=longest, device=setting.device))
    requests = [Request(f"r{i}", prompt, n=8) for i, prompt in enumerate(prompts)]
    list(sampler.sample(requests[:2]))  # kernels are chosen
    counted = _count(sampler.model)
    synchronize(setting.device)
    start = time.perf_counter()
    samples = list(sampler.sample(requests))
    seconds = time.perf_counter() - start
    if refused := [sample.reason for sample in samples if sample.reason]:
        raise ValueError(f"{len(refused)} samples were refused: {refused[0]}")
    tokens = sum(sample.completion_tokens for sample in samples)
    dtype = str(sampler.model.dtype).removeprefix("torch.")
    note = f"{len(samples)} samples of {len(prompts)} prompts, {tokens} tokens, {dtype}"
    yield row(f"{rows} rows: tokens a second", tokens / seconds, "tokens/s", note=note)
    yield row(f"{rows} rows: a step", 1000 * seconds / max(1, counted["steps"]), "ms", note=f"{counted['steps']} steps")
    share = (counted["weights"] + counted["states"]) / seconds / known.bandwidth
    parts = f"{counted['weights'] / 2**30:.3g} GiB of weights, {counted['states'] / 2**30:.3g} of keys and values"
    yield row(f"{rows} rows: share of the bandwidth", share, note=parts)
    if setting.cuda:
        yield row(f"{rows} rows: most memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
    sampler.close()


def _count(model: Any) -> dict[str, int]:
    """Steps of decoding from here on, and the bytes that they must read."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = model.dtype.itemsize
    a_token = 2 * config.num_hidden_layers * heads * size * width
    # of an embedding that is not the head too only the rows of the tokens read
    weights = {id(weight): weight.numel() for weight in model.parameters()}
    if not config.tie_word_embeddings:
        weights.pop(id(model.get_input_embeddings().weight))
    a_step = sum(weights.values()) * width
    found = {"steps": 0, "weights": 0, "states": 0}

    def note(_module: Any, _given: Any, options: dict[str, Any]) -> None:
        ids, mask = options["input_ids"], options.get("attention_mask")
        if ids.shape[1] == 1 and mask is not None:
            masks = list(mask.values()) if isinstance(mask, dict) else [mask]
            found["steps"] += 1
            found["weights"] += a_step
            found["states"] += ids.shape[0] * max(one.shape[-1] for one in masks) * a_token

    model.register_forward_pre_hook(note, with_kwargs=True)
    return found
