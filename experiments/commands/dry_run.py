"""What `dry_run=true` says: what is there already, what would be made, and how large it is. Nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.commands.config import Job
from stages.artifacts import is_artifact, open_artifact
from stages.make import look_up
from stages.parents import parent_fields
from stages.pipeline import Node
from stages.stage import Stage


def stage_plan(stage: Stage, job: Job) -> tuple[list[str], bool]:
    """The lines of one stage, what it reads and makes with the counts of each artifact; and whether its own is there.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    lines = [f"  from {one.name}: {path}{_counts(path)}" for one in parent_fields(job.args) for path in one.paths]
    found = look_up(stage, job.args, job.run.artifacts)
    if found is not None:
        lines.append(f"{stage.name}: found {found.path}{_counts(found.path)}")
    else:
        lines.append(f"{stage.name}: would be made in {job.run.artifacts}/{stage.name}{_size(job.args)}")
    return [*lines, "dry run: nothing was run or written"], found is not None


def pipeline_plan(nodes: list[Node], given: dict[str, str], job: Job) -> tuple[list[str], bool]:
    """A line for each stage, in an order in which they can run; and whether the artifacts of all are there.

    Raises:
        ArtifactError: a parent cannot be used, or an artifact that is there is damaged.
    """
    paths, lines, pending = dict(given), [], 0
    for node in nodes:
        waits = [name for name in node.after if name not in paths]
        # the arguments, also where the stages before it have no folder yet
        args = node.build(paths | {name: f"({name})" for name in waits})
        found = None if waits else look_up(node.stage, args, job.run.artifacts)
        if found is not None:
            paths[node.name] = str(found.path)
            lines.append(f"  {node.name:<16} found  {found.path}{_counts(found.path)}")
        else:
            pending += 1
            after = f", after {', '.join(waits[:4])}{' and others' * (len(waits) > 4)}" if waits else ""
            lines.append(f"  {node.name:<16} would be made{_size(args)}{after}")
    lines.append(f"dry run: {pending} of {len(nodes)} stages would be run; nothing was run or written")
    return lines, not pending


def _counts(path: str | Path) -> str:
    if not is_artifact(path := Path(path)):
        return ""
    manifest = open_artifact(path, thorough=False).manifest
    counts = [f"{name} {value:,}" for name, value in manifest["counts"].items() if isinstance(value, int)]
    if manifest["tokens"]:
        counts.append(f"tokens {manifest['tokens']:,}")
    return f" ({', '.join(counts)})" if counts else ""


def _size(args: Any) -> str:
    """Of how many problems, samples and tokens, where the arguments say so."""
    from rollouts.problems.args import ProblemArgs
    from rollouts.problems.load import load_problems

    sizes = []
    problems = getattr(args, "problems", None)
    if isinstance(problems, ProblemArgs) and "solutions" in getattr(args, "examples", ["solutions"]):
        count = len(load_problems(problems))
        sizes.append(f"{count:,} problems")
        if hasattr(args, "n"):
            samples = count * args.n
            sizes += [f"{samples:,} samples", f"at most {samples * args.sampler.max_tokens:,} tokens"]
    return f" ({', '.join(sizes)})" if sizes else ""
