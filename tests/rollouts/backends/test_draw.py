"""The distribution that tokens are drawn from, and the numbers that they are drawn with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from rollouts.backends.hf.draw import NO_TOKEN, draw, read_tokens, uniforms
from rollouts.sampling.protocol import SamplingError, sample_seed


def draw_all(logits: torch.Tensor, uniform: np.ndarray, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    return draw(logits, uniform, np.full(len(logits), temperature), np.full(len(logits), top_p))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_give_no_token(temperature, value):
    logits = torch.zeros(2, 5)
    logits[1, 2] = value
    token = draw_all(logits, np.array([0.5, 0.5]), temperature)
    assert token[0] >= 0 and token[1] == NO_TOKEN
    with pytest.raises(SamplingError, match="not finite"):
        read_tokens(token)


def test_a_token_that_is_ruled_out_is_no_fault():
    assert draw_all(torch.tensor([[-torch.inf, 1.0]]), np.array([0.0])).tolist() == [1]


PROBABILITIES = [0.4, 0.25, 0.2, 0.1, 0.05]


def drawn(count: int, position: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    seeds = np.array([sample_seed(0, "chi", i) for i in range(count)], dtype=np.int64)
    logits = torch.tensor(PROBABILITIES).log().expand(count, -1)
    return draw_all(logits, uniforms(seeds, position), temperature, top_p)


@pytest.mark.parametrize("position", [0, 1, 200])
def test_tokens_are_drawn_as_often_as_they_are_likely(position):
    count = 100_000
    seen = torch.bincount(drawn(count, position), minlength=5).numpy()
    assert stats.chisquare(seen, np.array(PROBABILITIES) * count).pvalue > 1e-3


def test_temperature_sharpens():
    count = 50_000
    sharp = np.array(PROBABILITIES) ** 2 / sum(p**2 for p in PROBABILITIES)
    seen = torch.bincount(drawn(count, temperature=0.5), minlength=5).numpy()
    assert stats.chisquare(seen, sharp * count).pvalue > 1e-3


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.99, 5)])
def test_top_p_keeps_the_likeliest_and_their_proportions(top_p, kept):
    count = 20_000
    seen = torch.bincount(drawn(count, top_p=top_p), minlength=5).numpy()
    assert (seen[:kept] > 0).all() and not seen[kept:].any()
    share = np.array(PROBABILITIES[:kept]) / sum(PROBABILITIES[:kept])
    assert kept == 1 or stats.chisquare(seen[:kept], share * count).pvalue > 1e-3


def test_top_p_works_on_unsorted_logits():
    logits = torch.tensor([[0.05, 0.4, 0.1, 0.25, 0.2]]).log().expand(1000, -1)
    seeds = np.arange(1000, dtype=np.int64)
    assert set(draw_all(logits, uniforms(seeds, 0), 1.0, 0.6).tolist()) == {1, 3}


def test_the_ends_of_the_unit_interval_never_give_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(2, -1)
    ends = np.array([0.0, 1 - 2**-53])
    assert draw_all(logits, ends).tolist() == [1, 3]


def test_each_row_is_drawn_by_its_own_settings():
    settings = [(0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (0.5, 0.6), (0.0, 0.6)]
    each = 500
    temperature, top_p = (np.repeat(values, each) for values in np.array(settings).T)
    logits = torch.randn(each * len(settings), 50, generator=torch.Generator().manual_seed(0))
    uniform = uniforms(np.arange(len(logits)), 3)
    together = draw(logits, uniform, temperature, top_p)
    for i, setting in enumerate(settings):
        rows = slice(i * each, (i + 1) * each)
        assert torch.equal(together[rows], draw_all(logits[rows], uniform[rows], *setting))
    assert torch.equal(together[:each], logits[:each].argmax(-1))


def test_each_row_has_a_position_of_its_own():
    seeds, positions = np.arange(100) * 7, np.arange(100) % 9
    wanted = [uniforms(seeds[i : i + 1], int(position))[0] for i, position in enumerate(positions)]
    assert uniforms(seeds, positions).tolist() == wanted


def test_the_numbers_of_a_seed_are_the_same_in_every_version():
    seeds = np.array([2**63 - 1, 5, 0])
    assert uniforms(seeds, 0) == pytest.approx([0.89774722, 0.67236799, 0.2817613], abs=1e-8)
    assert uniforms(seeds, 77) == pytest.approx([0.23802133, 0.12792996, 0.82312059], abs=1e-8)


def test_uniform_numbers_are_even_and_independent():
    bins, count = 16, 60_000
    for seeds in (np.arange(count), np.array([sample_seed(1, "u", i) for i in range(count)])):
        first, second = (uniforms(seeds.astype(np.int64), position) for position in (0, 1))
        assert first.min() >= 0 and first.max() < 1
        assert stats.chisquare(np.histogram(first, bins, (0, 1))[0]).pvalue > 1e-3
        for other in (second, np.roll(first, 1)):  # the next token, and the row beside
            table, _, _ = np.histogram2d(first, other, bins, [(0, 1), (0, 1)])
            assert stats.chisquare(table.ravel()).pvalue > 1e-3
