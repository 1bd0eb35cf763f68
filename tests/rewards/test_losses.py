"""Losses against plain ones of a few lines in float64; groups stay together and are averaged whatever the batches."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch

from rewards.encode import pair_solutions
from rewards.losses import bce, make_loss, pairwise, pqm, step_logits
from rewards.reward_model import make_reward_model
from tests.tiny import save_policy
from tests.training.runs import close, on_two, same, train, weights
from training.args import CheckpointArgs
from training.examples import Example, list_members, pad_batch

MARGIN = 4.0


def plain_pairs(logits: list[float], labels: list[float]) -> float:
    pairs = [(r, w) for (r, a), (w, b) in itertools.product(zip(logits, labels, strict=True), repeat=2) if a > b]
    return sum(math.log(1 + math.exp(w - r)) for r, w in pairs) / len(pairs)


def plain_pqm(logits: list[float], labels: list[float]) -> float:
    """Equation 10 as it is written, with Q_0 = 0."""
    right = [0.0, *(q for q, label in zip(logits, labels, strict=True) if label == 1)]
    wrong = [q for q, label in zip(logits, labels, strict=True) if label == 0]
    terms = [
        -math.log(math.exp(q) / (sum(map(math.exp, right[: t + 1])) + sum(math.exp(w + MARGIN) for w in wrong)))
        for t, q in enumerate(right)
    ]
    terms = terms if wrong else terms[1:]
    return sum(terms) / len(terms)


PLAIN = {"pairwise": plain_pairs, "pqm": plain_pqm}


def found(name: str, logits: torch.Tensor, labels: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    return pqm(logits, labels, members, MARGIN) if name == "pqm" else pairwise(logits, labels, members)


@pytest.mark.parametrize("name", PLAIN)
def test_a_group_is_worth_what_the_formula_says(name):
    rng = random.Random(name)
    labels = [[1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0]] + ([[1.0], [0.0], [1.0, 1.0]] if name == "pqm" else [])
    logits = [[rng.gauss(0, 3) for _ in own] for own in labels]
    wanted = [PLAIN[name](*one) for one in zip(logits, labels, strict=True)]
    members = list_members([[Example([1], [0] * len(own), own)] for own in labels])
    flat = torch.tensor([q for own in logits for q in own], dtype=torch.float64, requires_grad=True)
    wished = torch.tensor([label for own in labels for label in own])
    values = found(name, flat, wished, members)
    assert values.tolist() == pytest.approx(wanted, rel=1e-9)
    single = found(name, flat.detach().float(), wished, members)
    assert single.tolist() == pytest.approx(wanted, rel=1e-5)
    values.sum().backward()
    starts = list(itertools.accumulate(map(len, labels), initial=0))
    for group, at in ((g, i) for g, own in enumerate(labels) for i in range(len(own))):
        ends = []
        for step in (1e-5, -1e-5):
            moved = [q + step * (i == at) for i, q in enumerate(logits[group])]
            ends.append(PLAIN[name](moved, labels[group]))
        slope = (ends[0] - ends[1]) / 2e-5
        assert float(flat.grad[starts[group] + at]) == pytest.approx(slope, abs=1e-6)


def test_large_logits_stay_finite():
    logits = torch.tensor([200.0, -200.0, 300.0, 150.0], requires_grad=True)
    labels, members = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([[0, 1, 2, 3], [0, -1, -1, -1]])
    for values in (pqm(logits, labels, members, MARGIN), pairwise(logits, labels, members)):
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert values.isfinite().all() and gradient.isfinite().all() and float(values[0]) > 50
    assert pairwise(logits, labels, members)[1] == 0  # it has no pair


def test_bce_takes_soft_labels():
    values = bce(torch.tensor([2.0, -1.0]), torch.tensor([0.25, 1.0]))
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    assert values.tolist() == pytest.approx([-0.25 * math.log(p) - 0.75 * math.log(1 - p), -math.log(q)])


def solutions(count: int, seed: int = 0) -> tuple[list[Example], list[str]]:
    """Six solutions of each problem with labels at three places; three are right."""
    rng, examples, owners = random.Random(seed), [], []
    for n in range(count):
        prompt = [rng.randrange(2, 100) for _ in range(10)]
        for k in range(6):
            ids = prompt + [rng.randrange(2, 100) for _ in range(rng.randint(4, 8))]
            labels = [1.0, float(k > 2), float(k % 2)]
            examples.append(Example(ids, [10, 12, len(ids) - 1], labels, 10))
            owners.append(str(n))
    return examples, owners


def grouped(name: str, count: int = 8, tokens: int = 60) -> list[Example]:
    examples, owners = solutions(count)
    if name == "pqm":
        return [Example(e.ids, e.positions, e.targets, e.prompt, n) for n, e in enumerate(examples)]
    last = [Example(e.ids, e.positions[-1:], e.targets[-1:], e.prompt) for e in examples]
    return pair_solutions(last, owners, tokens, 0)[0]


def test_groups_have_both_sides_of_one_problem_and_fit():
    examples, owners = solutions(5)
    examples = [Example(e.ids, e.positions[-1:], e.targets[-1:], e.prompt) for e in examples]
    examples[:6] = [Example(e.ids, e.positions, [1.0], e.prompt) for e in examples[:6]]  # a problem without a wrong one
    for tokens in (1000, 60, 1):
        kept, left = pair_solutions(examples, owners, tokens, 0)
        assert [e.ids for e in kept] == [e.ids for e in examples[6:]] and left == owners[6:]
        groups = {}
        for example, owner in zip(kept, left, strict=True):
            groups.setdefault(example.group, []).append((owner, example))
        assert all(len({owner for owner, _ in own}) == 1 for own in groups.values())
        assert all({e.targets[0] for _, e in own} == {0.0, 1.0} for own in groups.values())
        if tokens > 1:
            assert all(sum(len(e.ids) for _, e in own) <= tokens for own in groups.values())
        assert {1000: len(groups) == 4, 60: len(groups) > 4, 1: len(groups) == 12}[tokens]


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    return save_policy(tmp_path_factory.mktemp("losses") / "policy")


def judge(policy: str, name: str = "pqm"):
    """A reward model whose head is not zero, so that its loss has gradients everywhere. Pairs leave its bias alone."""
    model = make_reward_model(policy, "cpu")[0]
    torch.manual_seed(0)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    model.score.bias.requires_grad_(name == "pqm")
    return model


@pytest.mark.parametrize("name", PLAIN)
def test_neither_layout_nor_micro_batches_change_the_gradient(name, policy, tmp_path):
    """It is that of the mean over all groups, in one padded batch."""
    examples, model = grouped(name), judge(policy)
    groups = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    batch = pad_batch([e for own in groups.values() for e in own], 0)
    values = found(name, step_logits(model, batch), batch.targets.float(), list_members(list(groups.values())))
    assert len(values) == len(groups)
    values.mean().backward()
    for n, (layout, tokens, share) in enumerate(
        [("padded", 5000, True), ("padded", 60, True), ("packed", 5000, False), ("packed", 60, False),
         ("packed", 5000, True), ("packed", 60, True)]
    ):  # fmt: skip
        kept = {}
        other = judge(policy)
        for key, weight in other.named_parameters():
            weight.register_post_accumulate_grad_hook(lambda w, key=key, kept=kept: kept.update({key: w.grad.clone()}))
        how = {"layout": layout, "tokens_per_batch": tokens, "share_prefixes": share, "max_grad_norm": 1e9}
        _, done = train(
            tmp_path / str(n), examples, other, make_loss(name, MARGIN), tokens_per_step=5000, pack_tokens=5000, **how
        )
        assert done.figures["steps"] == 1 and done.figures["loss"] == pytest.approx(float(values.mean()), rel=1e-4)
        for key, weight in model.named_parameters():
            torch.testing.assert_close(kept[key], weight.grad, rtol=1e-3, atol=2e-6, msg=key)


STEPS = {"tokens_per_step": 300, "pack_tokens": 150, "tokens_per_batch": 60, "epochs": 1, "learning_rate": 1e-3}


def _as_one(name: str, policy: str, expected: dict[str, torch.Tensor], folder: Path, shard: str) -> None:
    model, _ = train(folder, grouped(name), judge(policy, name), make_loss(name, MARGIN), shard=shard, **STEPS)
    close(weights(model), expected)


@pytest.mark.parametrize("name", PLAIN)
def test_two_processes_train_as_one(name, policy, tmp_path):
    expected = weights(train(tmp_path / "one", grouped(name), judge(policy, name), make_loss(name, MARGIN), **STEPS)[0])
    for shard in ("none", "fsdp2"):
        on_two(_as_one, name, policy, expected, tmp_path / shard, shard)


class Killed(Exception):
    """Stands for a kill that a test in one process survives."""


def test_a_run_that_was_killed_goes_on_bit_for_bit(policy, tmp_path):
    loss, steps = make_loss("pairwise", MARGIN), STEPS | {"epochs": 2}
    whole = weights(train(tmp_path / "whole", grouped("pairwise"), judge(policy), loss, **steps)[0])
    often, calls = CheckpointArgs(every_seconds=None, every_steps=1), itertools.count()

    def killed(model, batch):
        if next(calls) == 12:
            raise Killed
        return loss(model, batch)

    with pytest.raises(Killed):
        train(tmp_path / "cut", grouped("pairwise"), judge(policy), killed, checkpoints=often, **steps)
    assert list((tmp_path / "cut" / "unfinished" / "checkpoints").iterdir())
    again = train(tmp_path / "cut", grouped("pairwise"), judge(policy), loss, checkpoints=often, **steps)[0]
    assert same(weights(again), whole)
