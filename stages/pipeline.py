"""Running a graph of stages: each as an operating-system process of its own, those that are already there skipped,
at most `parallel` at once."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stages.artifacts import open_artifact
from stages.launch import child_environment
from stages.make import look_up, make
from stages.stage import Stage

PENDING = "(made by the pipeline)"  # stands in a config for a parent that an earlier stage will make


@dataclass(frozen=True)
class Node:
    """One stage of a pipeline: `build` makes its arguments from the paths of the nodes named in `after`."""

    name: str
    stage: Stage
    after: tuple[str, ...]
    build: Callable[[dict[str, str]], Any]


class StageFailedError(ValueError):
    """A stage's process ended with an error; the message is its own last words."""


Runner = Callable[[Node, Any], tuple[Path, bool]]


def run_pipeline(
    nodes: list[Node], given: dict[str, str], run: Runner, parallel: int, stop: Callable[[], None] = lambda: None
) -> dict[str, str]:
    """Run every node after those it needs; returns the path of each node's artifact, and those given.

    When a stage fails, those that run beside it are let finish (their artifacts are kept), and nothing new starts.
    When this process is interrupted, `stop` is called to end them.

    Raises:
        StageFailedError: the first failure.
        ValueError: a node needs one that does not exist.
    """
    paths = dict(given)
    waiting = list(nodes)
    unknown = {name for node in nodes for name in node.after} - {node.name for node in nodes} - set(given)
    if unknown:
        raise ValueError(f"stages that nobody makes are needed: {', '.join(sorted(unknown))}")
    running: dict[Future, Node] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        while (waiting and failure is None) or running:
            for node in list(waiting):
                if failure is None and len(running) < parallel and all(name in paths for name in node.after):
                    waiting.remove(node)
                    running[pool.submit(run, node, node.build(paths))] = node
            try:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
            except BaseException:
                stop()
                raise
            for future in done:
                node = running.pop(future)
                if error := future.exception():
                    failure = failure or error
                else:
                    paths[node.name] = str(future.result()[0])
    if failure is not None:
        raise failure
    return paths


def run_here(root: str) -> Runner:
    """Run stages in this process: for tests, where starting twenty processes would take longer than their work."""

    def run(node: Node, args: Any) -> tuple[Path, bool]:
        artifact, reused = make(node.stage, args, root)
        return artifact.path, reused

    return run


class Processes:
    """Runs each stage as `python -m experiments.<stage> --resolved FILE`, and shows what all of them are at."""

    def __init__(
        self, root: str, folder: Path, threads: int | None, settings: dict[str, Any], console: Console
    ) -> None:
        self.root, self.folder, self.threads, self.settings = root, folder, threads, settings
        self.console = console
        self.lock = threading.Lock()
        self.children: set[subprocess.Popen] = set()
        self.progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __call__(self, node: Node, args: Any) -> tuple[Path, bool]:
        """Run one node, unless its artifact is there; returns its path and whether it was."""
        if found := look_up(node.stage, args, self.root):
            self.console.print(f"  {node.name:<16} found  {found.path}", highlight=False)
            return found.path, True
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{node.name}.yaml"
        config = {**dataclasses.asdict(args), **self.settings}
        config["run"] = {"name": node.name, "artifacts": self.root, "threads": self.threads}
        file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
        path = self._spawn(node, file)
        artifact = open_artifact(path, node.stage.name, thorough=False)
        seconds = artifact.manifest["seconds"]
        self.console.print(f"  {node.name:<16} {seconds:5.0f} s  {artifact.path}", highlight=False)
        return artifact.path, False

    def _spawn(self, node: Node, file: Path) -> Path:
        environment = child_environment() | {"STEPWISE_PROGRESS": "lines"}
        command = [sys.executable, "-m", f"experiments.{node.stage.name}", "--resolved", str(file)]
        log = self.folder / f"{node.name}.log"
        with log.open("w", encoding="utf-8") as out:
            # a session of its own: Ctrl-C reaches this process only, which then stops its children in order
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
                errors="replace", start_new_session=True,
            )  # fmt: skip
            with self.lock:
                self.children.add(child)
            last = self._follow(node, child, out)
            code = child.wait()
            with self.lock:
                self.children.discard(child)
        if code != 0:
            raise StageFailedError(f"stage {node.name} ended with code {code}: {last} (all of it: {log})")
        return Path(json.loads(last)["path"])

    def _follow(self, node: Node, child: subprocess.Popen, out) -> str:
        """Read a child's lines until it ends: progress is shown, the rest is kept; returns the last other line."""
        task, last, label = None, "", ""
        for line in child.stdout:
            if line.startswith("@progress "):
                found = json.loads(line[len("@progress ") :])
                if task is None or found["label"] != label:
                    task, label = self._next_task(task, node, found), found["label"]
                self._show(task, found)
                continue
            out.write(line)
            out.flush()
            last = line.strip() or last
        if task is not None:
            self.progress.remove_task(task)
        return last

    def _next_task(self, task: TaskID | None, node: Node, found: dict) -> TaskID:
        if task is not None:
            self.progress.remove_task(task)
        label = found["label"] if found["label"] == node.name else f"{node.name}: {found['label']}"
        return self.progress.add_task(label[:28], total=found["total"], rate="")

    def _show(self, task: TaskID, found: dict) -> None:
        speed = self.progress.tasks[self.progress.task_ids.index(task)].speed
        rate = "" if not speed else f"{speed:.3g} {found['unit']}/s"
        self.progress.update(task, completed=found["done"], total=found["total"], rate=rate)

    def stop(self) -> None:
        """End every child: they leave no artifact, so the next run makes it anew."""
        with self.lock:
            for child in self.children:
                child.terminate()

    def __enter__(self) -> Processes:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
