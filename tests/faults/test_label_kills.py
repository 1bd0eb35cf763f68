"""Labelling that is killed goes on: nothing lost, nothing sampled twice, the same bytes as without a kill.

The long part (`make faults`) kills 50 times, at random moments of all waves, also one of two processes.
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
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.killing import Job, wait_until
from tests.tiny import save_policy

WAIT = 120  # seconds after which a run that should have ended is a failure


@dataclass(frozen=True)
class Work:
    """What is labelled: the artifact of rollouts, the policy that continues them, and its backend."""

    rollouts: str
    policy: str
    backend: str
    tokens: int


def prepare(folder: Path, backend: str, problems: int, samples: int) -> Work:
    """Rollouts of a scripted policy; the labels' continuations are another's where `backend` is not scripted."""
    from rollouts.problems.args import ProblemArgs
    from rollouts.sampling.args import SamplerArgs
    from rollouts.sampling.sample import SAMPLE, SampleArgs
    from stages.make import make

    rng, script = random.Random(0), folder / "scripted"
    script.mkdir()
    steps = ["".join(f"<<{n}+{i}={n + i}>> so {n + i}\n" for i in range(rng.randint(1, 4))) for n in range(61)]
    (script / "script.json").write_text(json.dumps({"*": [f"{text}#### {rng.randrange(12)}" for text in steps]}))
    args = SampleArgs(
        policy=str(script),
        problems=ProblemArgs(limit=problems),
        n=samples,
        sampler=SamplerArgs(backend="scripted"),
    )
    rollouts, _ = make(SAMPLE, args, folder)
    if backend == "scripted":
        return Work(str(rollouts.path), str(script), backend, 100)
    return Work(str(rollouts.path), save_policy(folder / "tiny"), backend, 12)


def label(work: Work, root: Path, rank: int, count: int, port: int, drawn: Callable[[int], None]) -> None:
    """The stage `label_steps` as one process of a launch; what is drawn goes to `drawn-RANK`, and `drawn` is told how
    many there are."""
    from rewards.labels import stepwise
    from rollouts.sampling.args import SamplerArgs
    from rollouts.sampling.protocol import load_sampler
    from stages import processes
    from stages.make import make

    processes._store.cache_clear()
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    logging.basicConfig(filename=root / f"log{rank}", level=logging.INFO, force=True)
    sys.stderr = (root / f"log{rank}").open("a")

    class Counting:
        def __init__(self, *args) -> None:
            self.sampler, self.number = load_sampler(*args), 0
            self.promise = self.sampler.promise

        def sample(self, requests):
            with (root / f"drawn-{rank}").open("a") as record:
                for sample in self.sampler.sample(requests):
                    record.write(f"{sample.request_id}#{sample.index}\n")
                    record.flush()
                    self.number += 1
                    drawn(self.number)
                    yield sample

        def close(self) -> None:
            self.sampler.close()

    stepwise.load_sampler = Counting
    sampler = SamplerArgs(backend=work.backend, max_tokens=work.tokens, device="cpu", batch_size=16)
    args = stepwise.LabelArgs(rollouts=work.rollouts, policy=work.policy, sampler=sampler, continuations=12)
    make(stepwise.LABEL_STEPS, args, root)
    processes.current().leave()


def run(work: Work, root: Path, count: int, drawn: Callable[[int], None], victim: int = 0) -> int:
    """Label in processes of their own, forked, until they end: exit code 0, or that of the `victim` of `drawn`."""
    root.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    started = [
        fork.Process(target=label, args=(work, root, rank, count, port, drawn if rank == victim else never))
        for rank in range(count)
    ]
    for one in started:
        one.start()
    wait_until(lambda: any(one.exitcode for one in started) or all(one.exitcode == 0 for one in started), "a run", WAIT)
    for one in started:  # what a launcher does
        if one.is_alive():
            one.kill()
        one.join(WAIT)
    codes = [one.exitcode for one in started]
    assert set(codes) == {0} or codes[victim] == -signal.SIGKILL, (codes, said(root))
    return codes[victim]


def never(_: int) -> None: ...


@dataclass(frozen=True)
class At:
    """Die when so many samples have been drawn, before the last of them is kept."""

    number: int

    def __call__(self, number: int) -> None:
        if number >= self.number:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class After:
    """Die some time after the first sample of this run has been drawn: in a wave, or between two."""

    seconds: float

    def __call__(self, number: int) -> None:
        if number == 1:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, max(1e-4, self.seconds))


def said(root: Path) -> str:
    return "".join(path.read_text() for path in sorted(root.glob("log*")))


def drawn_twice(root: Path) -> int:
    """How many samples were drawn more than once, over all runs and processes."""
    drawn = Counter(line for path in root.glob("drawn-*") for line in path.read_text().splitlines())
    return sum(number - 1 for number in drawn.values())


def result(root: Path) -> dict[str, object]:
    """What must not depend on kills: the bytes of all rows, and what the manifest says of them."""
    (path,) = root.glob("label_steps/*/manifest.json")
    manifest = json.loads(path.read_text())
    files = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in path.parent.glob("*.parquet")}
    return {"files": files} | {name: manifest[name] for name in ("counts", "tokens", "notes")}


@dataclass(frozen=True)
class Known:
    """An undisturbed run: what came of it, how many samples it drew, and how long it took."""

    work: Work
    result: dict[str, object]
    drawn: int
    seconds: float


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Known]:
    found = {}
    for backend, problems, samples in (("scripted", 30, 8), ("hf", 4, 4)):
        folder = tmp_path_factory.mktemp(backend)
        work = prepare(folder, backend, problems, samples)
        begin = time.monotonic()
        assert run(work, folder / "run", 1, never) == 0
        seconds = time.monotonic() - begin
        drawn = len((folder / "run" / "drawn-0").read_text().splitlines())
        found[backend] = Known(work, result(folder / "run"), drawn, seconds)
        assert drawn == found[backend].result["counts"]["continuations"] and drawn_twice(folder / "run") == 0
        assert found[backend].result["counts"]["waves"] > 3
    return found


def finish(known: Known, root: Path, count: int, kills: int) -> None:
    """Go on to the end, and see that it is as if nothing had happened."""
    assert not list(root.glob("label_steps/*/manifest.json"))
    assert run(known.work, root, count, never) == 0
    assert result(root) == known.result, f"after {kills} kills"
    # what was drawn at the moment of a kill and not kept yet; of two processes the launcher kills the other as well
    assert drawn_twice(root) <= kills * count, f"after {kills} kills"
    assert not list(root.glob("label_steps/.*.unfinished"))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("backend", "share"), [("scripted", 0.05), ("scripted", 0.5), ("scripted", 0.97), ("hf", 0.6)])
def test_killed_in_a_wave_it_goes_on(known, tmp_path, backend, share, count) -> None:
    one = known[backend]
    assert run(one.work, tmp_path / "run", count, At(max(1, round(share * one.drawn / count))), count - 1) != 0
    finish(one, tmp_path / "run", count, 1)


def test_two_processes_label_as_one_does(known, tmp_path) -> None:
    assert run(known["hf"].work, tmp_path / "run", 2, never) == 0
    assert result(tmp_path / "run") == known["hf"].result and drawn_twice(tmp_path / "run") == 0
    shares = [len((tmp_path / "run" / f"drawn-{rank}").read_text().splitlines()) for rank in (0, 1)]
    assert min(shares) > 0.2 * sum(shares) and sum(shares) == known["hf"].drawn


class Command(Job):
    """`python -m experiments.label_steps`."""

    program = "experiments.label_steps"

    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("artifacts/label_steps/.*.unfinished/*/*.jsonl"))


def test_stopped_by_the_user_in_a_wave_it_goes_on(known, tmp_path) -> None:
    work = known["hf"].work
    overrides = [f"rollouts={work.rollouts}", f"policy={work.policy}", f"sampler.max_tokens={work.tokens}"]
    job = Command(tmp_path / "job", [*overrides, "continuations=12", "sampler.batch_size=2", "sampler.device=cpu"])
    process = job.start()
    wait_until(lambda: len(job.journals()) >= 3 or process.poll() is not None, "no third wave comes")
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT) == 130 and "Traceback" not in job.log(), job.log()
    kept = job.kept()
    assert 0 < kept < known["hf"].drawn
    job.run()
    (rows,) = (job.folder / "artifacts").glob("label_steps/*/rows.parquet")
    assert hashlib.sha256(rows.read_bytes()).hexdigest() == known["hf"].result["files"]["rows.parquet"]


@pytest.mark.slow
def test_fifty_kills(known, tmp_path) -> None:
    """At random moments, a third in launches of two processes; half of the runs are killed again when they go on."""
    rng, kills, number, of_two, twice = random.Random(5), 0, 0, 0, 0
    while kills < 50:
        one, count = known["hf" if number % 4 == 3 else "scripted"], 1 + (number % 3 == 2)
        root, own = tmp_path / f"run{number}", 0
        for _ in range(1 + number % 2 * 2):
            how = rng.choice([At(rng.randint(1, one.drawn // count)), After(rng.random() * one.seconds)])
            if list(root.glob("label_steps/*/manifest.json")):
                break
            own += run(one.work, root, count, how, rng.randrange(count)) != 0
        if not list(root.glob("label_steps/*/manifest.json")):
            finish(one, root, count, own)
        assert result(root) == one.result, f"run {number}, after {own} kills"
        kills, of_two, twice, number = kills + own, of_two + own * (count == 2), twice + drawn_twice(root), number + 1
    print(f"{kills} kills in {number} runs, {of_two} of two processes, all the same; {twice} drawn and not yet kept")
