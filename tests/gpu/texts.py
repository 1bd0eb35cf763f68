"""Examples and models of random contents for the parts: what they cost is real, what they say is nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from training.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# of GSM8K as Qwen's tokenizer reads it, about: a problem's text and a solution
PROMPT, SOLUTION = (60, 160), (60, 240)
SHAPE_05B = "Qwen/Qwen2.5-0.5B"


def families(
    count: int,
    each: int,
    words: int,
    seed: int = 0,
    prompt: tuple[int, int] = PROMPT,
    solution: tuple[int, int] = SOLUTION,
) -> list[Example]:
    """`each` solutions of each of `count` prompts, of random ids below `words`; every second one goes on from the first
    half of the one before it. The solutions are to be predicted."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        own = [rng.randrange(3, words) for _ in range(rng.randint(*prompt))]
        before: list[int] = []
        for i in range(each):
            kept = before[: len(before) // 2] if i % 2 else []
            before = kept + [rng.randrange(3, words) for _ in range(max(1, rng.randint(*solution) - len(kept)))]
            ids = own + before
            found.append(Example(ids, list(range(len(own) - 1, len(ids) - 1)), ids[len(own) :], len(own)))
    return found


def shape_of(dry: bool) -> PreTrainedConfig:
    """The config of Qwen2.5-0.5B; dry: the same family with a few thousand weights."""
    from transformers import AutoConfig

    from experiments.planning.models import KNOWN

    tiny = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tiny |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    known = KNOWN[SHAPE_05B] | (tiny if dry else {})
    # the special tokens of the embedded world's tokenizer
    return AutoConfig.for_model(**known, pad_token_id=0, bos_token_id=None, eos_token_id=1)


def random_model(config: PreTrainedConfig, device: str, kind: Any = None, seed: int = 0) -> PreTrainedModel:
    """A model of random weights in float32, made on the device."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device(device):
        # a model keeps the config that it is given, and its attention is set there
        model = (kind or AutoModelForCausalLM).from_config(copy.deepcopy(config), dtype=torch.float32)
    return model
