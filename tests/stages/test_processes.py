"""Processes of a launch that wait for one another, and what they see when one of them is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stages.processes import ProcessError, Processes, current

ROOT = Path(__file__).parents[2]


def launched(program: str, count: int = 2) -> list[subprocess.Popen]:
    """Processes with the environment that a launcher gives them."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    found = []
    for rank in range(count):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        found.append(subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes))
    return found


def test_a_process_alone_waits_for_nobody():
    alone = Processes()
    alone.wait()
    assert alone.broadcast([1]) == [1] and alone.first
    alone.leave()


def test_a_place_in_a_launch_is_read_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert current() == Processes(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert current() == Processes(1, 3) and not current().first
    for rank in ("3", "x", "-1", ""):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(ProcessError, match=f"RANK='{rank}' and WORLD_SIZE='3'"):
            current()


def test_all_get_what_the_first_gave():
    program = (
        "from stages.processes import current\n"
        "me = current()\n"
        "for number in range(20): me.wait()\n"
        "print(me.broadcast({'from': me.rank}), me.broadcast(me.rank + 7))\n"
        "me.leave()\n"
    )
    for process in launched(program):
        out, error = process.communicate(timeout=100)
        assert (process.returncode, out) == (0, "{'from': 0} 7\n"), error


def test_who_waits_notices_that_the_first_has_died():
    """It keeps the count, where no launcher does."""
    program = (
        "import os, signal\n"
        "from stages.processes import ProcessError, current\n"
        "me = current()\n"
        "try:\n"
        "    me.wait()\n"
        "    if me.rank == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    me.wait()\n"
        "except ProcessError as error: print(error)\n"
    )
    first, second = launched(program)
    assert "another of the 2 processes has ended" in second.communicate(timeout=100)[0]
    first.communicate(timeout=100)
    assert first.returncode == -signal.SIGKILL


def test_who_waits_can_be_told_to_end():
    """The wait is Python's, not that of a library that hears no signal."""
    program = (
        "import signal, sys\n"
        "from stages.processes import current\n"
        "me = current()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "me.wait()\n"
        "print('there', flush=True)\n"
        "sys.stdin.read() if me.rank else me.wait()\n"
    )
    first, second = launched(program)
    assert first.stdout.readline() == second.stdout.readline() == "there\n"
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143
    second.kill()
    for process in (first, second):
        process.communicate()
