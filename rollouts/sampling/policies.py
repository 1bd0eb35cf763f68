"""Opening a policy: a Hugging Face folder with a causal LM and its tokenizer.

Training and saving are in `training/models.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def device_class(device: str) -> str:
    """The kind of device (cuda, cpu) that a setting means here. Kinds round differently, so it counts for a key; which
    one of several does not. torch is loaded for `auto` only."""
    if device == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]


def own_device_class(args: Any) -> str:
    """`device_class` of the field `device` beside it, for `stages.stage.resolved`."""
    return device_class(args.device)


def dtype_name(dtype: str, device: str) -> str:
    """`auto` is bfloat16 on a GPU and float32 on a CPU (where bfloat16 is many times slower)."""
    return {"cuda": "bfloat16"}.get(device, "float32") if dtype == "auto" else dtype


def pick_device(device: str) -> torch.device:
    """`auto` is a GPU where there is one, else the CPU; anything else is torch's own name.

    Where several processes are launched, each takes the GPU of its LOCAL_RANK, or the only one that it can see.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    import torch

    if device == "auto":
        device = device_class(device)
        rank, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
        if device == "cuda" and rank is not None and count > 1:
            if int(rank) >= count:
                raise ValueError(f"LOCAL_RANK={rank}, but there are only {count} GPUs: start fewer processes")
            device = f"cuda:{rank}"
    return torch.device(device)


HEADS = ("score.", "classifier.")  # how the library's model classes name the head of a reward model


@contextmanager
def naming(path: str, part: str) -> Iterator[None]:
    """Turn what the libraries raise on a damaged folder, which often does not name it, into one line that does.

    Raises:
        ValueError: this part (model, tokenizer) of the folder does not load.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} has no {part} that loads: {reason}") from error


def check_folder(path: str) -> None:
    """See that a local folder holds a model and a tokenizer, before anything slow is imported.

    Raises:
        ValueError: a file is missing; the message names the folder and the file.
    """
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or path.startswith(".") or len(folder.parts) > 2:
            raise ValueError(f"policy folder {path} does not exist")
        return  # a name on the hub
    if not (folder / "config.json").is_file():
        raise ValueError(f"policy folder {path} has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"policy folder {path} has no *.safetensors weights")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(f"policy folder {path} has no tokenizer (tokenizer.json)")


def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder, with a padding token (the end token where it names none).

    Raises:
        ValueError: there is none, or it is not a fast one (offsets are needed), or it has no end token.
    """
    from transformers import AutoTokenizer

    check_folder(path)
    with naming(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.is_fast:
        raise ValueError(f"policy {path} has a slow tokenizer; step boundaries need a fast one (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of policy {path} has no end-of-text token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that a setting means on this device (`dtype_name`)."""
    import torch

    found = getattr(torch, dtype_name(dtype, device.type), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype={dtype!r} is none of auto, float32, bfloat16, float16")
    return found


def load_policy(
    path: str, dtype: str = "auto", device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a causal LM and its tokenizer, in evaluation mode.

    Raises:
        ValueError: the folder lacks something, weights are missing or not finite, or the two do not fit together.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(path)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    with naming(path, "model"):
        model, loading = AutoModelForCausalLM.from_pretrained(path, dtype=kind, output_loading_info=True)
    if any(name.startswith(HEADS) for name in loading["unexpected_keys"]):
        raise ValueError(f"policy {path} is a reward model: it judges and cannot be sampled")
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(
            f"policy {path} lacks weights: {sorted(loading['missing_keys'])[:5]}, "
            f"{list(loading['mismatched_keys'])[:5]}"
        )
    check_weights(model, tokenizer, path)
    return model.to(place).eval(), tokenizer


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read, or None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_weights(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: str) -> None:
    """Raise ValueError where a weight is not finite, or a token of the tokenizer has no embedding."""
    check_finite(model, path)
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        raise ValueError(f"{path}: the tokenizer has {len(tokenizer)} tokens, the model embeddings for {embeddings}")


def check_finite(model: PreTrainedModel, path: str) -> None:
    """Raise ValueError where a weight is NaN or infinite: such a model trains and samples without an error."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{path}: weight {name} is not finite")
