"""The processes behind the grader: payloads, threads, kills, forks, and what may not be imported."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rollouts.grading import prover, symbolic
from rollouts.grading.answers import Grade, grade
from tests.faults import fuzz_grader

ROOT = Path(__file__).resolve().parents[3]


def test_payloads_are_never_right_and_leave_the_prover_alive():
    hanging = {"9^{9^{9^9}}", "(10^{8})!", "\\log(9^{9^{9}})"}  # a second each; the fuzz script takes them all
    quick = [payload for payload in fuzz_grader.PAYLOADS if "!" not in payload and len(payload) > 60]
    for payload in [*hanging, *quick]:
        verdict = grade(f"\\boxed{{{payload}}}", "5")
        assert not verdict.correct
        if payload in hanging:
            assert (verdict.rule, verdict.graded) == ("timeout", False)
    assert grade("\\boxed{x+y}", "y+x").correct


def test_a_new_worker_has_done_the_slow_things_before():
    """Half a second of processor time is less than sympy takes for its first product on a busy machine."""
    pool = prover._new_pool()
    try:
        assert pool.schedule(preloaded).result()
    finally:
        pool.stop()
        pool.join()


def preloaded() -> bool:
    return "rollouts.grading.warmed" in sys.modules


def test_threads_share_the_prover():
    rows = [("x+y", True), ("x+1", False), ("y+x+0", True), ("2(x+y)", False)]
    wrong = []

    def work(start):
        for index in range(6):
            answer, right = rows[(start + index) % 4]
            if grade(f"\\boxed{{{answer}}}", "y+x").correct is not right:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def descendants(pid):
    """All processes below `pid`: their ids and whether each is running."""
    parents, running = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(stat.parent.name)], running[int(stat.parent.name)] = int(fields[1]), fields[0] == "R"
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return {child: running[child] for child in found[1:] if child in running}


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


def prover_pid():
    symbolic.warm_up()
    return symbolic._prover.process.pid


@needs_proc
@pytest.mark.parametrize("whom", ["prover", "everything below it"])
def test_a_killed_prover_is_replaced(whom):
    pid = prover_pid()
    for victim in [pid] if whom == "prover" else descendants(pid):
        os.kill(victim, signal.SIGKILL)
    assert grade("\\boxed{x+y}", "y+x").correct
    assert grade("\\boxed{x+y}", "y+x+1") == Grade(False, "x+y", "boxed:symbolic")


@needs_proc
def test_a_worker_killed_at_work_leaves_its_answer_ungraded():
    pid = prover_pid()
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(grade("\\boxed{9^{9^{9^9}}}", "5")))
    thread.start()
    while thread.is_alive() and not verdicts:
        for worker in [worker for worker, running in descendants(pid).items() if running]:
            with contextlib.suppress(ProcessLookupError):  # it may have ended since it was listed
                os.kill(worker, signal.SIGKILL)
                thread.join()
    assert verdicts[0].rule in ("crash", "timeout")
    assert not verdicts[0].graded
    assert grade("\\boxed{x+y}", "y+x").correct


def _grade_in_child(queue):
    queue.put(grade("\\boxed{x+y}", "y+x").correct)


def test_a_forked_daemonic_child_can_grade():
    symbolic.warm_up()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_grade_in_child, args=(queue,), daemon=True)
    child.start()
    child.join()
    assert queue.get() is True
    assert grade("\\boxed{x+y}", "y+x").correct


def run_script(script):
    return subprocess.run([sys.executable, "-"], input=script, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_script_without_a_guard_can_grade_and_ends_cleanly():
    done = run_script('from rollouts.grading.answers import grade\nprint(grade("\\\\boxed{x+y}", "y+x").correct)')
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_plain_numbers_need_no_heavy_import_and_no_process():
    done = run_script(
        "import sys\nfrom rollouts.grading import answers, symbolic\nassert answers.grade('#### 5', '5').correct\n"
        "print(symbolic._prover, {'sympy', 'math_verify', 'pebble', 'torch'} & set(sys.modules))"
    )
    assert done.stdout == "None set()\n", done.stderr


def test_a_prover_that_cannot_start_is_an_error(monkeypatch):
    symbolic._close()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="cannot start the prover"):
        grade("\\boxed{x+y}", "y+x")
