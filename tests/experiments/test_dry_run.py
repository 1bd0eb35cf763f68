"""What a dry run says of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.commands.config import RunArgs
from experiments.commands.dry_run import _size, pipeline_plan
from experiments.pipelines.glore import GloreArgs, glore_nodes
from experiments.pipelines.students import StudentArgs
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import LOADERS, load_problems
from rollouts.sampling.sample import SampleArgs
from stages import provenance
from stages.make import make
from stages.pipeline import Node
from stages.stage import Stage, parent


@dataclass
class DishArgs:
    food: str | None = parent("dish", default=None)
    eggs: int = 1


def cook(args: DishArgs, work) -> None:
    work.count(eggs=args.eggs)
    (work.folder / "dish").touch()


DISH = Stage("dish", 1, DishArgs, cook)


def plan(nodes: list[Node], given: dict[str, str], root: Path) -> list[str]:
    lines, whole = pipeline_plan(nodes, given, SimpleNamespace(run=RunArgs(artifacts=str(root))))
    assert whole == lines[-1].startswith("dry run: 0 of ")
    return lines


def test_found_stages_are_named_and_the_others_wait_for_them(tmp_path: Path) -> None:
    nodes = [
        Node("egg", DISH, (), lambda paths: DishArgs(eggs=2)),
        Node("cake", DISH, ("egg",), lambda paths: DishArgs(food=paths["egg"])),
        Node("feast", DISH, ("egg", "cake"), lambda paths: DishArgs(food=paths["cake"])),
    ]
    assert [line.split(maxsplit=1)[1] for line in plan(nodes, {}, tmp_path)[:3]] == [
        "would be made",
        "would be made, after egg",
        "would be made, after egg, cake",
    ]
    egg, _ = make(DISH, DishArgs(eggs=2), tmp_path)
    first, second, third, last = plan(nodes, {}, tmp_path)
    assert first.split() == ["egg", "found", str(egg.path)]  # what it counts is for `show`
    assert second.endswith("would be made") and third.endswith("would be made, after cake")
    assert last.startswith("dry run: 2 of 3 stages would be run")
    cake, _ = make(DISH, DishArgs(food=str(egg.path)), tmp_path)
    make(DISH, DishArgs(food=str(cake.path)), tmp_path)
    assert plan(nodes, {}, tmp_path)[3].startswith("dry run: 0 of 3 stages")


def test_that_another_commit_made_what_is_found_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node(name, DISH, (), lambda paths, n=n: DishArgs(eggs=n)) for n, name in enumerate(("egg", "cake"))]
    for commit in ("1" * 40, "2" * 40):
        monkeypatch.setattr(provenance, "code", lambda commit=commit: {"commit": commit, "dirty": True})
        for eggs in range(2):
            make(DISH, DishArgs(eggs=eggs), tmp_path)
        lines = plan(nodes, {}, tmp_path)
    words = [line.split() for line in lines]
    assert [one[0] for one in words] == ["egg", "made", "this", "cake", "dry"]
    assert words[1] == ["made", "by", "commit", "1" * 12, "with", "changes"] and words[2][3] == "2" * 12


def test_glore_says_how_much_it_would_sample(tmp_path: Path) -> None:
    args = GloreArgs(problems=ProblemArgs(), student=StudentArgs(start="shipped"), train_problems=5, test_problems=3)
    args.problems.world.size = 20
    lines = {line.split()[0]: line for line in plan(*glore_nodes(args), tmp_path)}
    assert "would be made (5 problems, 40 samples, at most 20,480 tokens)" in lines["rollouts"]
    assert "(3 problems, 3 samples" in lines["drafts"] and lines["report"].endswith("and others")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollouts.world.generator.load", lambda args: pytest.fail("the world was generated"))
    for limit, offset, count in ((None, 0, 20), (5, 0, 5), (50, 4, 16), (5, 18, 2)):
        problems = ProblemArgs(limit=limit, offset=offset)
        problems.world.size = 20
        assert _size(SampleArgs("p", problems, n=2)).startswith(f" ({count} problems, {2 * count} samples")
        monkeypatch.setitem(LOADERS, "arithmetic", lambda args, _: list(range(args.world.size)))
        assert len(load_problems(problems)) == count
