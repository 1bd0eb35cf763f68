"""Drawing tokens: each by inverse CDF from one uniform number that depends only on (sample seed, position).

So what is drawn does not depend on which rows are beside it, except where float rounding moves a draw that falls on a
boundary.
"""

from __future__ import annotations

import numpy as np
import torch

from rollouts.sampling.protocol import SamplingError

NO_TOKEN = -1  # drawn from logits that are no finite numbers


def uniforms(seeds: np.ndarray, positions: np.ndarray | int) -> np.ndarray:
    """One number in [0, 1) for each seed (int64) at a token position: two rounds of splitmix64, a counter-based
    generator, so that a row's numbers do not depend on which rows are beside it."""
    with np.errstate(over="ignore"):
        x = seeds.astype(np.uint64) + (np.asarray(positions) + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def draw(logits: torch.Tensor, uniform: np.ndarray, temperature: np.ndarray, top_p: np.ndarray) -> torch.Tensor:
    """Token ids (batch,) from logits (batch, vocabulary): greedy where the temperature is 0, else by inverse CDF.

    `uniform` holds one number in [0, 1) a row; greedy rows read none. A row whose logits are not a number or
    infinitely large gets NO_TOKEN: whatever were drawn would mean nothing.
    """
    greedy = temperature == 0
    if greedy.all():
        return _likeliest(logits)
    given = np.stack([uniform, np.where(greedy, 1.0, temperature), np.where(top_p < 1, top_p, np.inf)])
    given = torch.from_numpy(given).to(logits.device, non_blocking=True)[..., None]  # one transfer for all three
    token = _draw(logits, given[0], given[1].float(), given[2].float() if (top_p < 1).any() else None)
    if greedy.any():
        return torch.where(torch.from_numpy(greedy).to(logits.device), _likeliest(logits), token)
    return token


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    best, token = logits.max(-1)
    return torch.where(best.isfinite(), token, NO_TOKEN)


def _draw(
    logits: torch.Tensor, uniform: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor | None
) -> torch.Tensor:
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p is not None:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # a token stays while the mass before it is under top_p, so that the likeliest always stays
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ranked)
    cdf = probabilities.double().cumsum(-1)
    total = cdf[:, -1:]
    # rounding may put the target on the total, after which there is no token: the last that adds to it is meant then
    target = torch.minimum(uniform * total, total.nextafter(total.new_zeros(())))
    token = torch.searchsorted(cdf, target, right=True)
    return torch.where(total.isfinite(), token, NO_TOKEN)[:, 0]


def read_tokens(token: torch.Tensor) -> np.ndarray:
    """Drawn ids on the host, where the loop waits for the device once.

    Raises:
        SamplingError: a row has NO_TOKEN.
    """
    ids = token.cpu().numpy()
    if (ids < 0).any():
        raise SamplingError("the policy's logits are not finite numbers")
    return ids
