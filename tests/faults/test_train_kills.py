"""Training that is killed, in a checkpoint and elsewhere, goes on by itself and ends with the same bits, with dropout.

The long part (`make faults`) kills 50 times, and more than half of them inside a save.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.faults.killing import Job, alive, descendants, ranks, wait_until
from tests.tiny import tokenizer

RUN_SECONDS = 120  # after which a run that should have ended is a failure
END_SECONDS = 15  # in which the others of a launch end when one of them has died
STEPS = 12
MEASURED = ("time", "tokens_per_second", "memory_gib")  # in metrics.jsonl, of the machine and not of the run


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy with dropout, so that a run depends on its random numbers."""
    from tests.tiny import make_model
    from training.models import save_model

    model, folder = make_model(), tmp_path_factory.mktemp("policy")
    model.config.attention_dropout = 0.3
    save_model(model, tokenizer(), folder)
    return str(folder)


def train(policy: str, root: Path, count: int) -> None:
    """The stage `train_policy`, with a checkpoint every second step."""
    from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
    from rollouts.problems.args import ProblemArgs
    from stages.make import make
    from stages.tracking import Tracker
    from training.args import CheckpointArgs, TrainArgs

    keep = CheckpointArgs(every_seconds=None, every_steps=2)
    how = TrainArgs(
        device="cpu", tokens_per_step=500, tokens_per_batch=250, epochs=9, max_steps=STEPS, checkpoints=keep,
        learning_rate=1e-3, gradient_checkpointing=False,
    )  # fmt: skip
    args = TrainPolicyArgs(policy=policy, problems=ProblemArgs(limit=30), train=how)
    make(TRAIN_POLICY, args, root, lambda folder, key: Tracker(folder))


def process(rank: int, count: int, port: int, policy: str, root: Path, prepare: Callable[[], None] | None) -> None:
    """One process of a run: `prepare` sees to its end."""
    import torch
    from accelerate.state import AcceleratorState

    from stages import processes

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    processes._store.cache_clear()
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    logging.basicConfig(filename=root / f"log{rank}", level=logging.INFO, force=True)
    if prepare is not None:
        prepare()
    train(policy, root, count)
    processes.current().leave()


def run(policy: str, root: Path, count: int, prepare: Callable[[], None] | None = None, victim: int = 0) -> bool:
    """Train in processes of its own until they end; whether they came to the end. `victim` is to be killed.

    They are forked, since what takes long is to load the libraries.
    """
    root.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    started = [
        fork.Process(target=process, args=(rank, count, port, policy, root, prepare if rank == victim else None))
        for rank in range(count)
    ]
    for one in started:
        one.start()
    wait_until(lambda: any(one.exitcode not in (None, 0) for one in started) or not any(map(_lives, started)), "a run")
    for one in started:  # what a launcher does
        if one.is_alive():
            one.kill()
        one.join(RUN_SECONDS)
    codes = [one.exitcode for one in started]
    assert set(codes) == {0} or codes[victim] == -signal.SIGKILL, (codes, said(root))
    return set(codes) == {0}


def _lives(process: multiprocessing.Process) -> bool:
    return process.is_alive()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class AtLine:
    """Die before the line of the save that is run as the `number`th of all."""

    number: int
    record: Path | None = None

    def __call__(self) -> None:
        from stages import files as store
        from training import checkpoints

        lines, names = 0, {(checkpoints.__file__, name) for name in ("save", "_write", "_remove")}
        names.add((store.__file__, "sync"))

        def line(frame: FrameType, event: str, _arg):
            nonlocal lines
            if event == "line":
                lines += 1
                if self.record is not None:
                    self.record.write_text(str(lines))
                if lines == self.number:
                    die()
            return line

        def call(frame: FrameType, _event: str, _arg):
            ours = (frame.f_code.co_filename, frame.f_code.co_name) in names
            return line if ours else None

        sys.settrace(call)


@dataclass(frozen=True)
class MidFile:
    """Die when the `number`th file of tensors has been written in part."""

    number: int
    share: float

    def __call__(self) -> None:
        import safetensors.torch

        whole, files = safetensors.torch.save_file, 0

        def save_file(tensors, path, *rest) -> None:
            nonlocal files
            files += 1
            whole(tensors, path, *rest)
            if files == self.number:
                data = Path(path).read_bytes()
                Path(path).write_bytes(data[: int(self.share * len(data))])
                die()

        safetensors.torch.save_file = save_file


@dataclass(frozen=True)
class After:
    """Die some time after the start."""

    seconds: float

    def __call__(self) -> None:
        timer = threading.Timer(self.seconds, die)
        timer.daemon = True
        timer.start()


def result(root: Path) -> dict[str, object]:
    """What must not depend on kills: the bytes of the model, and what was logged and counted but for the time."""
    (artifact,) = root.glob("train_policy/*/manifest.json")
    manifest = json.loads(artifact.read_text())
    rows = [json.loads(line) for line in (artifact.parent / "metrics.jsonl").read_text().splitlines()]
    counts = {name: value for name, value in manifest["counts"].items() if name != "train_seconds"}
    files = {
        name: hashlib.sha256((artifact.parent / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    }
    rows = [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]
    return {"files": files, "counts": counts, "rows": rows, "tokens": manifest["tokens"]}


def said(root: Path) -> str:
    return "".join(path.read_text() for path in sorted(root.glob("log*")))


@pytest.fixture(scope="module")
def undisturbed(policy: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """What runs of one and of two processes give that nobody kills, and how many lines their saves take."""
    found = {}
    for count in (1, 2):
        root = tmp_path_factory.mktemp(f"undisturbed{count}")
        begin = time.monotonic()
        assert run(policy, root, count)
        seconds = time.monotonic() - begin
        assert run(policy, root.with_name(f"{root.name}-traced"), count, AtLine(-1, root / "lines"))
        found[count] = {"result": result(root), "seconds": seconds, "lines": int((root / "lines").read_text())}
        assert found[count]["lines"] > 100 and len(found[count]["result"]["rows"]) == STEPS
    return found


def killed(policy: str, root: Path, count: int, how: Callable[[], None], victim: int = 0) -> bool:
    """Kill a run; whether it was still under way. What it leaves are whole checkpoints or none."""
    if run(policy, root, count, how, victim):
        return False
    assert not list(root.glob("train_policy/*/manifest.json"))
    return True


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.55, 0.95])
def test_killed_inside_a_save_it_goes_on(policy, undisturbed, tmp_path, count, share) -> None:
    """The last of these are in the rename, and in the removal of an old checkpoint."""
    known = undisturbed[count]
    assert killed(policy, tmp_path / "run", count, AtLine(round(share * known["lines"])))
    assert run(policy, tmp_path / "run", count)
    assert result(tmp_path / "run") == known["result"] and "refused" not in said(tmp_path / "run")
    assert ("going on after step" in said(tmp_path / "run")) == (share > 0.2)


def test_killed_while_a_file_is_written_it_goes_on(policy, undisturbed, tmp_path) -> None:
    assert killed(policy, tmp_path / "run", 1, MidFile(5, 0.5))
    assert killed(policy, tmp_path / "run", 1, MidFile(4, 0.1))
    assert run(policy, tmp_path / "run", 1)
    assert result(tmp_path / "run") == undisturbed[1]["result"] and "refused" not in said(tmp_path / "run")
    assert said(tmp_path / "run").count("going on after step") == 2


class Command(Job):
    """`python -m experiments.train_policy`, of two processes."""

    program = "experiments.train_policy"

    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("artifacts/train_policy/.*.unfinished/checkpoints/step-*"))


def test_one_of_two_that_dies_ends_the_other_and_the_command_goes_on(policy, tmp_path) -> None:
    overrides = [f"policy={policy}", "launch.num_processes=2", "problems.limit=30", "train.tokens_per_step=500"]
    overrides += ["train.tokens_per_batch=250", "train.checkpoints.every_steps=5", "train.epochs=20"]
    job = Command(tmp_path / "job", overrides)
    command = job.start()
    wait_until(lambda: len(job.checkpoints()) >= 2 or command.poll() is not None, "no checkpoints come")
    everybody = [command.pid, *descendants(command.pid)]
    # while both are in the middle of it
    os.kill(ranks(command.pid)[1], signal.SIGKILL)
    begin = time.monotonic()
    assert command.wait(END_SECONDS) != 0
    wait_until(lambda: not any(map(alive, everybody)), "a process lives on", END_SECONDS - (time.monotonic() - begin))
    assert job.checkpoints() and "Traceback" not in job.log(), job.log()
    job.run()
    assert "going on after step" in job.log() and "refused" not in job.log()


@pytest.mark.slow
def test_fifty_kills(policy, undisturbed, tmp_path) -> None:
    """At least 20 of them inside a save, the others at random moments; a third of the runs have two processes, and half
    are killed again when they go on."""
    rng = random.Random(4)
    kills = inside = of_two = number = 0
    while kills < 50 or inside < 20:
        count, root = 1 + (number % 3 == 2), tmp_path / f"run{number}"
        known = undisturbed[count]
        for _ in range(1 + number % 2):
            kind = rng.choice(["line", "file", "time", "time"])
            victim = rng.randrange(count) if kind == "time" else 0
            how = {
                "line": AtLine(rng.randint(1, known["lines"])),
                "file": MidFile(rng.randint(1, STEPS), rng.random()),
                "time": After(rng.random() * known["seconds"]),
            }[kind]
            if killed(policy, root, count, how, victim):
                kills, inside, of_two = kills + 1, inside + (kind != "time"), of_two + (count == 2)
        if not list(root.glob("train_policy/*/manifest.json")):
            assert run(policy, root, count)
        assert result(root) == known["result"], f"run {number}, after {kills} kills"
        assert "refused" not in said(root)
        number += 1
    print(f"{kills} kills in {number} runs, {inside} inside a save, {of_two} of two processes, all bit-identical")
