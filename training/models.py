"""Small policies made from nothing, and how every model is saved. Opening them: `rollouts/sampling/policies.py`."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rollouts.sampling.policies import check_finite
from stages.checks import check_least, check_range

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FASTEST = 10  # rotary frequencies that a head which looks back uses: slower ones hardly tell neighbours apart
_MARGIN = 5.0  # its logit for the token looked at is higher by this than for the neighbours


@dataclass
class ModelArgs:
    """The shape of a Llama made from nothing; used only where no policy is given to start from."""

    hidden_size: int = 128
    layers: int = 3
    heads: int = 2
    feed_forward: int = 384
    context: int = 512
    # standard deviations of the first weights. The library's 0.02 is for wide models: a model as narrow as this learns
    # twice as slowly with it. The embeddings are large beside what layers add, so that each token is told from the
    # others at once: else some seeds never learn to look a name up (experiments/log/2026-11-22-first-weights.md)
    initializer_range: float = 0.05
    embedding_range: float = 0.15
    branch_range: float = 0.01
    # [1, 3]: head 0 of the first layer begins by looking 1 token back, head 1 by 3; the other heads begin as always
    look_back: list[int] = field(default_factory=list)

    def validate(self) -> None:
        """Raise ValueError where no model has this shape."""
        check_least(self, hidden_size=1, layers=1, heads=1, feed_forward=1, context=1)
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} does not give {self.heads} heads of an even size")
        check_range(self, initializer_range="(0, inf)", embedding_range="(0, inf)", branch_range="(0, inf)")
        if len(self.look_back) > self.heads or min(self.look_back, default=1) < 1:
            raise ValueError(
                f"look_back needs at most {self.heads} numbers (a head each) of at least 1, not {list(self.look_back)}"
            )


def make_policy(args: ModelArgs, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A causal LM with random weights for this tokenizer, the same for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.feed_forward,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=args.context,
        initializer_range=args.initializer_range,
        attention_bias=bool(args.look_back),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(args.embedding_range / args.initializer_range)
        for layer in model.model.layers:
            for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
                branch.weight.mul_(args.branch_range / args.initializer_range)
        for head, distance in enumerate(args.look_back):
            _look_back(model, head, distance)
    return model


def _look_back(model: PreTrainedModel, head: int, distance: int) -> None:
    """Give a head of the first layer biases that make it look at the token `distance` back, whatever the tokens are.

    Rotary embeddings turn queries and keys by an angle that grows with the position. A query bias that is the key bias,
    turned back by `distance` positions, matches the key at that distance best.
    """
    attention, frequencies = model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq.tolist()
    half = len(frequencies)
    turning = frequencies[:_FASTEST]
    margin = sum(1 - math.cos(frequency) for frequency in turning)
    size = math.sqrt(_MARGIN * math.sqrt(2 * half) / margin)
    for i, frequency in enumerate(turning):
        first = head * 2 * half + i
        attention.k_proj.bias[first] = size
        attention.q_proj.bias[first] = size * math.cos(frequency * distance)
        attention.q_proj.bias[first + half] = -size * math.sin(frequency * distance)


def grow_vocabulary(model: PreTrainedModel, words: int, seed: int) -> None:
    """Give a model embeddings for as many words. The new ones are the mean of the others with a little noise, so that
    at first none of them is read or written more than a word is on average."""
    import torch

    before, dtype, device = model.config.vocab_size, model.dtype, model.device
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    for part in parts:  # the same words in each precision and on each device
        part.to("cpu", torch.float32)
    torch.manual_seed(seed)
    model.resize_token_embeddings(words, mean_resizing=False)
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(part.weight): part.weight for part in parts}
    with torch.no_grad():
        for weight in own.values():  # one, where they are tied
            weight[before:] += weight[:before].mean(dim=0)
    for part in parts:
        part.to(device, dtype)


def add_layers(model: PreTrainedModel, count: int, seed: int) -> None:
    """Put `count` layers on top of a model's that change nothing at first: what they would add to the residual stream
    is multiplied by zero, as in block expansion (LLaMA Pro, arXiv 2401.02415, sec. 3.2). Their other weights are drawn
    anew there where LLaMA Pro copies the last layer's: in one trial of each a copy
    took three times as many tokens to learn where to look (experiments/log/2026-11-29-judges.md).

    Raises:
        ValueError: the layers of this model are not made so that zeros do that.
    """
    import torch

    body, config = model.base_model, model.config
    layers = getattr(body, "layers", None)
    if layers is None or not all(map(_adds_to_stream, layers)):
        raise ValueError(f"added_layers={count}: a {config.model_type} cannot have more layers, Llama's kind can")
    before, drawn = len(layers), torch.Generator().manual_seed(seed)
    for number in range(before, before + count):
        layer = copy.deepcopy(layers[before - 1], {id(config): config})  # one config for all, as it says what attends
        with torch.no_grad():
            for name, weight in layer.named_parameters():
                if name.endswith(".bias") or ".o_proj." in name or ".down_proj." in name:
                    weight.zero_()
                elif weight.ndim > 1:  # those of a norm stay
                    weight.copy_(torch.randn(weight.shape, generator=drawn) * config.initializer_range)
        layer.self_attn.layer_idx = number
        layers.append(layer)
    config.num_hidden_layers = before + count
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *[config.layer_types[-1]] * count]


def _adds_to_stream(layer: torch.nn.Module) -> bool:
    """Whether a layer is two branches that are added as they come: nothing stands between projection and sum."""
    parts = {name for name, _ in layer.named_children()}
    return parts == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"} and all(
        hasattr(branch, name) for branch, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj"))
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a normal Hugging Face folder: config, safetensors, tokenizer.

    Raises:
        ValueError: a weight is not finite.
    """
    check_finite(model, str(folder))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
