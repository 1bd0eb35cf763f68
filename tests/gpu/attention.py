"""Packed rows and shared prefixes beside padded ones, forward and backward, in float32 and bfloat16.

The truth is the padded batch in float32. In float32 packed and shared rows must give it but for rounding. In bfloat16
all three are off: packed and shared rows may be little further from the truth than the padded ones are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tests.gpu.setting import Row, Setting, each, needs_gpu, release, row
from tests.gpu.texts import families, random_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from training.examples import Batch

FLOAT32, TIMES = 1e-4, 2.0  # largest relative gap in float32; in bfloat16 so many times that of the padded batch
_NEVER_FUSED = "gemma2"  # torch's variable-length attention has no soft cap


def configs(dry: bool) -> dict[str, PreTrainedConfig]:
    """Families with all heads, grouped heads and windows shorter than the examples."""
    from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

    size, window = (8, 12) if dry else (64, 100)
    shape = {"vocab_size": 997, "hidden_size": 4 * size, "intermediate_size": 8 * size, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "max_position_embeddings": 1024, "pad_token_id": 0, "head_dim": size}
    # far from its start weights, so that what a token sees matters
    shape |= {"initializer_range": 0.3 if dry else 0.1}
    gemma = {"num_key_value_heads": 2, "query_pre_attn_scalar": size, "sliding_window": window}
    known = {
        "llama": LlamaConfig(**shape, num_key_value_heads=4),
        "qwen2, grouped": Qwen2Config(**shape, num_key_value_heads=2),
        "qwen2, grouped, window": Qwen2Config(
            **shape, num_key_value_heads=2, use_sliding_window=True, sliding_window=window, max_window_layers=1
        ),
        "qwen3, grouped": Qwen3Config(**shape, num_key_value_heads=1),
        "mistral, grouped, window": MistralConfig(**shape, num_key_value_heads=2, sliding_window=window),
        "gemma3, grouped, window": Gemma3TextConfig(**shape, **gemma, sliding_window_pattern=2),
        "gemma2, grouped, window, soft cap": Gemma2Config(**shape, **gemma, attn_logit_softcapping=5.0),
    }
    return {name: one for name, one in known.items() if not dry or name.startswith(("qwen2, grouped, w", "gemma"))}


def run(setting: Setting) -> Iterator[Row]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    known = configs(setting.dry)
    lengths = {"prompt": (9, 20), "solution": (4, 24)} if setting.dry else {}
    examples = families(3 if setting.dry else 6, 4, 997, **lengths)
    yield from each(list(known), lambda name: _compare(setting, name, known[name], examples))
    if not setting.cuda:
        yield needs_gpu(
            "torch's variable-length attention", "the padded groups were checked, which a CPU computes with"
        )


def _compare(setting: Setting, name: str, config: PreTrainedConfig, examples: list) -> Iterator[Row]:
    import torch

    from training.examples import pad_batch
    from training.packing import pack_batch
    from training.prefix_sharing import share_batch

    release(setting.device)
    # the library's sdpa leaves out Gemma 2's soft cap: its eager attention is the model
    eager = name.startswith("gemma2")
    model, reference = random_model(config, setting.device), random_model(config, setting.device)
    reference.set_attn_implementation("eager" if eager else "sdpa")
    half = len(examples) // 2
    batches = {
        "padded": pad_batch(examples, 0),
        "packed": pack_batch([examples[:half], examples[half:]], 0),
        "shared": share_batch(examples, 0, targets_only=not setting.cuda),
    }
    order = {layout: batch.to(torch.device(setting.device)) for layout, batch in batches.items()}
    truth = _gradients(reference, order["padded"], False, setting.device)
    padded = _gaps(_gradients(reference, order["padded"], True, setting.device), truth)
    for dtype in ("float32", "bfloat16"):
        for layout in ("packed", "shared"):
            with _counting() as calls:
                found = _gradients(model, order[layout], dtype == "bfloat16", setting.device, packed=True)
            gaps = _gaps(found, truth)
            limits = dict.fromkeys(gaps, FLOAT32) if dtype == "float32" else {k: TIMES * v for k, v in padded.items()}
            for what, gap in gaps.items():
                note = "" if dtype == "float32" else f"padded in bfloat16: {padded[what]:.2g}"
                yield row(f"{name}: {layout}, {dtype}, {what}", gap, "of the largest", limits[what], note)
            if setting.cuda and dtype == "bfloat16":
                fused = calls[0] > 0
                yield row(
                    f"{name}: {layout}, calls of variable-length attention", calls[0],
                    ok=fused != name.startswith(_NEVER_FUSED),
                )  # fmt: skip


def _gradients(
    model: PreTrainedModel, batch: Batch, half: bool, device: str, packed: bool = False
) -> dict[str, torch.Tensor]:
    """The logits at the targets, and the gradient of every weight."""
    import torch

    from training.attention.install import packed_attention
    from training.completions import completion_loss, target_logits

    model.train()
    model.zero_grad(set_to_none=True)
    with packed_attention(model) if packed else nullcontext(), torch.autocast(device, torch.bfloat16, enabled=half):
        with torch.no_grad():
            logits = target_logits(model, batch).float()
        loss = completion_loss(model, batch)
    loss.backward()
    return {"logits": logits} | {name: p.grad.float() for name, p in model.named_parameters()}


def _gaps(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference of logits and of gradients, as a share of the largest logit and gradient."""
    gradients = [name for name in truth if name != "logits"]

    def gap(names: list[str]) -> float:
        largest = max(float(truth[name].abs().max()) for name in names)
        return max(float((found[name] - truth[name]).abs().max()) for name in names) / largest

    return {"logits": gap(["logits"]), "gradients": gap(gradients)}


@contextmanager
def _counting() -> Iterator[list[int]]:
    """Count the calls of variable-length attention."""
    from training.attention.attend import Attend

    calls, own = [0], Attend.variable_length

    def counted(self: Attend, *args: Any) -> Any:
        calls[0] += 1
        return own(self, *args)

    replaced: Callable = counted
    Attend.variable_length = replaced
    try:
        yield calls
    finally:
        Attend.variable_length = own
