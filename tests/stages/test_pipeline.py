"""A graph of stages as real processes: what is reused, how failures are told, and that a stop leaves nothing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from experiments.commands.config import read_yaml
from stages import child as module
from stages import provenance
from stages.child import JobStopped
from stages.pipeline import Node, NodeResult, StageFailedError, StageRunner, run_pipeline
from stages.stage import Stage, parent
from tests.faults.killing import alive, descendants, wait_until

ROOT = Path(__file__).parents[2]
# a stage's command in little: --resolved FILE --result RESULT
PROGRAM = """
import os, signal, subprocess, sys, time
from pathlib import Path
from experiments.commands.config import read_yaml
from stages.child import end_with_parent
from stages.files import write_json
from stages.make import make
from stages.progress import progress
from tests.stages.test_pipeline import COOK, CookArgs

config = read_yaml(Path(sys.argv[2]))
args = CookArgs(config["food"], config["after"], config["then"])
match args.then:
    case "fail":
        print("\\x1b[2Jnothing is left in the pot\\nerror: the\\x07pot is [/bold] burnt", flush=True)
        sys.exit(2)
    case "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    case "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
        Path(sys.argv[2] + ".pids").write_text(f"{os.getpid()} {other.pid}")
        while True: signal.pause()
    case "wait":
        end_with_parent()
        while not os.path.exists(config["food"]): time.sleep(0.01)
    case "report":
        end_with_parent()
        with progress(4, "eggs", "boiling [/x]") as bar:
            bar.advance(3)
            while not os.path.exists(config["food"]):
                bar.advance(0)
                time.sleep(0.01)
artifact, reused = make(COOK, args, config["run"]["artifacts"])
write_json(sys.argv[4], {"path": str(artifact.path), "reused": reused})
print("@progress {torn\\ngoodbye")
"""


@dataclass
class CookArgs:
    food: str = ""
    after: str | None = parent("cook", default=None)
    then: str = ""


def cook(args: CookArgs, space) -> None:
    (space.folder / "food").write_text(args.food)


COOK = Stage("cook", 1, CookArgs, cook)


def node(name: str, after: str | None = None, **values: str) -> Node:
    build = {"food": name} | values
    return Node(
        name, COOK, (after,) if after else (), lambda paths: CookArgs(**build, after=paths[after] if after else None)
    )


class Kitchen:
    """A runner of `PROGRAM`, and what it writes on its console."""

    def __init__(self, folder: Path, terminal: bool = False) -> None:
        (folder / "cook.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}")
        self.folder, self.screen = folder, io.StringIO()
        console = Console(file=self.screen, force_terminal=terminal, width=200)
        program = [sys.executable, str(folder / "cook.py")]
        self.runner = StageRunner(
            str(folder / "artifacts"),
            folder / "stages",
            lambda stage: program,
            None,
            lambda name: {},
            console,
        )

    def run(self, *nodes: Node, parallel: int = 2) -> dict[str, NodeResult]:
        with self.runner:
            return run_pipeline(list(nodes), {}, self.runner, parallel, self.runner.stop)


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def test_what_was_found_and_what_was_made(kitchen: Kitchen) -> None:
    first = kitchen.run(node("soup"), node("stew", "soup"))
    assert [one.reused for one in first.values()] == [False, False]
    assert (first["stew"].path / "food").read_text() == "stew"
    second = kitchen.run(node("soup"), node("stew", "soup"), node("roast", "stew"))
    assert {name: one.reused for name, one in second.items()} == {"soup": True, "stew": True, "roast": False}
    assert second["stew"].path == first["stew"].path
    assert re.findall(r"(\w+) +(found|\d+ s) ", kitchen.screen.getvalue())[-3:-1] == [
        ("soup", "found"),
        ("stew", "found"),
    ]
    assert (kitchen.folder / "stages" / "stew.log").read_text() == "@progress {torn\ngoodbye\n"


def test_that_another_commit_made_what_is_reused_is_said_once(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen.run(node("soup"), node("stew", "soup"))
    monkeypatch.setattr(provenance, "code", lambda: {"commit": "2" * 40, "dirty": True})
    kitchen.run(node("soup"), node("stew", "soup"))
    text = kitchen.screen.getvalue()
    assert text.count("made by ") == 1 and text.count(f"\n{'':19}this is commit {'2' * 12} with changes\n") == 1


@pytest.mark.parametrize(
    "text", ["an \N{FRIED SHRIMP} 蝦 é", 'a "b" \\ud83d \\n: {#', "\x85\x7f\u2028\t\n\ufeff\x00", "1e3", "null"]
)
def test_every_text_reaches_a_stage_as_it_is(kitchen: Kitchen, text: str) -> None:
    found = kitchen.run(node("soup", food=text))["soup"]
    assert json.loads((found.path / "manifest.json").read_text())["args"]["food"] == text
    config = read_yaml(kitchen.folder / "stages" / "soup.yaml")
    assert config["run"] == {"name": "soup", "artifacts": str(kitchen.folder / "artifacts"), "threads": None}


def test_a_failure_names_stage_log_and_last_words_and_lets_the_others_finish(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, tell = kitchen.folder / "told", kitchen.runner._print

    def print_(*lines: str) -> None:
        tell(*lines)
        told.touch()

    monkeypatch.setattr(kitchen.runner, "_print", print_)
    with pytest.raises(StageFailedError) as raised:
        kitchen.run(
            node("soup", then="fail"),
            node("stew", food=str(told), then="wait"),
            node("roast", "stew"),
            node("pie", "soup"),
        )
    log = kitchen.folder / "stages" / "soup.log"
    assert str(raised.value) == f"stage soup ended with code 2: the\\x07pot is [/bold] burnt (its log: {log})"
    screen = kitchen.screen.getvalue()
    words = "    \\x1b[2Jnothing is left in the pot\n    error: the\\x07pot is [/bold] burnt\n"
    assert f"FAILED with code 2; its log is {log}\n{words}" in screen
    assert "\x1b" not in screen and "\x07" not in screen
    # stew ran beside it; nothing new was started
    assert sorted(path.name for path in (kitchen.folder / "stages").glob("*.yaml")) == ["soup.yaml", "stew.yaml"]
    assert len(list(kitchen.folder.glob("artifacts/cook/*/food"))) == 1


def test_the_log_of_an_attempt_stays_beside_that_of_the_next(kitchen: Kitchen) -> None:
    log = kitchen.folder / "stages" / "soup.log"
    for then in ("fail", "crash", ""):
        with suppress(StageFailedError):
            kitchen.run(node("soup", then=then))
    assert log.read_text() == "@progress {torn\ngoodbye\n"
    assert "burnt" in log.with_suffix(".log.1").read_text() and log.with_suffix(".log.2").read_text() == ""


def test_a_stage_that_is_killed_says_so(kitchen: Kitchen) -> None:
    with pytest.raises(StageFailedError, match="stage soup ended with code 137: it said nothing"):
        kitchen.run(node("soup", then="crash"))


def test_a_terminal_shows_what_every_stage_is_at(tmp_path: Path) -> None:
    kitchen, ready = Kitchen(tmp_path, terminal=True), tmp_path / "ready"
    shown = threading.Event()
    real = kitchen.runner.progress.update

    def update(task, **fields):
        real(task, **fields)
        shown.fields = (kitchen.runner.progress.tasks[0].description, fields["completed"], fields["total"])
        ready.touch()

    kitchen.runner.progress.update = update
    kitchen.run(node("soup", food=str(ready), then="report"))
    assert shown.fields[0] == "soup: boiling [/x]" and shown.fields[1:] in [(3, 4)]
    assert kitchen.runner.progress.tasks == []


def test_a_stage_that_is_starting_when_all_is_stopped_is_ended(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop comes when its process is there, but `Popen` has not returned it."""
    started, stopped = threading.Event(), threading.Event()
    original, pids = subprocess.Popen._execute_child, []

    def execute(self, *args, **options):
        original(self, *args, **options)
        pids.append(self.pid)
        started.set()
        assert stopped.wait(60)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            kitchen.runner(node("soup"), CookArgs("soup", then="stubborn"))
        except JobStopped as error:
            errors.append(error)

    monkeypatch.setattr(module, "GRACE", 0.2)
    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    kitchen.runner.stop()
    stopped.set()
    thread.join(60)
    assert len(errors) == 1 and len(pids) == 1 and not alive(pids[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipeline_that_is_stopped_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    """Its stages do not listen, and have children in sessions of their own."""
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from stages import child\n"
        "from tests.stages.test_pipeline import Kitchen, node\n"
        "child.GRACE = 0.5\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "Kitchen(Path(sys.argv[1])).run(node('soup', then='stubborn'), node('stew', then='stubborn'))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    ) as process:
        files = [tmp_path / "stages" / f"{name}.yaml.pids" for name in ("soup", "stew")]
        wait_until(lambda: all(map(Path.exists, files)) or process.poll() is not None, "the stages do not start", 120)
        everybody = descendants(process.pid)
        process.send_signal(number)
        error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), error
    pids = {int(pid) for file in files for pid in file.read_text().split()}
    assert len(pids) == 4 and pids <= set(everybody)
    assert not any(map(alive, everybody))


def test_a_node_that_needs_what_nobody_makes() -> None:
    with pytest.raises(ValueError, match="stages that nobody makes are needed: soup"):
        run_pipeline([node("stew", "soup")], {}, lambda *_: None, 1)


def test_no_more_run_at_once_than_allowed_and_each_after_what_it_needs(tmp_path: Path) -> None:
    """`a` and `b` meet at a barrier, so they run at once; with `parallel` 2 `c` cannot."""
    barrier, lock, running, most, order = threading.Barrier(2), threading.Lock(), set(), [], []

    def run(one: Node, args: CookArgs) -> NodeResult:
        with lock:
            running.add(one.name)
            most.append(len(running))
            order.append((one.name, args.after))
        if one.name in "ab":
            barrier.wait(60)
        with lock:
            running.discard(one.name)
        return NodeResult(tmp_path / one.name, reused=False)

    run_pipeline([node("d", "c"), node("a"), node("b"), node("c", "a")], {}, run, 2)
    assert max(most) == 2 and {name for name, _ in order[:2]} == {"a", "b"}
    assert order[2:] == [("c", str(tmp_path / "a")), ("d", str(tmp_path / "c"))]
