"""Opening a policy: a Hugging Face folder with a causal LM and its tokenizer.

Every folder is opened by `open_folder`: no code of the folder is ever run, and weights are safetensors only.
Training and saving are in `training/models.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
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
_FLOATS = ("F64", "F32", "F16", "BF16")  # what a weight may be stored as, in the words of safetensors


@contextmanager
def naming(path: str, part: str) -> Iterator[None]:
    """Turn what the libraries raise on a damaged folder, which often does not name it, into one line that does.

    Raises:
        ValueError: this part (model, tokenizer) of the folder does not load.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, KeyError):
            reason = f"it lacks {reason}"
        if re.search("custom( generation)? code", reason):
            reason = "it needs Python code of its own, and the code of a folder is never run"
        raise ValueError(f"{path} has no {part} that loads: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' warnings of missing and unexpected weights: who opens a folder checks both, and raises."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def open_folder(kind: Any, path: str, part: str, **settings: Any) -> Any:
    """What a class of transformers (AutoTokenizer, AutoConfig, a model's) makes of a folder, without running its code.

    Raises:
        ValueError: this part of the folder does not load, or not without code of its own.
    """
    with naming(path, part), _quiet():
        return kind.from_pretrained(path, trust_remote_code=False, **settings)


def open_model(kind: Any, path: str, part: str = "model", **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of this class and transformers' loading info, which names missing and unexpected weights.

    Raises:
        ValueError: there are no safetensors that load, or a weight is stored as a type that would be cast silently.
    """
    from transformers.utils import cached_file

    settings |= {"use_safetensors": True, "output_loading_info": True}
    model, loading = open_folder(kind, path, part, **settings)
    if getattr(model.config, "quantization_config", None) is None:  # there integers are what they should be
        # masks and positions that old checkpoints hold beside their weights are not read, or are no weights
        unread = [*map(re.escape, loading["unexpected_keys"]), *(model._keys_to_ignore_on_load_unexpected or ())]
        unread += [re.escape(name) + "$" for name, one in model.named_buffers() if not one.is_floating_point()]
        check_stored(Path(cached_file(path, "config.json")).parent, "model*.safetensors", unread)
    return model, loading


def check_stored(folder: Path, files: str, unread: Sequence[str] = ()) -> None:
    """Raise ValueError where a weight is stored as a type that the libraries cast without a word, such as int8 or bool.

    `files` is a pattern of file names; weights whose names match an expression of `unread` are passed over.
    """
    from safetensors import safe_open

    for file in sorted(folder.glob(files)):
        with naming(str(folder), "weights"), safe_open(file, "pt") as weights:
            kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        for name, kind in kinds.items():
            if kind not in _FLOATS and not any(re.search(one, name) for one in unread):
                raise ValueError(f"{file}: weight {name} is stored as {kind}, not as one of {', '.join(_FLOATS)}")


def check_adapter(path: str) -> dict[str, Any]:
    """See that a folder holds a LoRA adapter that can be opened safely; returns its config.

    Raises:
        ValueError: a file is missing or damaged, or a weight is stored as a type that would be cast silently.
    """
    folder = Path(path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{path} is no adapter: it has no {name}")
    check_stored(folder, "adapter_model.safetensors")
    with naming(path, "adapter"):
        config = json.loads((folder / "adapter_config.json").read_bytes())
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'adapter_config.json'} holds no settings, but {config!r:.80}")
    return config


def check_folder(path: str) -> None:
    """See that a local folder holds a model and a tokenizer, before anything slow is imported.

    Raises:
        ValueError: a file is missing, or an adapter lies beside the model; the message names the folder and the file.
    """
    folder = Path(path)
    if not folder.exists():
        if folder.is_absolute() or path.startswith(".") or len(folder.parts) > 2:
            raise ValueError(f"policy folder {path} does not exist")
        return  # a name on the hub
    if not (folder / "config.json").is_file():
        raise ValueError(f"policy folder {path} has no config.json")
    if (folder / "adapter_config.json").exists():
        # transformers would add the adapter to the model without a word, and vLLM would not
        raise ValueError(f"policy folder {path} has an adapter_config.json beside its model: merge the adapter first")
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
    tokenizer = open_folder(AutoTokenizer, path, "tokenizer")
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
    model, loading = open_model(AutoModelForCausalLM, path, dtype=pick_dtype(dtype, place))
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
