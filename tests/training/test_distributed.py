"""Two processes train as one does, with replicas and with weights shared out, and go on bit by bit after a kill."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rollouts.sampling.policies import load_policy
from stages.processes import ProcessError, Processes, current
from stages.workspace import Workspace
from tests.tiny import Log, make_model, tokenizer
from tests.training.runs import args_of, close, examples_of, model_with_dropout, on_two, same, train, weights
from training.args import CheckpointArgs
from training.completions import completion_loss
from training.loop import TrainingError, fit
from training.models import save_model

EXAMPLES = examples_of(30)
# an odd number of packs a step, and of examples; more than one micro-batch on some process
STEPS = {"tokens_per_step": 120, "pack_tokens": 40, "tokens_per_batch": 20, "epochs": 1}
SHARDS = ["none", "fsdp2"]


def _as_one(expected: dict[str, torch.Tensor], folder: Path, shard: str, steps: dict) -> None:
    model, done = train(folder, EXAMPLES, shard=shard, **steps)
    close(weights(model), expected)
    assert {type(weight) for weight in model.parameters()} == {torch.nn.Parameter}
    if current().first:  # it saves as any model does
        save_model(model, tokenizer(), folder / "saved")
        assert same(weights(load_policy(str(folder / "saved"), device="cpu")[0]), weights(model))
    assert done.figures["trained_tokens"] == sum(len(example.ids) for example in EXAMPLES)


@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("changes", [{}, {"layout": "padded"}, {"gradient_checkpointing": True}], ids=str)
def test_two_processes_train_as_one(shard, changes, tmp_path):
    steps = STEPS | changes
    expected = weights(train(tmp_path / "one", EXAMPLES, **steps)[0])
    on_two(_as_one, expected, tmp_path / "two", shard, steps)


def _adapted(dtype: str = "float32", **steps) -> dict:
    """A run of a model with an adapter, its dropout left out; the adapter's weights."""
    import torch

    from training.adapters import LoraArgs, add_adapter

    steps["dtype"] = dtype
    model = add_adapter(make_model(layers=2).to(getattr(torch, dtype)), LoraArgs(rank=4), seed=1)
    train(steps.pop("folder"), EXAMPLES, model, **steps)
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def _adapted_as_one(expected: dict[str, torch.Tensor], folder: Path, shard: str) -> None:
    close(_adapted(folder=folder, shard=shard, **STEPS), expected)


@pytest.mark.parametrize("shard", SHARDS)
def test_adapters_train_on_two_processes_as_on_one(shard, tmp_path):
    expected = _adapted(folder=tmp_path / "one", **STEPS)
    assert any(float(weight.abs().max()) > 0 for name, weight in expected.items() if "lora_B" in name)
    on_two(_adapted_as_one, expected, tmp_path / "two", shard)


def _half_as_one(expected: dict[str, torch.Tensor], folder: Path, shard: str) -> None:
    found = _adapted("bfloat16", folder=folder, shard=shard, **STEPS)
    learnt = [name for name in expected if "lora_B" in name]  # they begin at zero
    gap = sum(float((found[name] - expected[name]).square().sum()) for name in learnt)
    assert gap < 0.05**2 * sum(float(expected[name].square().sum()) for name in learnt)


@pytest.mark.parametrize("shard", SHARDS)
def test_adapters_beside_a_base_in_bfloat16_do_too(shard, tmp_path):
    """As far as rounding lets them, of which Adam makes whole steps."""
    on_two(_half_as_one, _adapted("bfloat16", folder=tmp_path / "one", **STEPS), tmp_path / "two", shard)


def test_one_pack_is_shared_by_two_processes(tmp_path):
    """And where a step is a single example, the second process has nothing but takes part."""
    steps = {"tokens_per_step": 18, "tokens_per_batch": 18, "epochs": 1}
    assert any(len(example.ids) > 18 for example in EXAMPLES)
    expected = weights(train(tmp_path / "one", EXAMPLES, **steps)[0])
    for shard in SHARDS:
        on_two(_as_one, expected, tmp_path / shard, shard, steps)


class Killed(Exception):
    """Stands for a kill that a test in one process survives."""


def _killed_and_again(folder: Path, shard: str) -> None:
    often = CheckpointArgs(every_seconds=None, every_steps=2)
    run = {"tokens_per_step": 80, "tokens_per_batch": 40, "shard": shard, "checkpoints": often, "epochs": 2}

    def evaluate(model) -> dict[str, float]:
        with torch.inference_mode():
            logits = model(input_ids=torch.arange(2, 22).reshape(2, 10), use_cache=False).logits
        return {"score": float(logits.float().logsumexp(-1).sum())}

    log = Log()
    whole, done = train(folder / "whole", EXAMPLES, model_with_dropout(), log=log, evaluate=evaluate, **run)
    steps = 0

    def loss(model, batch):
        nonlocal steps
        steps += 1
        if steps == 7:
            raise Killed
        return completion_loss(model, batch)

    with pytest.raises(Killed):
        train(folder / "cut", EXAMPLES, model_with_dropout(), loss=loss, evaluate=evaluate, **run)
    assert (folder / "cut" / "unfinished" / "checkpoints").is_dir()
    again = Log()
    model, redone = train(folder / "cut", EXAMPLES, model_with_dropout(), log=again, evaluate=evaluate, **run)
    assert same(weights(model), weights(whole)) and not same(weights(whole), weights(make_model()))
    assert again.rows == log.rows and redone.evaluation == done.evaluation
    assert redone.figures["trained_tokens"] == done.figures["trained_tokens"]


@pytest.mark.parametrize("shard", SHARDS)
def test_two_processes_go_on_bit_by_bit_with_dropout(shard, tmp_path):
    on_two(_killed_and_again, tmp_path, shard)


def _of_two(folder: Path, shard: str) -> None:
    train(folder, EXAMPLES, shard=shard, checkpoints=CheckpointArgs(every_seconds=None, every_steps=1), **STEPS)


def test_one_process_does_not_go_on_from_two(tmp_path, caplog):
    on_two(_of_two, tmp_path, "none")
    train(tmp_path, EXAMPLES, **STEPS)
    assert "processes is 2, here it is 1" in caplog.text and "starting from the beginning" in caplog.text


def _all_stop(folder: Path, shard: str) -> None:
    def loss(model, batch):
        # on one of the two only
        return completion_loss(model, batch) * (float("nan") if current().rank == 1 else 1.0)

    with pytest.raises(TrainingError, match=r"step 1 of .* is nan, on examples .*not_finite.json"):
        train(folder, EXAMPLES, loss=loss, shard=shard, **STEPS)
    assert (folder / "unfinished" / "not_finite.json").is_file()


@pytest.mark.parametrize("shard", SHARDS)
def test_a_nan_on_one_process_stops_both(shard, tmp_path):
    on_two(_all_stop, tmp_path, shard)


def _early(folder: Path, shard: str) -> None:
    from training.args import EarlyStoppingArgs

    said, seen = iter([0.5, 0.9, 0.6, 0.6, 0.6]), []

    def evaluate(model) -> dict[str, float]:
        seen.append({name: getattr(p, "full_tensor", p.clone)() for name, p in model.named_parameters()})
        # the first process's word counts
        return {"auroc": next(said) if current().rank == 0 else 0.1 * len(seen)}

    stopping = EarlyStoppingArgs("auroc", "max", 2)
    run = {"evaluations": 5, "early_stopping": stopping, "epochs": 2, "shard": shard}
    model, done = train(folder, EXAMPLES, evaluate=evaluate, **run)
    assert len(seen) == 4 and done.evaluation == {"auroc": 0.9}
    assert all(torch.equal(p, seen[1][name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("shard", SHARDS)
def test_two_processes_stop_early_together(shard, tmp_path):
    on_two(_early, tmp_path, shard)


def test_processes_that_would_train_apart_are_an_error(tmp_path):
    """An FSDP config on a CPU once started two trainings into one folder, without a word."""
    work = Workspace(tmp_path, {}, Log(), processes=Processes(1, 2))
    with pytest.raises(ProcessError, match="process 1 of 2 finds itself process 0 of 1 in accelerate"):
        fit(make_model(), tokenizer(), EXAMPLES, completion_loss, args_of(), work)


def test_shards_follow_the_config_of_accelerate(monkeypatch):
    from training.distributed import wants_shards

    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert [wants_shards(shard) for shard in ("auto", "none", "fsdp2")] == [False, False, True]
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert [wants_shards(shard) for shard in ("auto", "none", "fsdp2")] == [True, False, True]
    assert os.environ["ACCELERATE_USE_FSDP"]
