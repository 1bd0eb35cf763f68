"""Sampling that is killed, and goes on: nothing lost, nothing twice, the same bytes as without a kill.

The long part (`make faults`) kills at random moments, a hundred times and more.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from refine.students.shipped import find_start
from tests.faults.killing import Job, alive, descendants, kill, ranks, wait_until, write_script

SCRIPTED = ["sampler.backend=scripted", "problems.limit=60"]
TWO = "launch.num_processes=2"
SIGTERM_SECONDS = 15  # a preempted job is killed 30 s after it was told to end, by Slurm's default


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_script(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def undisturbed(policy: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that nobody kills."""
    job = Job(tmp_path_factory.mktemp("undisturbed"), [f"policy={policy}", *SCRIPTED, "n=500"])
    job.run()
    return job


def begun(job: Job, *more: str) -> tuple[Job, subprocess.Popen]:
    """The same work in a folder of its own, when its first rows are on disk: more than a few pages of them."""
    folder = job.folder.with_name(f"{job.folder.name}-{len(list(job.folder.parent.iterdir()))}")
    other = Job(folder, [*job.overrides, *more])
    process = other.start()
    wait_until(lambda: other.kept() > 2000 or process.poll() is not None, "no rows come")
    return other, process


@pytest.mark.parametrize("more", [(), (TWO,)], ids=["alone", "one of two"])
def test_killed_midway_it_goes_on(undisturbed: Job, more: tuple[str, ...]) -> None:
    job, process = begun(undisturbed, *more)
    kill(process, ranks(process.pid)[1] if more else process.pid, signal.SIGKILL)
    assert process.returncode == (137 if more else -9) and job.artifact is None
    kept = job.kept()
    assert 0 < kept < 30_000
    job.run()
    assert f"{kept} samples are there from before, {30_000 - kept} to go" in job.log()
    assert job.result() == undisturbed.result() and job.journals() == []


@pytest.mark.parametrize("who", ["the command", "a process of two"])
def test_told_to_end_it_ends_soon_and_goes_on(undisturbed: Job, who: str) -> None:
    job, process = begun(undisturbed, TWO)
    everybody = descendants(process.pid)
    assert len(ranks(process.pid)) == 2 and len(everybody) >= 3
    os.kill(process.pid if who == "the command" else ranks(process.pid)[0], signal.SIGTERM)
    assert process.wait(SIGTERM_SECONDS) == 143
    wait_until(lambda: not any(map(alive, everybody)), "a process of the launch lives on", SIGTERM_SECONDS)
    assert job.kept() > 0 and "Traceback" not in job.log()
    job.run()
    assert job.result() == undisturbed.result()


def test_a_stopped_process_of_a_launch_is_not_left_behind(undisturbed: Job) -> None:
    """It hears of nothing, and is in a session of its own; its launcher would wait for it for half a minute."""
    _, process = begun(undisturbed, TWO)
    everybody = [process.pid, *descendants(process.pid)]
    os.kill(ranks(process.pid)[1], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SIGTERM_SECONDS) == 143
    wait_until(lambda: not any(map(alive, everybody)), "a process of the launch lives on", SIGTERM_SECONDS)


def test_who_waits_for_a_job_that_dies_takes_over(undisturbed: Job) -> None:
    job, maker = begun(undisturbed)
    os.kill(maker.pid, signal.SIGSTOP)  # so that it cannot finish before the other waits for it
    waiter = Job(job.folder, [*job.overrides, "run.name=waiter"]).start()
    wait_until(lambda: "another process is making this artifact" in job.log(), "the second job does not wait")
    assert waiter.poll() is None
    kill(maker, maker.pid, signal.SIGKILL)
    assert waiter.wait(120) == 0, job.log()
    assert "samples are there from before" in job.log() and job.result() == undisturbed.result()


def test_who_waits_for_a_job_that_finishes_uses_its_result(undisturbed: Job) -> None:
    job, maker = begun(undisturbed)
    os.kill(maker.pid, signal.SIGSTOP)
    waiter = Job(job.folder, [*job.overrides, "run.name=waiter"]).start()
    wait_until(lambda: "another process is making this artifact" in job.log(), "the second job does not wait")
    os.kill(maker.pid, signal.SIGCONT)
    assert maker.wait(120) == waiter.wait(120) == 0
    assert job.log().count("(made in ") == job.log().count("(reused)") == 1
    assert job.result() == undisturbed.result()


def mount(folder: Path, size: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk")


@pytest.fixture
def small_disk(tmp_path: Path):
    """Mounts a disk of a given size; once more to change it. It is gone after the test."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def of(size: str, *options: str) -> Path:
        if os.path.ismount(folder):
            how = ",".join(["remount", f"size={size}", *options])
            subprocess.run(["mount", "-o", how, str(folder)], check=True)
        else:
            mount(folder, size)
        return folder

    yield of
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "all_drawn"),
    [("400k", False), ("12400k", True)],
    ids=["while sampling", "while the rows are put together"],
)
def test_a_full_disk_is_named_and_costs_no_row(
    undisturbed: Job, small_disk, tmp_path: Path, size: str, all_drawn: bool
) -> None:
    job = Job(tmp_path / "job", [*undisturbed.overrides, f"run.artifacts={small_disk(size)}"])
    assert job.start().wait(120) == 2
    last = job.log().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'disk'}") and ("disk is full" in last or "No space left" in last), last
    (tmp_path / "job" / "artifacts").symlink_to(tmp_path / "disk")
    kept = job.kept()
    assert kept > 0 and (kept == 30_000) is all_drawn
    small_disk("200m")
    job.run()
    assert f"{kept} samples are there from before" in job.log() and job.result() == undisturbed.result()


def test_a_folder_that_cannot_be_written_is_named(undisturbed: Job, small_disk, tmp_path: Path) -> None:
    small_disk("1m")
    job = Job(tmp_path / "job", [*undisturbed.overrides, f"run.artifacts={small_disk('1m', 'ro')}"])
    assert job.start().wait(60) == 2
    assert job.log().splitlines()[-1].startswith("error: [Errno 30] Read-only file system: ")
    assert str(tmp_path / "disk") in job.log() and "Traceback" not in job.log()


def test_what_is_damaged_in_a_journal_is_named_and_drawn_again(undisturbed: Job) -> None:
    job, process = begun(undisturbed)
    kill(process, process.pid, signal.SIGKILL)
    kept = job.kept()
    (path,) = job.journals()
    # a page in the middle wiped, and the end torn
    data = bytearray(path.read_bytes())
    middle = len(data) // 8192 * 4096
    first = data.count(b"\n", 0, middle) + 1
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data[:-20])
    left = job.kept() - 1  # the wiped lines are one now
    job.run()
    assert kept - 40 < left < kept - 5
    assert re.search(rf"1 kept samples are not used: damaged; the first: \S*0\.jsonl, line {first}$", job.log(), re.M)
    assert f"{left} samples are there from before" in job.log() and job.result() == undisturbed.result()


def killed_often(job: Job, wanted: int, rng: random.Random, seconds: float, two: bool, most_in_a_row: int = 12) -> int:
    """Kill and go on, at moments spread over the time that a run takes; how many kills there were. At last it ends."""
    kills = in_a_row = kept = 0
    while kills < wanted and in_a_row < most_in_a_row:
        process = job.start()
        if two:
            wait_until(lambda p=process: len(ranks(p.pid)) == 2 or p.poll() is not None, "the launch does not begin")
        time.sleep(rng.random() * seconds)
        found = ranks(process.pid) if two else {0: process.pid}
        if process.poll() is None and found:
            kill(process, rng.choice(sorted(found.values())), signal.SIGKILL)
        if process.wait(240) == 0:
            break
        assert process.returncode in (-9, 137), job.log()
        kills, in_a_row = kills + 1, in_a_row + 1
        if job.artifact is None and job.journals():
            assert job.kept() >= kept, "rows that were on disk are gone"
            kept = job.kept()
    job.run()
    return kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("scripted", 60), ("scripted two", 30), ("hf", 20), ("hf two", 10)],
)
def test_killed_at_random_moments_it_goes_on(policy: str, tmp_path: Path, kind: str, wanted: int) -> None:
    """In all 120 kills: of the one process, and of one of two."""
    two = kind.endswith("two")
    if kind.startswith("hf"):
        overrides = [f"policy={find_start('shipped')}", "problems.limit=40", "n=8", "sampler.max_tokens=60"]
    else:
        overrides = [f"policy={policy}", *SCRIPTED, "n=500"]
    base = Job(tmp_path / "base", overrides)
    begin = time.monotonic()
    base.run()
    seconds = time.monotonic() - begin
    wanted_result, rng, kills, number = base.result(), random.Random(f"{kind}/1"), 0, 0
    while kills < wanted:
        job = Job(tmp_path / f"job{number}", [*overrides, TWO] if two else overrides)
        kills += killed_often(job, wanted - kills, rng, seconds, two)
        assert job.result() == wanted_result, f"after {kills} kills"
        number += 1
    print(f"{kind}: {kills} kills in {number} runs, all the same")
