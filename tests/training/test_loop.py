"""The loop: layouts and micro-batches do not change a run, a run is a function of its seed, NaN stops it."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import pytest
import torch

from tests.tiny import Log, make_model, tokenizer
from tests.training.runs import args_of, close, examples_of, model_with_dropout, same, train, weights
from training.args import CheckpointArgs, EarlyStoppingArgs
from training.completions import completion_loss
from training.examples import Example, pad_batch
from training.loop import TrainingError
from training.plan import plan_steps


@pytest.fixture
def gradients():
    """The gradients of every step that is taken meanwhile: one dictionary a step, by the weight's place."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    steps = []

    def keep(optimizer, *_):
        steps.append({p: p.grad.clone() for group in optimizer.param_groups for p in group["params"]})

    hook = register_optimizer_step_pre_hook(keep)
    yield steps
    hook.remove()


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("tokens", [1000, 60, 1])
def test_neither_layout_nor_micro_batches_change_the_gradient(layout, tokens, tmp_path, gradients):
    """1 x 8 is 2 x 4 is 8 x 1: the plain gradient of the mean over all targets."""
    model, examples = make_model(), examples_of(8)
    batch = pad_batch(examples, 0)
    (completion_loss(model, batch) / len(batch.targets)).backward()
    shape = {"layout": layout, "tokens_per_step": 1000, "pack_tokens": 1000, "tokens_per_batch": tokens}
    trained, _ = train(tmp_path, examples, max_grad_norm=1e9, **shape)
    (found,) = gradients
    for (name, plain), weight in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(found[weight], plain.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_gradient_is_clipped_to_its_norm(tmp_path, gradients):
    train(tmp_path, examples_of(12), max_grad_norm=0.01)
    norms = [math.sqrt(sum(float(g.square().sum()) for g in step.values())) for step in gradients]
    assert len(norms) > 1 and norms == pytest.approx([0.01] * len(norms), rel=1e-3)


def test_whole_runs_agree_over_layouts_and_micro_batches(tmp_path):
    examples, plain = examples_of(40), {"tokens_per_step": 200, "pack_tokens": 100, "epochs": 2}
    wanted = weights(train(tmp_path / "a", examples, tokens_per_batch=200, **plain)[0])
    others = [
        {"tokens_per_batch": 100},
        {"tokens_per_batch": 30},
        {"tokens_per_batch": 100, "layout": "padded"},
        {"tokens_per_batch": 200, "gradient_checkpointing": True},
    ]
    for number, changes in enumerate(others):
        model, _ = train(tmp_path / str(number), examples, **plain, **changes)
        close(weights(model), wanted)
        assert not model.training and not model.is_gradient_checkpointing


def test_packs_leave_next_to_nothing_to_padding(tmp_path):
    useful = {
        layout: train(tmp_path / layout, examples_of(200), layout=layout, max_steps=20)[1].figures["useful_tokens"]
        for layout in ("packed", "padded")
    }
    assert useful["packed"] > 0.99 > useful["padded"] > 0.5


def test_in_bfloat16_the_weights_stay_float32(tmp_path):
    examples = examples_of(40)
    wanted = weights(train(tmp_path / "a", examples)[0])
    found = weights(train(tmp_path / "b", examples, dtype="bfloat16")[0])
    assert {weight.dtype for weight in found.values()} == {torch.float32} and not same(found, wanted)
    close(found, wanted, 2e-2)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path):
    examples = examples_of(30)

    def run(seed: int, dropout: float) -> dict[str, torch.Tensor]:
        torch.rand(random.Random().randrange(100))  # what ran before does not matter
        return weights(train(tmp_path, examples, model_with_dropout(dropout), seed=seed, epochs=2)[0])

    with_dropout = run(1, 0.5)
    assert same(with_dropout, run(1, 0.5))
    assert not same(with_dropout, run(1, 0.0)) and not same(with_dropout, run(2, 0.5))


def poisoned(poison: Example):
    """A loss that is not a number where this example is."""
    text = " ".join(map(str, poison.ids))

    def loss(model, batch):
        hit = any(text in " ".join(map(str, row)) for row in batch.ids.tolist())
        return completion_loss(model, batch) * (math.nan if hit else 1.0)

    return loss


def test_a_nan_stops_the_run_and_saves_the_examples_of_its_step(tmp_path):
    examples = examples_of(12)
    examples.insert(3, Example([5, 6], [], []))  # without a target: left out, and the others keep their numbers
    lengths = [len(e.ids) for e in examples if e.positions]
    plan = [[i for pack in step for i in pack] for step in plan_steps(lengths, args_of(seed=5))]
    step = next(number for number, chosen in enumerate(plan) if 6 in chosen)  # 7, less the one left out
    names = [f"problem{i}" for i in range(13)]
    with pytest.raises(TrainingError, match=rf"step {step + 1} of {len(plan)} is nan, on examples .*\b7 \(problem7\)"):
        train(tmp_path, examples, loss=poisoned(examples[7]), names=names, seed=5)
    saved = json.loads((tmp_path / "unfinished" / "not_finite.json").read_text())
    assert saved["step"] == step + 1 and saved["value"] == "nan"
    assert {row["example"] for row in saved["examples"]} == {i + (i >= 3) for i in plan[step]}
    (row,) = [row for row in saved["examples"] if row["example"] == 7]
    assert (row["name"], row["ids"]) == ("problem7", examples[7].ids)
    assert row["text"] == tokenizer().decode(examples[7].ids)


def test_an_infinite_loss_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"step 1 of 1 is (inf|nan), on examples (0, 1|1, 0); they are in"):
        train(tmp_path, examples_of(2), loss=lambda model, batch: completion_loss(model, batch) * math.inf, seed=1)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    """Though the loss is: the square root of zero."""

    def loss(model, batch):
        return completion_loss(model, batch) + model.model.norm.weight.sub(1).square().sum().sqrt()

    with pytest.raises(TrainingError, match="step 1 of 2 is nan"):
        train(tmp_path, examples_of(12), loss=loss)


def test_a_metric_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="auroc of the evaluation after step 2 of 2 is nan"):
        train(tmp_path, examples_of(12), evaluate=lambda model: {"loss": 1.0, "auroc": math.nan}, evaluations=1)


def test_nothing_to_train_on_is_said(tmp_path):
    for examples in ([], [Example([1, 2], [], [])]):
        with pytest.raises(TrainingError, match="no example"):
            train(tmp_path, examples)


def test_training_learns_and_says_what_it_did(tmp_path):
    log, examples = Log(), examples_of(20)
    evaluated = []

    def evaluate(model) -> dict[str, float]:
        assert not model.training
        evaluated.append(len(log.rows))
        return {"score": float(len(evaluated))}

    model, done = train(tmp_path, examples, log=log, evaluate=evaluate, epochs=30, learning_rate=3e-3)
    steps = len(plan_steps([len(e.ids) for e in examples], args_of(epochs=30)))
    assert done.figures["steps"] == steps and done.figures["examples"] == 20
    assert done.figures["trained_tokens"] == 30 * sum(len(e.ids) for e in examples)
    losses = [row["loss"] for row in log.rows if "loss" in row]
    assert losses[-1] == done.figures["loss"] < losses[0] / 2
    scores = [row for row in log.rows if "score" in row]
    assert [row["score"] for row in scores] == [1, 2, 3, 4] and scores[-1]["step"] == steps
    assert log.rows[-2]["step"] == steps and log.rows[-2]["tokens"] == done.figures["trained_tokens"]
    assert not model.training and len(log.rows) < 70 and done.evaluation == {"score": 4.0}


def scores(*values: float):
    """An evaluation that says these things one after the other, and keeps the weights that it saw."""
    rest, seen = iter(values), []

    def evaluate(model) -> dict[str, float]:
        seen.append(weights(model))
        return {"auroc": next(rest), "other": 0.0}

    return evaluate, seen


@pytest.mark.parametrize(
    ("mode", "values", "stops", "best"),
    [("max", (0.5, 0.7, 0.6, 0.7, 0.9), 4, 1), ("min", (0.5, 0.4, 0.3, 0.4, 0.2), 5, 4)],
)
def test_stopping_early_keeps_the_best_weights(mode, values, stops, best, tmp_path):
    evaluate, seen = scores(*values)
    stopping = EarlyStoppingArgs("auroc", mode, 2)
    model, done = train(tmp_path, examples_of(50), evaluate=evaluate, epochs=2, evaluations=5, early_stopping=stopping)
    assert len(seen) == stops and same(weights(model), seen[best])
    assert done.evaluation["auroc"] == values[best] and done.figures["best_step"] <= done.figures["steps"]
    assert same(weights(model), seen[-1]) == (best == stops - 1)


def test_a_metric_to_stop_by_must_be_there(tmp_path):
    stopping = EarlyStoppingArgs("auroc")
    with pytest.raises(TrainingError, match=r"early_stopping\.metric=auroc is none of other"):
        train(tmp_path, examples_of(9), evaluate=lambda model: {"other": 1.0}, early_stopping=stopping)
    with pytest.raises(TrainingError, match=r"early_stopping\.metric=auroc, but nothing is held out"):
        train(tmp_path, examples_of(9), early_stopping=stopping)


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
        ("layout", "flat"),
        ("shard", "zero3"),
        ("pack_tokens", 0),
        ("evaluations", 0),
        ("early_stopping", EarlyStoppingArgs("auroc", "up")),
        ("early_stopping", EarlyStoppingArgs("auroc", "max", 0)),
        ("checkpoints", CheckpointArgs(every_seconds=0.0)),
        ("checkpoints", CheckpointArgs(every_seconds=math.nan)),
        ("checkpoints", CheckpointArgs(every_steps=0)),
        ("checkpoints", CheckpointArgs(keep=0)),
    ],
)
def test_settings_out_of_range_are_refused_by_value(name, value):
    shown = value if not dataclasses.is_dataclass(value) else "(up|0|nan)"
    with pytest.raises(ValueError, match=rf"{name}.*{shown}"):
        args_of(**{name: value}).validate()
    args_of().validate()


def test_stopping_midway_is_the_run_cut_off(tmp_path):
    """`stop_after` keeps the learning rates of the whole run."""
    examples, whole_log, cut_log = examples_of(40), Log(), Log()
    whole = train(tmp_path, examples, log=whole_log)[1].figures
    cut = train(tmp_path, examples, log=cut_log, stop_after=4)[1].figures
    assert cut["steps"] == 4 < whole["steps"]
    assert cut_log.rows == [row for row in whole_log.rows if row["step"] <= 4]
    beyond = train(tmp_path, examples, stop_after=999)[1].figures
    assert beyond["steps"] == whole["steps"]
