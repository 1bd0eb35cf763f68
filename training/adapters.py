"""LoRA and QLoRA through peft: small trained matrices beside frozen linear layers, and a trained head.

With rank 8 a layer of 1,024 x 1,024 weights gets 2 x 8 x 1,024 that are trained. `add_adapter` before training,
`merge_adapter` after it: what is saved is a normal model, in float32. Where training computes in bfloat16 the frozen
weights are opened in it. With `quantize` they have 4 bits (QLoRA, Dettmers et al. 2023): they are opened on the CPU and
put on the device a layer at a time; by hand, since transformers quantises only what it opens from a folder, and whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.sampling.policies import HEADS, check_finite, device_class, dtype_name, pick_device
from stages.checks import check_choices, check_least, check_range

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from training.args import TrainArgs

QUANTIZED = ("none", "nf4")
ADAPTER = "adapter"  # the folder beside a merged model that keeps its adapter
_NAME = "default"  # peft's own name of a model's only adapter


@dataclass
class LoraArgs:
    """LoRA's settings; with rank 0 all weights are trained. `alpha / rank` scales what the adapter adds.

    `target_modules` are names of linear layers (`q_proj`); none means all but the head's. With `keep_adapter` the
    adapter is saved as well, beside the merged model.
    """

    rank: int = 0
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=list)
    quantize: str = "none"
    keep_adapter: bool = False

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_least(self, "lora.", rank=0)
        check_range(self, "lora.", alpha="(0, inf)", dropout="[0, 1)")
        check_choices(self, "lora.", quantize=QUANTIZED)
        if self.rank == 0 and (self.quantize != "none" or self.keep_adapter or self.target_modules):
            raise ValueError(
                f"lora.rank=0 trains all weights: there is no adapter for quantize={self.quantize}, "
                f"keep_adapter={self.keep_adapter} and target_modules={list(self.target_modules)}"
            )


def how_to_open(args: LoraArgs, train: TrainArgs) -> tuple[str, str]:
    """The precision and the device in which a model is to be opened that will be trained."""
    # what is trained itself stays in float32, or small steps would be rounded away
    dtype = dtype_name(train.dtype, device_class(train.device)) if args.rank else "float32"
    return dtype, train.device if args.quantize == "none" else "cpu"


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers of a model's body, by their full names: no head, and no output embedding."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and not f"{name}.".startswith(HEADS)
        and module is not model.get_output_embeddings()
    }


def add_adapter(
    model: PreTrainedModel, args: LoraArgs, seed: int = 0, device: str | None = None
) -> PreTrainedModel | PeftModel:
    """The model with an adapter, and all but that and a reward model's head frozen; the model itself with rank 0.

    An adapter is in float32 and adds nothing before it is trained. Layers of 4 bits go to `device` (None: they stay
    where they are). `model` itself is changed: do not use it any more.

    Raises:
        ValueError: no linear layer has one of the names, or bitsandbytes is asked for but not there.
    """
    if args.rank == 0:
        return model
    import torch
    from peft import get_peft_model

    layers = linear_layers(model)
    names = {name.rsplit(".", 1)[-1] for name in layers}
    if unknown := set(args.target_modules) - names:
        raise ValueError(f"lora.target_modules: no linear layer is named {min(unknown)!r}; there are {sorted(names)}")
    wanted = set(args.target_modules) or names
    if args.quantize == "nf4":
        chosen = {name: layer for name, layer in layers.items() if name.rsplit(".", 1)[-1] in wanted}
        _quantize(model, chosen, model.device if device is None else pick_device(device))
    torch.manual_seed(seed)
    adapted = get_peft_model(model, _config(model, args, sorted(wanted)))
    if args.quantize == "nf4":
        model.enable_input_require_grads()  # or gradient checkpointing would find nothing to train below
    return adapted


def _config(model: PreTrainedModel, args: LoraArgs, wanted: list[str]) -> LoraConfig:
    from peft import LoraConfig, TaskType

    head = sorted({name.split(".")[0] for name, _ in model.named_parameters() if name.startswith(HEADS)})
    return LoraConfig(
        task_type=TaskType.TOKEN_CLS if head else TaskType.CAUSAL_LM,
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=wanted,
        modules_to_save=head or None,
    )


@contextmanager
def inputs_as_they_are(model: torch.nn.Module, dtype: str) -> Iterator[None]:
    """While the block lasts, adapters leave their inputs to autocast, where `dtype` is bfloat16. peft makes a float32
    copy for each layer, of which autocast makes another in bfloat16: of those more was kept than of all else."""
    if dtype == "float32" or not any(".lora_" in name for name, _ in model.named_parameters()):
        yield
        return
    from peft.helpers import disable_input_dtype_casting

    with disable_input_dtype_casting(model):
        yield


def merge_adapter(
    model: PreTrainedModel | PeftModel, keep: Path | None = None, reopen: Callable[[], PreTrainedModel] | None = None
) -> PreTrainedModel:
    """The model with its adapter added to its weights, in float32: it scores the same. Without an adapter: as it is.

    Where the frozen weights are in bfloat16, `reopen` opens them in float32 on the CPU, as they were before they were
    rounded (None: they stay rounded). The adapter is added to weights of 4 bits as they were trained beside it. The
    adapter, with the trained head, is saved first as the peft folder `keep`.

    Raises:
        ValueError: it is to be saved, and a weight is not finite.
    """
    import torch

    if not hasattr(model, "peft_config"):
        return model
    if keep is not None:
        check_finite(model, str(keep))
        model.save_pretrained(keep)
    if all(weight.dtype == torch.float32 for weight in model.parameters()):
        return model.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    config, trained = model.peft_config[_NAME], get_peft_model_state_dict(model)
    rounded = reopen is None or getattr(model.get_base_model(), "is_loaded_in_4bit", False)
    merged = get_peft_model(_widened(model.unload()) if rounded else reopen(), config)
    set_peft_model_state_dict(merged, trained)
    return merged.merge_and_unload()


def _quantize(model: PreTrainedModel, layers: dict[str, torch.nn.Module], device: torch.device) -> None:
    """Keep the weights of linear layers in 4 bits (NormalFloat, with quantised scales) on a device, which gets them one
    after the other. They compute in the precision that they had."""
    import torch

    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError("lora.quantize=nf4 needs bitsandbytes: pip install 'stepwise[qlora]'") from error
    for name, layer in layers.items():
        if not isinstance(layer, torch.nn.Linear):
            raise ValueError(f"lora.quantize=nf4: layer {name} is a {type(layer).__name__}, not a Linear")
        small = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, layer.weight.dtype, quant_type="nf4",
            device="meta",
        )  # fmt: skip
        small.weight = bitsandbytes.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        # where a CPU has the instructions it would compute in 16 bits, and keep the weights in another order
        small.support_avx512bf16_for_cpu = False
        model.set_submodule(name, small.to(device))
    model.is_loaded_in_4bit = True  # peft asks for it


def _widened(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in float32 on the CPU, those of 4 bits as they are computed with."""
    import torch

    for name, layer in list(model.named_modules()):
        if state := getattr(getattr(layer, "weight", None), "quant_state", None):
            from bitsandbytes.functional import dequantize_4bit

            whole = torch.nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            whole.weight = torch.nn.Parameter(dequantize_4bit(layer.weight.data, state).float().cpu())
            whole.bias = layer.bias
            model.set_submodule(name, whole)
    model.is_loaded_in_4bit = False
    return model.float().cpu()
