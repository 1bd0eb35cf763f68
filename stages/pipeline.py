"""Running a graph of stages: each as an operating-system process of its own, those that are already there skipped,
at most `parallel` at once."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from stages.artifacts import open_artifact
from stages.child import JobFailed, run_resolved
from stages.files import next_name
from stages.make import look_up, made_elsewhere
from stages.progress import Bar, open_display
from stages.stage import Stage
from stages.text import visible

PENDING = "(made by the pipeline)"  # stands in a config for a parent that an earlier stage will make


@dataclass(frozen=True)
class Node:
    """One stage of a pipeline: `build` makes its arguments from the paths of the nodes named in `after`.

    Where `instead` gives a path for these paths, the stage is not run: that one stands in place of its artifact.
    """

    name: str
    stage: Stage
    after: tuple[str, ...]
    build: Callable[[dict[str, str]], Any]
    instead: Callable[[dict[str, str]], str | None] | None = None


@dataclass(frozen=True)
class NodeResult:
    """The artifact of a node, and whether it was there already."""

    path: Path
    reused: bool


class StageFailedError(ValueError):
    """A stage's process ended with an error; the message has the last line of its log."""


Runner = Callable[[Node, Any], NodeResult]


def run_pipeline(
    nodes: list[Node], given: dict[str, str], run: Runner, parallel: int, stop: Callable[[], None] = lambda: None
) -> dict[str, NodeResult]:
    """Run every node after those it needs, at most `parallel` at once; returns the result of each.

    `given` are the paths of what no node makes. When a stage fails, those that are running finish (their artifacts are
    kept), and no other starts. When this process is interrupted, `stop` is called to end them.

    Raises:
        StageFailedError: the first failure.
        ValueError: a node needs one that does not exist.
    """
    unknown = {name for node in nodes for name in node.after} - {node.name for node in nodes} - set(given)
    if unknown:
        raise ValueError(f"stages that nobody makes are needed: {', '.join(sorted(unknown))}")
    paths, results, waiting = dict(given), {}, list(nodes)
    running: dict[Future, Node] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        try:
            while (waiting and failure is None) or running:
                while failure is None and (needless := find_needless(waiting, paths)):
                    node, path = needless
                    waiting.remove(node)
                    paths[node.name], results[node.name] = path, NodeResult(Path(path), True)
                ready = [node for node in waiting if failure is None and all(name in paths for name in node.after)]
                for node in ready[: parallel - len(running)]:
                    waiting.remove(node)
                    running[pool.submit(run, node, node.build(paths))] = node
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    node = running.pop(future)
                    if error := future.exception():
                        failure = failure or error
                    else:
                        results[node.name] = future.result()
                        paths[node.name] = str(future.result().path)
        except BaseException:
            stop()  # the pool waits for them
            raise
    if failure is not None:
        raise failure
    return results


def find_needless(nodes: list[Node], paths: dict[str, str]) -> tuple[Node, str] | None:
    """A node that need not be run, and the path that stands in place of its artifact."""
    for node in nodes:
        ready = node.instead is not None and all(name in paths for name in node.after)
        if ready and (path := node.instead(paths)) is not None:
            return node, path
    return None


class StageRunner:
    """Runs each stage as `program(stage) --resolved FILE`, and shows the progress of all of them.

    `folder` gets the arguments NAME.yaml and the log NAME.log of each; NAME.log.1 is that of the first attempt where
    there were several. `settings` are the rest of the config. Where `console` is no terminal, progress is in the logs.
    """

    def __init__(
        self,
        root: str,
        folder: Path,
        program: Callable[[Stage], list[str]],
        threads: int | None,
        settings: Callable[[str], dict[str, Any]],
        console: Console,
    ) -> None:
        self.root, self.folder, self.program = root, folder, program
        self.threads, self.settings, self.console = threads, settings, console
        self.stopped = threading.Event()
        self.said: set[str] = set()  # of artifacts of other programs, each once
        self.progress = open_display(console)

    def __call__(self, node: Node, args: Any) -> NodeResult:
        """Run one node, unless its artifact is there.

        Raises:
            StageFailedError: its process failed.
            JobStopped: `stop` was called.
        """
        if found := look_up(node.stage, args, self.root):
            self._print(f"  {node.name:<16} found  {found.path}")
            if lines := [line for line in made_elsewhere(found) if line not in self.said]:
                self.said.update(lines)
                self._print(*(f"  {'':<16} {line}" for line in lines))
            return NodeResult(found.path, True)
        self.folder.mkdir(parents=True, exist_ok=True)
        file, log = self.folder / f"{node.name}.yaml", self.folder / f"{node.name}.log"
        config = {**dataclasses.asdict(args), **self.settings(node.name)}
        config["run"] = {"name": node.name, "artifacts": self.root, "threads": self.threads}
        # JSON is YAML; all escaped, since a text may hold what no encoding has
        file.write_text(json.dumps(config, indent=1) + "\n")
        if log.exists():  # of an attempt before
            os.replace(log, next_name(self.folder, f"{node.name}.log.{{}}"))
        bar = Bar(self.progress, node.name)
        try:
            result = run_resolved(
                self.program(node.stage), file, log=log, show=bar.show if self.console.is_terminal else None,
                stop=self.stopped,
            )  # fmt: skip
        except JobFailed as error:
            words = _last_words(log)
            self._print(f"  {node.name:<16} FAILED with code {error.code}; its log is {log}", *words)
            last = words[-1].strip().removeprefix("error: ") if words else "it said nothing"
            raise StageFailedError(
                f"stage {node.name} ended with code {error.code}: {last} (its log: {log})"
            ) from error
        finally:
            bar.close()
        artifact = open_artifact(result["path"], node.stage.name, thorough=False)
        self._print(f"  {node.name:<16} {artifact.manifest['seconds']:5.0f} s  {artifact.path}")
        return NodeResult(artifact.path, result["reused"])

    def _print(self, *lines: str) -> None:
        self.console.print(visible("\n".join(lines)), highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """End every child, which then leaves no artifact, and start no other."""
        self.stopped.set()

    def __enter__(self) -> StageRunner:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()


def _last_words(log: Path) -> list[str]:
    """The last lines of a log, fit for a terminal: at most 5, of 1,000 characters."""
    with log.open("rb") as file:
        file.seek(-min(4096, log.stat().st_size), 2)
        lines = file.read().decode(errors="replace").splitlines()
    lines = visible("\n".join(line.rstrip() for line in lines)).split("\n")
    return [f"    {line[:1000]}" for line in lines if line][-5:]
