"""Small policies made from nothing, and how every model is saved. Opening them: `rollouts/sampling/policies.py`."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
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
MATCHING = 2  # layers that `add_matching` puts below a model's
_MATCH = 5.0  # the logit, on average, of a head that matches tokens for one that is the same
_BEFORE = 0.7  # how much of the token before is added to a token, beside its own embedding


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
            _look_back(model.model, head, distance)
    return model


def _look_back(model: PreTrainedModel, head: int, distance: int) -> None:
    """Give a head of the first layer biases that make it look at the token `distance` back, whatever the tokens are.
    `model` is the body with its rotary embeddings.

    Rotary embeddings turn queries and keys by an angle that grows with the position. A query bias that is the key bias,
    turned back by `distance` positions, matches the key at that distance best.
    """
    attention, frequencies = model.layers[0].self_attn, model.rotary_emb.inv_freq.tolist()
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
    drawn = _draw_layers(model, count, seed, f"added_layers={count}")
    _set_layers(model, above=drawn)


def add_matching(model: PreTrainedModel, seed: int) -> None:
    """Put two layers below a model's that together find where a token was named before: an induction head
    (arXiv 2209.11895) by its first weights, which learns from there.

    In the lower one every token hears the one before it. In the upper one all heads match: queries and keys are one
    projection of the stream, another for each head, as in mimetic initialization (arXiv 2305.09828), so that a token
    looks at those like it, and at those that follow one like it. What is read there is multiplied by zero at first.
    Higher up a token is so mixed with its context that matching it is found late, or never
    (experiments/log/2026-11-29-matching.md).

    Raises:
        ValueError: the layers of this model are not made so that zeros do that, or its attention is another than that
            of the students: with biases, as many keys as queries, and heads that are together as wide as the stream.
    """
    import torch

    lower, upper = _draw_layers(model, MATCHING, seed, "names=true")
    width, heads, size = model.config.hidden_size, model.config.num_attention_heads, upper.self_attn.head_dim
    biased = getattr(lower.self_attn.q_proj, "bias", None) is not None
    if not biased or model.config.num_key_value_heads != heads or heads * size != width:
        raise ValueError(
            f"names=true: a {model.config.model_type} needs attention with biases, as many keys as queries, and heads "
            "that are together as wide as the model, as the students have it"
        )
    _set_layers(model, below=[lower, upper])
    drawn = torch.Generator().manual_seed(seed)
    length = model.get_input_embeddings().weight.norm(dim=1).mean()
    with torch.no_grad():
        for layer in (lower, upper):
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight.fill_(1.0)
        for projection in (lower.self_attn.q_proj, lower.self_attn.k_proj):
            projection.weight.zero_()  # whatever the tokens are
        for head in range(heads):
            _look_back(model.base_model, head, 1)
        whole, _ = torch.linalg.qr(torch.randn(width, width, generator=drawn))
        lower.self_attn.v_proj.weight.copy_(whole)
        lower.self_attn.o_proj.weight.copy_(whole.T * _BEFORE * length / math.sqrt(width))
        # fast frequencies tell positions apart, not tokens: they are left out
        slow = torch.arange(size) % (size // 2) >= size // 4
        scale = math.sqrt(_MATCH * math.sqrt(size) / (int(slow.sum()) * width))
        tokens = torch.randn(heads, size, width, generator=drawn) * scale * slow[:, None]
        for projection in (upper.self_attn.q_proj, upper.self_attn.k_proj):
            projection.weight.copy_(tokens.flatten(0, 1))


def _draw_layers(model: PreTrainedModel, count: int, seed: int, setting: str) -> list[torch.nn.Module]:
    """Layers like the last of a model's, with weights drawn anew, that add nothing to the residual stream."""
    import torch

    config, layers = model.config, getattr(model.base_model, "layers", None)
    if layers is None or not all(map(_adds_to_stream, layers)):
        raise ValueError(f"{setting}: a {config.model_type} cannot have more layers, Llama's kind can")
    made, drawn, last = [], torch.Generator().manual_seed(seed), layers[len(layers) - 1]
    for _ in range(count):
        layer = copy.deepcopy(last, {id(config): config})  # one config for all, as it says what attends
        with torch.no_grad():
            for name, weight in layer.named_parameters():
                if name.endswith(".bias") or ".o_proj." in name or ".down_proj." in name:
                    weight.zero_()
                elif weight.ndim > 1:  # those of a norm stay
                    weight.copy_(torch.randn(weight.shape, generator=drawn) * config.initializer_range)
        made.append(layer)
    return made


def _set_layers(
    model: PreTrainedModel, below: Sequence[torch.nn.Module] = (), above: Sequence[torch.nn.Module] = ()
) -> None:
    """Put layers of `_draw_layers` below and above a model's own."""
    import torch

    body, config = model.base_model, model.config
    body.layers = torch.nn.ModuleList([*below, *body.layers, *above])
    for number, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = number
    if kinds := getattr(config, "layer_types", None):  # of each layer; a new one is of the last one's kind
        config.layer_types = [*[kinds[-1]] * len(below), *kinds, *[kinds[-1]] * len(above)]
    config.num_hidden_layers = len(body.layers)


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
