"""The graph of a pipeline's stages: what the pipeline fills into their arguments, and what a user may give instead.

A parent that stands at PENDING and a seed that stands at PIPELINE_SEED are filled in; whatever else a user gives there
is used. What only the pipeline can say, and what has no effect, is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from experiments.commands.unused import changes
from experiments.pipelines.sections import PIPELINE_SEED
from refine.students.shipped import FOLDERS, check_words
from rollouts.problems.args import ProblemArgs
from stages.hub import HubError, pin
from stages.pipeline import PENDING, Node
from stages.stage import Stage


def fill(name: str, args: Any, default: Any, instead: dict[str, str], **values: Any) -> Any:
    """The arguments `args` of the section `name` with these values, which only the pipeline can say.

    `default` are the arguments before the user changed anything; `instead` has, by field, what to set instead.

    Raises:
        ValueError: the user has set one of these fields.
    """
    for field in values:
        for key, value in changes(getattr(args, field), getattr(default, field), f"{name}.{field}"):
            raise ValueError(f"{key}={value!r} cannot be set here: {instead[field]}")
    return replace(args, **values)


def seeded(args: Any, seed: int) -> Any:
    """These arguments with the pipeline's seed wherever the user gave none.

    Greedy samples do not depend on a seed; theirs is 0, so that the artifacts of all seeds are one.
    """
    greedy = hasattr(args, "sampler") and args.sampler.temperature == 0
    if hasattr(args, "train"):
        args = replace(args, train=seeded(args.train, seed))
    if getattr(args, "seed", None) == PIPELINE_SEED:
        args = replace(args, seed=0 if greedy else seed)
    return args


def _replaced(args: Any, name: str, value: Any) -> Any:
    """These arguments with one of their fields changed, named as in `problems.path`."""
    first, _, rest = name.partition(".")
    return replace(args, **{first: _replaced(getattr(args, first), rest, value) if rest else value})


class Graph:
    """The stages of a pipeline as they are added, and the paths that are given from outside.

    `args` are the pipeline's, with `problems`, `seed`, `prompt` and `given`; `default` are those before the user
    changed anything; `instead` is that of `fill`; `find` gives the path of what a user names (`str`: nothing is looked
    for).

    Raises:
        ValueError: what is given comes with the package and is for other problems.
        HubError: the data set of `problems.path` cannot be found. Its commit is fixed here: a branch may move while the
            stages run.
    """

    def __init__(self, args: Any, default: Any, instead: dict[str, str], find: Callable[[str], str]) -> None:
        if args.problems.path is not None and find is not str:
            try:
                path = pin(args.problems.path, "dataset")
            except HubError as error:
                raise HubError(f"problems.path: {error}") from error
            args = replace(args, problems=replace(args.problems, path=path))
        self.args, self.default, self.instead, self.find = args, default, instead, find
        self.nodes: dict[str, Node] = {}
        self.filled: dict[str, str] = {}  # what only the pipeline can say, and what is set instead
        self.links: dict[str, dict[str, str]] = {}  # of each stage: which node's artifact is in which field
        own = {one.name: getattr(args.given, one.name) for one in dataclasses.fields(args.given)}
        for name, path in own.items():
            if path in FOLDERS:
                check_words(f"given.{name}", path, args.problems.source)
        self.given = {name: find(path) for name, path in own.items() if path is not None}

    def problems(self, split: str, offset: int, limit: int | None) -> ProblemArgs:
        """Problems of one split, as every stage loads them."""
        own = {"split": split, "offset": offset, "limit": limit}
        return fill("problems", self.args.problems, ProblemArgs(), self.instead, **own)

    def fill(self, section: str, **values: Any) -> Any:
        """The arguments of a section with the pipeline's seed and prompt and with `values`; but for the seed, a user
        must not have set any of them."""
        args, default = self.args, self.default
        for name in section.split("."):
            args, default = getattr(args, name), getattr(default, name)
        if hasattr(args, "prompt"):
            values["prompt"] = self.args.prompt
        self.filled |= {f"{section}.{name}": self.instead[name] for name in values}
        return seeded(fill(section, args, default, self.instead, **values), self.args.seed)

    def add(self, name: str, stage: Stage, args: Any, **parents: str | list[str]) -> None:
        """Add a stage, unless its artifact is given. `parents` says which stage's artifact fills in which field (dotted
        where it is one of a field's own); of several, a list is filled in."""
        if name in self.given:
            return
        links: dict[str, Any] = {}
        for one, source in parents.items():
            path = attrgetter(one)(args)
            if isinstance(source, list) or path == PENDING:
                links[one] = source
            elif path is not None:  # None: this stage does without
                links[one] = f"{name}.{one}"
                self.given[links[one]] = self.find(path)

        def build(paths: dict[str, str]) -> Any:
            filled = args
            for one, source in links.items():
                value = [paths[name] for name in source] if isinstance(source, list) else paths[source]
                filled = _replaced(filled, one, value)
            return filled

        self.links[name] = links
        after = (name for source in links.values() for name in (source if isinstance(source, list) else [source]))
        self.nodes[name] = Node(name, stage, tuple(dict.fromkeys(after)), build)

    def unless(self, name: str, instead: Callable[[dict[str, str]], str | None], *after: str) -> None:
        """See that a stage is not run where `instead` gives the path that stands in place of its artifact, once those
        of the stages `after` are there too."""
        node = self.nodes[name]
        self.nodes[name] = replace(node, after=tuple(dict.fromkeys((*node.after, *after))), instead=instead)

    def keep(self, wanted: list[str]) -> None:
        """Leave out the stages that none of the wanted ones needs, directly or by others.

        Raises:
            ValueError: an artifact of `given` is needed by none of them, or one that nobody makes is needed.
        """
        needed: set[str] = set()
        while wanted:
            name, *wanted = wanted
            if name not in needed:
                needed.add(name)
                wanted += self.nodes[name].after if name in self.nodes else ()
        for name in sorted(self.given.keys() - needed):
            if getattr(self.args.given, name, None) is not None:
                raise ValueError(f"given.{name}={self.given[name]} has no effect: no stage that is left uses it")
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}
        self.given = {name: path for name, path in self.given.items() if name in needed}
        if missing := sorted(needed - self.nodes.keys() - self.given.keys()):
            raise ValueError(f"no {missing[0]} is given: {self.instead[missing[0]]}")
