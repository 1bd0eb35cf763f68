"""Sizes of models: weights counted exactly from a config, and the activations that autograd keeps, found by running the
model's own code on tensors without contents."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine.students.shipped import FOLDERS, find_start
from rollouts.sampling.policies import open_folder
from training.adapters import LoraArgs, add_adapter, inputs_as_they_are
from training.models import ModelArgs

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# fields of config.json as published, by the hub's name
_LLAMA_2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
_LLAMA_3 = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 131072, "num_key_value_heads": 8}
_QWEN = {"model_type": "qwen2", "vocab_size": 151936, "max_position_embeddings": 32768}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _config(family: dict[str, Any], sizes: tuple[int, ...], kv: int, tied: bool = False, **more: Any) -> dict[str, Any]:
    own = dict(zip(_SIZES, sizes, strict=True)) | {"num_key_value_heads": kv, "tie_word_embeddings": tied}
    return family | own | more


KNOWN = {
    "meta-llama/Llama-2-7b-hf": _config(_LLAMA_2, (4096, 11008, 32, 32), 32),
    "meta-llama/Llama-2-13b-hf": _config(_LLAMA_2, (5120, 13824, 40, 40), 40),
    "meta-llama/Llama-2-70b-hf": _config(_LLAMA_2, (8192, 28672, 80, 64), 8),
    "meta-llama/Llama-3.1-8B": _config(_LLAMA_3, (4096, 14336, 32, 32), 8),
    "meta-llama/Llama-3.2-1B": _config(_LLAMA_3, (2048, 8192, 16, 32), 8, True),
    "meta-llama/Llama-3.2-3B": _config(_LLAMA_3, (3072, 8192, 28, 24), 8, True, head_dim=128),
    "Qwen/Qwen2.5-0.5B": _config(_QWEN, (896, 4864, 24, 14), 2, True),
    "Qwen/Qwen2.5-1.5B": _config(_QWEN, (1536, 8960, 28, 12), 2, True),
    "Qwen/Qwen2.5-7B": _config(_QWEN, (3584, 18944, 28, 28), 4, vocab_size=152064),
}
_PROBE_TOKENS = (251, 503)  # lengths at which activations are counted: they grow linearly


@dataclass(frozen=True)
class Saved:
    """Bytes that autograd keeps: for each token and at any length, of a layer and of what is outside of the layers;
    and of the input of a layer, for each token."""

    layer: float
    layer_fixed: float
    outside: float
    outside_fixed: float
    boundary: float

    def total(self, tokens: int, layers: int) -> float:
        """Of a forward pass through the body, without checkpointing."""
        return layers * (self.layer * tokens + self.layer_fixed) + self.outside * tokens + self.outside_fixed


@dataclass(frozen=True)
class Shape:
    """A causal LM: `weights` are counted once where they are tied, `body` are those of linear layers in the body."""

    name: str
    config: PretrainedConfig
    weights: int
    body: int
    layer: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.config.num_hidden_layers

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.config.vocab_size

    @property
    def hidden(self) -> int:
        """Width."""
        return self.config.hidden_size

    @property
    def judge(self) -> int:
        """Weights of the reward model with this body: one score in place of an output embedding of its own."""
        own_head = not self.config.tie_word_embeddings
        return self.weights - self.vocabulary * self.hidden * own_head + self.hidden + 1

    @property
    def attention_width(self) -> int:
        """Heads times their size."""
        return self.config.num_attention_heads * self._head

    @property
    def _head(self) -> int:
        return getattr(self.config, "head_dim", None) or self.hidden // self.config.num_attention_heads

    def deeper(self, layers: int) -> Shape:
        """The same with so many layers more, all of one kind."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers += layers
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = [*kinds, *[kinds[-1]] * layers]
        return _shape(self.name, config) if layers else self

    def cache(self, size: int) -> int:
        """Bytes of one token's keys and values, each number of `size` bytes."""
        heads = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        return 2 * self.layers * heads * self._head * size

    def adapter(self, rank: int, modules: list[str]) -> int:
        """Weights of a LoRA adapter beside the linear layers of the body, or those of these names."""
        return rank * sum(sum(shape) for name, shape in _linear(self.config) if not modules or name in modules)

    def saved(self, dtype: str, lora: LoraArgs) -> Saved:
        """What autograd keeps in training; with dtype bfloat16 as under autocast, which casts weights once a pass."""
        return _saved(self.config.to_json_string(), dtype, lora.rank, lora.dropout, tuple(lora.target_modules))


def find_shape(policy: str | None, made: ModelArgs | None = None, vocabulary: int = 0) -> Shape:
    """The sizes of `policy`: a name of KNOWN (also hub:…), a folder with a config.json, or `shipped`; of None those of
    a model that is `made` from nothing.

    Raises:
        ValueError: it is none of these.
    """
    from transformers import AutoConfig, LlamaConfig

    if policy is None:
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=made.hidden_size, intermediate_size=made.feed_forward,
            num_hidden_layers=made.layers, num_attention_heads=made.heads, tie_word_embeddings=True,
            attention_bias=bool(made.look_back), max_position_embeddings=made.context,
        )  # fmt: skip
        return _shape("a new model", config)
    name = re.sub(r"^hub:|@[\w./-]+$", "", policy)
    if name in KNOWN:
        return _shape(name, AutoConfig.for_model(**KNOWN[name]))
    folder = find_start(policy) if policy in FOLDERS else policy
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{policy} has no config.json here, and is none of {', '.join(KNOWN)}")
    return _shape(policy, open_folder(AutoConfig, folder, "config").get_text_config())


def _shape(name: str, config: PretrainedConfig) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    layer = sum(n for name, n in sizes.items() if re.search(r"\.0\.", name))
    body = sum(a * b for _, (a, b) in _linear(config))
    return Shape(name, config, sum(sizes.values()), body, layer)


def _linear(config: PretrainedConfig) -> list[tuple[str, tuple[int, int]]]:
    """The linear layers of the body: the last part of the name, and (in, out)."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linear = [(name, one) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    return [(name.rsplit(".", 1)[-1], (one.in_features, one.out_features)) for name, one in linear]


@lru_cache
def _saved(config_json: str, dtype: str, rank: int, dropout: float, modules: tuple[str, ...]) -> Saved:
    import json

    from transformers import AutoConfig

    known = {name: value for name, value in json.loads(config_json).items() if value is not None}
    config = AutoConfig.for_model(**known)
    short, long = _PROBE_TOKENS
    lora = LoraArgs(rank, dropout=dropout, target_modules=list(modules))
    found = {(n, tokens): _count_saved(config, n, tokens, dtype, lora) for n in (1, 2) for tokens in _PROBE_TOKENS}
    layer = {tokens: found[2, tokens] - found[1, tokens] for tokens in _PROBE_TOKENS}
    outside = {tokens: found[1, tokens] - layer[tokens] for tokens in _PROBE_TOKENS}
    slopes = [(part[long] - part[short]) / (long - short) for part in (layer, outside)]
    fixed = [part[short] - slope * short for part, slope in zip((layer, outside), slopes, strict=True)]
    # what runs through the layers has the precision of the weights, whatever autocast does within
    size = 2 if rank and dtype == "bfloat16" else 4
    return Saved(slopes[0], fixed[0], slopes[1], fixed[1], size * config.hidden_size)


def _count_saved(config: PretrainedConfig, layers: int, tokens: int, dtype: str, lora: LoraArgs) -> int:
    """Bytes of all that the backward pass of the body of `layers` layers will need, but for its own weights."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    kept: dict[int, Any] = {}
    opened = getattr(torch, dtype) if lora.rank else torch.float32
    with torch.device("meta"):  # peft cannot put fake tensors in another place
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=opened)
        body = model.base_model
        add_adapter(model, lora)
        body.train()
    with FakeTensorMode():
        for module in body.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    empty = torch.empty(one.shape, dtype=one.dtype, device="cpu")
                    module._parameters[name] = torch.nn.Parameter(empty, one.requires_grad)
            for name, one in module._buffers.items():
                module._buffers[name] = torch.empty(one.shape, dtype=one.dtype, device="cpu")
        own = {one.untyped_storage()._cdata for one in (*body.parameters(), *body.buffers())}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            # a mask is made for fake tensors only: the kernels of GPUs know what is causal
            if storage._cdata not in own and tensor.shape[-2:] != (tokens, tokens):
                kept[storage._cdata] = storage  # held, so that no other gets its number
            return tensor

        bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
        kept_as_is = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with kept_as_is, bfloat16, inputs_as_they_are(body, dtype):
            body(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())
