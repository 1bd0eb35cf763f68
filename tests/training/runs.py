"""What tests of the training loop share: random examples, small runs, a model with dropout, and several ranks."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.processes import current
from stages.workspace import Workspace
from tests.tiny import Log, make_model, tokenizer
from training.args import TrainArgs
from training.examples import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.loop import Trained


def examples_of(count: int, seed: int = 0, longest: int = 20) -> list[Example]:
    """Random ids of which the last part is to be predicted."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        ids = [rng.randrange(2, 100) for _ in range(rng.randint(4, longest))]
        start = rng.randint(1, len(ids) - 1)
        found.append(Example(ids, list(range(start - 1, len(ids) - 1)), ids[start:]))
    return found


def args_of(**changes: Any) -> TrainArgs:
    small = {"device": "cpu", "tokens_per_step": 80, "tokens_per_batch": 80, "learning_rate": 1e-3, "beta2": 0.98}
    return TrainArgs(**(small | {"gradient_checkpointing": False} | changes))


def model_with_dropout(share: float = 0.3, **shape: Any) -> PreTrainedModel:
    """Attention drops weights, so that a run depends on its random numbers."""
    model = make_model(**shape)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = share
    return model


def train(
    folder: Path,
    examples: Sequence[Example],
    model: PreTrainedModel | None = None,
    loss: Callable | None = None,
    log: Log | None = None,
    evaluate: Callable | None = None,
    names: Sequence[str] | None = None,
    **changes: Any,
) -> tuple[PreTrainedModel, Trained]:
    """A run whose unfinished work is below `folder`."""
    from training.completions import completion_loss
    from training.loop import fit

    model = model or make_model()
    work = Workspace(folder, {}, log or Log(), folder / "unfinished", current())
    done = fit(
        model, tokenizer(), examples, loss or completion_loss, args_of(**changes), work, "train", evaluate, names
    )
    return model, done


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether they are equal bit for bit."""
    import torch

    return a.keys() == b.keys() and all(torch.equal(weight, b[name]) for name, weight in a.items())


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], most: float = 1e-5) -> None:
    """Assert that no weight differs by more."""
    for name, weight in a.items():
        assert (gap := float((weight - b[name]).abs().max())) <= most, f"{name}: {gap}"


def on_two(function: Callable, *args: Any) -> None:
    """Call `function` on two processes with gloo; what fails on one of them fails here."""
    from torch.multiprocessing import start_processes

    tokenizer()  # made once, before the fork
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start_processes(_rank, (port, function, args), nprocs=2, start_method="fork")


def _rank(rank: int, port: int, function: Callable, args: tuple) -> None:
    import torch
    from accelerate.state import AcceleratorState

    from stages import processes

    torch.set_num_threads(1)
    # both are copied from the process that forks
    AcceleratorState._reset_state(reset_partial_state=True)
    processes._store.cache_clear()
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    function(*args)
    torch.distributed.destroy_process_group()
