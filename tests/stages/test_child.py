"""Commands as processes of their own: what comes back from them, and that nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages import child as module
from stages.child import JobFailed, JobStopped, child, run_resolved
from stages.launch import LAUNCHED
from stages.progress import Report
from tests.faults.killing import alive, wait_until

ROOT = Path(__file__).parents[2]
# how a command finds its two files: --resolved FILE --result RESULT
BEGIN = "import json, os, signal, subprocess, sys, time\nRESULT = sys.argv[4]\n"
END = "open(RESULT, 'w').write(json.dumps({'path': 'here'}))\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
FOREVER = "while True: signal.pause()\n"


def script(folder: Path, text: str) -> list[str]:
    (folder / "job.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{BEGIN}{text}")
    return [sys.executable, str(folder / "job.py")]


def test_nothing_that_a_child_prints_is_taken_for_its_result_or_progress(tmp_path):
    """Not a forged report, a torn one, bytes that are no text, a megabyte without an end, or a line at exit."""
    program = script(
        tmp_path,
        "import atexit\n"
        "from stages.progress import progress\n"
        'atexit.register(lambda: print(\'{"path": "elsewhere"}\\ngoodbye\'))\n'
        'print(\'@progress {"label": "forged", "done": 1, "total": 1, "unit": "x"}\')\n'
        "print('@progress {torn', file=sys.stderr)\n"
        "sys.stdout.flush()\n"
        "os.write(1, b'\\xff\\x00\\x1b[2J' + b'a' * 2**20)\n"
        "with progress(3, 'problems', 'sampling') as bar: bar.advance(3)\n"
        f"while not os.path.exists({str(tmp_path / 'seen')!r}): time.sleep(0.01)\n" + END,
    )
    reports: list[Report] = []

    def show(report: Report) -> None:
        reports.append(report)
        (tmp_path / "seen").touch()

    result = run_resolved(program, tmp_path / "config", log=tmp_path / "log", show=show)
    assert result == {"path": "here"} and reports == [Report("sampling", 3, 3, "problems")]
    log = (tmp_path / "log").read_bytes()
    assert b"a" * 2**20 in log and log.endswith(b'{"path": "elsewhere"}\ngoodbye\n')


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("sys.exit(3)", 3, "job.py --resolved .*config: exit code 3$"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "ended by signal 9$"),
        ("print('{}')", 1, "exit code 0, and no result$"),
    ],
)
def test_a_child_that_gives_no_result_failed(tmp_path, text, code, message):
    with pytest.raises(JobFailed, match=message) as raised:
        run_resolved(script(tmp_path, text), tmp_path / "config", log=tmp_path / "log")
    assert raised.value.code == code


def test_a_child_that_does_not_listen_is_killed_with_all_that_it_started(tmp_path, monkeypatch):
    """One of them is stopped, in a session of its own, as a rank of a launch may be: it hears of nothing."""
    monkeypatch.setattr(module, "GRACE", 0.5)
    sleeper = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"
    program = script(
        tmp_path,
        STUBBORN + f"beside, apart = (subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=new)"
        " for new in (False, True))\n"
        "os.kill(apart.pid, signal.SIGSTOP)\n"
        "from stages.progress import progress\n"
        "with progress(None, f'{os.getpid()} {beside.pid} {apart.pid}', 'pids'): pass\n" + FOREVER,
    )
    stop, pids = threading.Event(), []

    def show(report: Report) -> None:
        pids.extend(map(int, report.unit.split()))
        stop.set()

    with pytest.raises(JobStopped):
        run_resolved(program, tmp_path / "config", log=tmp_path / "log", show=show, stop=stop)
    assert len(pids) == 3
    for pid in pids:
        wait_until(lambda pid=pid: not alive(pid), f"{pid} lives on", 60)


def test_what_a_child_left_behind_is_ended_when_it_has_gone(tmp_path):
    """Its launcher was killed, and could not end its ranks."""
    program = script(
        tmp_path,
        "other = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True)\n"
        "print(other.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    with pytest.raises(JobFailed, match="signal 9"):
        run_resolved(program, tmp_path / "config", log=tmp_path / "log")
    other = int((tmp_path / "log").read_text())
    wait_until(lambda: not alive(other), "it lives on", 60)


def test_a_job_that_is_stopped_before_it_begins_is_not_started(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(JobStopped):
        run_resolved(script(tmp_path, END), tmp_path / "config", log=tmp_path / "log", stop=stop)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_child_is_starting_leaves_no_child(monkeypatch, number):
    """It comes when the process is there already, but `Popen` has not returned it."""
    started: list[int] = []
    original = subprocess.Popen._execute_child

    def execute(self, *args, **options):
        original(self, *args, **options)
        started.append(self.pid)
        signal.raise_signal(number)

    def told(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    before = {one: signal.signal(one, told) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(KeyboardInterrupt), child([sys.executable, "-c", "import signal; signal.pause()"]):
            pytest.fail("the block is not entered")
        assert signal.getsignal(number) is told
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert len(started) == 1
    wait_until(lambda: not alive(started[0]), "the child lives on", 60)


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    """The child presses it when it is told to end, and goes on."""
    monkeypatch.setattr(module, "GRACE", 3600.0)
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGINT))\n"
        "print('there', flush=True)\n" + FOREVER
    )
    with (
        pytest.raises(KeyboardInterrupt),
        child([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout.readline() == "there\n"
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_a_child_that_is_left_is_ended_with_its_own_children():
    program = (
        "import subprocess, sys\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)\n"
        "print(other.pid, flush=True)\n"
        "other.wait()\n"
    )
    with (
        pytest.raises(KeyboardInterrupt),
        child([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process,
    ):
        other = int(process.stdout.readline())
        assert alive(other)
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not alive(other), "the child's child lives on", 60)
    process.stdout.close()


def test_what_was_started_ends_when_who_started_it_is_killed():
    """Also with a launcher between the two."""
    last = (
        "import signal\n"
        "from stages.child import end_with_parent\n"
        "end_with_parent()\n"
        "print('there', flush=True)\n"
        "while True: signal.pause()\n"
    )
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {last!r}])"
    first = (
        "import sys\n"
        "from stages.child import child\n"
        f"with child([sys.executable, '-c', {between!r}]) as other: other.wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", first], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    process.kill()
    process.wait()
    # the last of them held this open
    assert process.stdout.read() == ""
    process.stdout.close()


def test_told_to_end_amid_work_that_is_no_python_it_ends():
    """A process that waits for one that has died would not hear of it."""
    program = (
        "import hashlib, stages.child as child\n"
        "child.GRACE = 0.1\n"
        "child.end_with_parent()\n"
        "print('there', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # a quarter of an hour
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), LAUNCHED: "2"}
    handled = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", handled + program], **options) as process:
        assert process.stdout.readline() == "there\n"
        process.terminate()
        assert process.wait(60) == 143
