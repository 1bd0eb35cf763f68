"""A causal LM and its keys and values in slots: each row of a batch reads its next token at a place of its own.

So a row that ends leaves its slot to a new one at once, whatever the others' lengths, and no row carries padding.
Layers with a sliding window keep all states here and look at the last of them through their mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

_ROOM = 64  # tokens by which the slots grow at least
_READ_AT_ONCE = 4096  # tokens of prompts in one forward pass: more need memory and are not read faster


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, heads, room, size), written in place."""

    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make slots for states of this kind, (batch, heads, length, size)."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._empty(states) for states in (key_states, value_states))
        self.is_initialized = True

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, size = states.shape
        # zeros: what is masked has no weight, but no weight times what is no number is no number
        return states.new_zeros(self.slots.size, heads, self.slots.room, size)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write the states of one token a row, (rows, heads, 1, size); returns all states of the rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, width = key_states.shape[0], self.slots.width
        where = self.slots.numbers[:rows], slice(None), self.slots.places
        self.keys[where] = key_states[:, :, 0]
        self.values[where] = value_states[:, :, 0]
        return self.keys[:rows, :, :width], self.values[:rows, :, :width]

    def put(self, first: int, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Fill the slots from `first` on with states (rows, heads, length, size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, _, length, _ = key_states.shape
        self.keys[first : first + rows, :, :length] = key_states
        self.values[first : first + rows, :, :length] = value_states

    def grow(self, rows: int) -> None:
        """Take the room that the slots now have, and keep the states of the first rows."""
        if self.is_initialized:
            for name in ("keys", "values"):
                held = getattr(self, name)
                grown = self._empty(held)
                grown[:rows, :, : held.shape[2]] = held[:rows]
                setattr(self, name, grown)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slots.width, 0

    def get_seq_length(self) -> int:
        return self.slots.width - 1

    def get_max_length(self) -> int:
        return -1


class Slots:
    """At most `size` rows of a model; those in use are always the first `rows`."""

    def __init__(self, model, size: int) -> None:
        self.model, self.size, self.device = model, size, model.device
        self.windows = windows(model)
        self.layers = [SlotLayer(self) for _ in self.windows]
        self.cache = Cache(layers=self.layers)
        self.numbers = torch.arange(size, device=self.device)
        self.places = self.numbers  # where each row's token goes
        self.rows = self.room = self.width = 0

    def read(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> None:
        """Add rows, `copies[i]` of them for prompt i, that have read all of it but its last token."""
        longest = max(map(len, prompts)) - 1
        self.width = max(self.width, longest)
        self._make_room(longest + 1)
        at_once = max(1, _READ_AT_ONCE // max(1, longest))
        for start in range(0, len(prompts), at_once):
            self._read(prompts[start : start + at_once], copies[start : start + at_once])

    def _read(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> None:
        longest = max(map(len, prompts)) - 1
        if longest:
            # padded on the right, where nobody looks: a row writes over it
            ids = torch.zeros(len(prompts), longest, dtype=torch.long)
            for row, prompt in enumerate(prompts):
                ids[row, : len(prompt) - 1] = torch.tensor(prompt[:-1])
            cache = Cache(layers=[DynamicLayer() for _ in self.layers])
            self.model(input_ids=ids.to(self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            source = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(copies)).to(self.device)
            for layer, states in zip(self.layers, cache.layers, strict=True):
                layer.put(self.rows, states.keys[source], states.values[source])
        self.rows += sum(copies)

    def step(self, tokens: np.ndarray, places: np.ndarray) -> torch.Tensor:
        """Logits (rows, vocabulary) after each row has read its token, the one at `places` of its text."""
        self.width = int(places.max()) + 1
        self._make_room(self.width)
        given = torch.from_numpy(np.stack([tokens, places])).to(self.device, non_blocking=True)
        self.places = given[1]
        out = self.model(
            input_ids=given[0][:, None],
            attention_mask=self._masks(),
            position_ids=given[1][:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]

    def drop(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Free the slots of some rows. The last rows move into them: returns which of them moved, and where to."""
        left = self.rows - len(rows)
        free = rows[rows < left]
        moved = np.setdiff1d(np.arange(left, self.rows), rows)
        if len(free):
            source, target = (torch.from_numpy(part).to(self.device) for part in (moved, free))
            for layer in self.layers:
                for states in (layer.keys, layer.values):
                    states[target, :, : self.width] = states[source, :, : self.width]
        self.rows = left
        return moved, free

    def free(self) -> None:
        """Give the memory back at once: slots and layers know one another, so nobody else would soon."""
        self.rows = self.room = self.width = 0
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def _make_room(self, needed: int) -> None:
        if needed > self.room:
            self.room = needed + max(_ROOM, needed // 2)
            for layer in self.layers:
                layer.grow(self.rows)

    def _masks(self) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is added to attention scores (rows, 1, 1, width): in the form that the model takes where its layers
        differ, one mask by the kind of layer."""
        columns, places = torch.arange(self.width, device=self.device), self.places[:, None]
        masks = {}
        for window in set(self.windows):
            seen = columns <= places
            if window is not None:
                seen &= columns > places - window
            added = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device)
            kind = "full_attention" if window is None else "sliding_attention"
            masks[kind] = added.masked_fill_(~seen, torch.finfo(added.dtype).min)[:, None, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))


def windows(model) -> list[int | None]:
    """How far back each layer sees; None: to the start.

    Raises:
        ValueError: the model has layers that keep something else than keys and values, or attention of its own.
    """
    kind = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(f"the backend hf cannot sample a {kind}: its attention is not the library's; use vllm")
    layers = DynamicCache(config=model.config).layers
    types = getattr(model.config.get_text_config(), "layer_types", None) or []
    other = {type(layer).__name__ for layer in layers} - {DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__}
    other |= set(types) - {"full_attention", "sliding_attention"}
    if other:
        raise ValueError(f"the backend hf cannot sample a {kind}: it has layers of kind {sorted(other)}; use vllm")
    return [getattr(layer, "sliding_window", None) for layer in layers]
