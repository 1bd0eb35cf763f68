"""The loop: micro-batches and processes do not change gradients, a run is a function of its seed, NaN stops it."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState

from tests.tiny import Bar, Log, make_model, tokenizer
from training.batches import Example, pad_batch
from training.loop import (
    TrainArgs,
    TrainingError,
    _step,
    count_steps,
    fit,
    learning_rate_share,
    plan_micro,
    plan_steps,
    step_seed,
)
from training.policy import completion_loss


def examples_of(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        ids = [rng.randrange(2, 100) for _ in range(rng.randint(4, 20))]
        start = rng.randint(1, len(ids) - 1)
        found.append(Example(ids, list(range(start - 1, len(ids) - 1)), ids[start:]))
    return found


def args_of(**changes) -> TrainArgs:
    return TrainArgs(**({"device": "cpu", "tokens_per_step": 80, "tokens_per_batch": 80} | changes))


def train(examples, model=None, loss=completion_loss, log=None, bar=None, evaluate=None, **changes):
    model = model or make_model()
    figures = fit(model, examples, loss, args_of(**changes), 0, log or Log(), bar or Bar(), evaluate)
    return model, figures


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(a, b) -> bool:
    return all(torch.equal(weight, b[name]) for name, weight in a.items())


class Recorder:
    """An optimiser that keeps the gradients of its step."""

    def __init__(self, model) -> None:
        self.model, self.grads = model, None

    def step(self) -> None:
        self.grads = {name: weight.grad.clone() for name, weight in self.model.named_parameters()}

    def zero_grad(self) -> None:
        self.model.zero_grad()


def gradients(model, examples, tokens_per_batch: int) -> tuple[dict[str, torch.Tensor], float]:
    recorder = Recorder(model)
    args = args_of(tokens_per_batch=tokens_per_batch, max_grad_norm=1e9)
    value = _step(model, recorder, Accelerator(cpu=True), examples, completion_loss, args, 0)
    return recorder.grads, value


def test_micro_batches_do_not_change_the_gradient():
    model, examples = make_model(), examples_of(8)
    batch = pad_batch(examples, 0)
    wanted_loss = completion_loss(model, batch) / len(batch.targets)
    wanted_loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    parts = {tokens: len(plan_micro(examples, tokens)) for tokens in (1000, 60, 1)}
    assert parts[1000] == 1 and 2 <= parts[60] <= 6 and parts[1] == 8
    for tokens in parts:
        found, value = gradients(model, examples, tokens)
        assert value == pytest.approx(wanted_loss.item(), rel=1e-5)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_gradient_is_clipped_to_its_norm():
    recorder = Recorder(make_model())
    args = args_of(max_grad_norm=0.01)
    _step(recorder.model, recorder, Accelerator(cpu=True), examples_of(4), completion_loss, args, 0)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in recorder.grads.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_micro_batches_hold_every_example_within_the_limit():
    examples = examples_of(50)
    for tokens in (1, 20, 45, 10_000):
        parts = plan_micro(examples, tokens)
        assert sorted(map(id, itertools.chain(*parts))) == sorted(map(id, examples))
        assert all(max(len(e.ids) for e in part) * len(part) <= tokens or len(part) == 1 for part in parts)


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    examples = examples_of(30)

    def run(seed: int, dropout: float) -> dict[str, torch.Tensor]:
        model = make_model()
        model.config.attention_dropout = dropout
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = dropout
        torch.rand(random.Random().randrange(100))  # what ran before does not matter
        return weights(train(examples, model, seed=seed, epochs=2)[0])

    with_dropout = run(1, 0.5)
    assert same(with_dropout, run(1, 0.5))
    assert not same(with_dropout, run(1, 0.0)) and not same(with_dropout, run(2, 0.5))


def test_seeds_of_steps_are_the_same_everywhere_and_differ():
    assert step_seed(0, 0, 0) == 3051931488724851722
    seeds = [step_seed(*numbers) for numbers in itertools.product(range(3), range(30), range(3))]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_a_nan_stops_the_run_and_names_step_and_examples():
    examples = examples_of(12)
    examples.insert(3, Example([5, 6], [], []))  # without a target: left out, and the others keep their numbers
    poison = examples[7]

    def loss(model, batch):
        hit = len(poison.ids) <= batch.ids.shape[1] and any(
            row[: len(poison.ids)].tolist() == poison.ids for row in batch.ids
        )
        return completion_loss(model, batch) * (math.nan if hit else 1.0)

    plan = plan_steps([len(e.ids) for e in examples if e.positions], args_of(seed=5))
    step = next(number for number, chosen in enumerate(plan) if 6 in chosen)  # 7, less the one left out
    with pytest.raises(TrainingError, match=rf"step {step + 1} of {len(plan)} is nan, on examples .*\b7\b"):
        train(examples, loss=loss, seed=5)


def test_an_infinite_loss_stops_the_run():
    with pytest.raises(TrainingError, match=r"step 1 of 1 is (inf|nan), on examples (0, 1|1, 0)"):
        train(examples_of(2), loss=lambda model, batch: completion_loss(model, batch) * math.inf, seed=1)


def test_nothing_to_train_on_is_said():
    for examples in ([], [Example([1, 2], [], [])]):
        with pytest.raises(TrainingError, match="no example"):
            train(examples)


def test_training_learns_and_says_what_it_did():
    log, bar, examples = Log(), Bar(), examples_of(20)
    evaluated = []

    def evaluate(model) -> dict[str, float]:
        assert not model.training
        evaluated.append(len(log.rows))
        return {"score": float(len(evaluated))}

    model, figures = train(examples, log=log, bar=bar, evaluate=evaluate, epochs=30, learning_rate=3e-3)
    steps = len(plan_steps([len(e.ids) for e in examples], args_of(epochs=30)))
    assert figures["steps"] == steps == bar.done and figures["examples"] == 20
    assert figures["trained_tokens"] == 30 * sum(len(e.ids) for e in examples)
    losses = [row["loss"] for row in log.rows if "loss" in row]
    assert losses[-1] == figures["loss"] < losses[0] / 2
    scores = [row for row in log.rows if "score" in row]
    assert [row["score"] for row in scores] == [1, 2, 3, 4] and scores[-1]["step"] == steps
    assert log.rows[-2]["step"] == steps and log.rows[-2]["tokens"] == figures["trained_tokens"]
    assert not model.training and len(log.rows) < 70


def test_steps_are_planned_by_seed_and_epoch():
    lengths = [4 + i % 9 for i in range(100)]
    one, two = (plan_steps(lengths, args_of(epochs=epochs)) for epochs in (1, 2))
    assert two[: len(one)] == one and len(two) == 2 * len(one) and two[len(one) :] != one
    assert sorted(itertools.chain(*one)) == list(range(100))
    assert len(plan_steps(lengths, args_of(epochs=0.5))) == round(len(one) / 2)
    assert len(plan_steps(lengths, args_of(epochs=1.5))) == len(one) + round(len(one) / 2)
    assert plan_steps(lengths, args_of(epochs=0.001)) == one[:1]
    assert plan_steps(lengths, args_of(epochs=1e9, max_steps=3)) == one[:3]
    assert plan_steps([], args_of()) == []


def test_the_learning_rate_rises_and_falls():
    shares = [learning_rate_share(step, 20, 0.2, 0.1) for step in range(20)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(a > b for a, b in itertools.pairwise(shares[4:])) and 0.1 < shares[-1] < 0.2
    assert learning_rate_share(0, 1, 0.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", math.nan),
        ("learning_rate", -1.0),
        ("learning_rate", 0.0),
        ("epochs", 0.0),
        ("epochs", math.inf),
        ("max_steps", 0),
        ("tokens_per_step", 0),
        ("tokens_per_batch", -3),
        ("warmup", 1.0),
        ("final_share", -0.1),
        ("beta2", math.nan),
        ("weight_decay", -0.5),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.nan),
        ("dtype", "float16"),
    ],
)
def test_settings_out_of_range_are_refused_by_value(name, value):
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        args_of(**{name: value}).validate()
    args_of().validate()


def _train_on_two(expected: dict[str, torch.Tensor], examples: list[Example], steps: dict) -> None:
    """One of two processes; what fails here fails the launcher."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # it is copied from the process that forks
    assert Accelerator(cpu=True).num_processes == 2
    model, _ = train(examples, **steps)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_train_as_one():
    # an odd number of examples a step, of one example too; and more than one micro-batch on some process
    examples, steps = examples_of(10), {"tokens_per_step": 50, "tokens_per_batch": 20, "epochs": 1}
    plan = plan_steps([len(e.ids) for e in examples], args_of(**steps))
    assert {1, 3} <= {len(step) for step in plan}
    assert tokenizer() is not None
    expected = weights(train(examples, **steps)[0])
    debug_launcher(_train_on_two, (expected, examples, steps), num_processes=2)


def test_stopping_midway_is_the_run_cut_off():
    """`stop_after` keeps the learning rates of the whole run."""
    examples, whole_log, cut_log = examples_of(40), Log(), Log()
    _, whole = train(examples, log=whole_log)
    _, cut = train(examples, log=cut_log, stop_after=4)
    assert cut["steps"] == 4 < whole["steps"]
    assert cut_log.rows == [row for row in whole_log.rows if row["step"] <= 4]
    lengths = [len(example.ids) for example in examples]
    assert count_steps(lengths, args_of(stop_after=4)) == 4
    assert count_steps(lengths, args_of(stop_after=999)) == count_steps(lengths, args_of()) == whole["steps"]
