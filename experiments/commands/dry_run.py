"""What `dry_run=true` says: what is there already, what would be made, and how large it is. Nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.config import Job
from stages.artifacts import is_artifact, open_artifact
from stages.make import look_up, made_elsewhere
from stages.parents import parent_fields
from stages.pipeline import Node, find_needless
from stages.stage import Stage

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs


def stage_plan(stage: Stage, job: Job) -> tuple[list[str], bool]:
    """The lines of one stage, what it reads and makes with the counts of each artifact; and whether its own is there.

    Raises:
        ArtifactError: a parent cannot be used, or the artifact that is there is damaged.
    """
    lines = [f"  from {one.name}: {path}{_counts(path)}" for one in parent_fields(job.args) for path in one.paths]
    found = look_up(stage, job.args, job.run.artifacts)
    if found is not None:
        lines.append(f"{stage.name}: found {found.path}{_counts(found.path)}")
        lines += [f"  {line}" for line in made_elsewhere(found)]
    else:
        lines.append(f"{stage.name}: would be made in {job.run.artifacts}/{stage.name}{_size(job.args)}")
        lines += [f"  {line}" for line in (job.args.forecast() if hasattr(job.args, "forecast") else ())]
    return [*lines, "dry run: nothing was run or written"], found is not None


def pipeline_plan(nodes: list[Node], given: dict[str, str], job: Job) -> tuple[list[str], bool]:
    """A line for each stage, in an order in which they can run; and whether the artifacts of all are there.

    Raises:
        ArtifactError: a parent cannot be used, or an artifact that is there is damaged.
    """
    paths, lines, pending = dict(given), [], 0
    for node in nodes:
        waits = [name for name in node.after if name not in paths]
        if needless := find_needless([node], paths):
            paths[node.name] = needless[1]
            lines.append(f"  {node.name:<16} is     {needless[1]}")
            continue
        # the arguments, also where the stages before it have no folder yet
        args = node.build(paths | {name: f"({name})" for name in waits})
        found = None if waits else look_up(node.stage, args, job.run.artifacts)
        if found is not None:
            paths[node.name] = str(found.path)
            lines.append(f"  {node.name:<16} found  {found.path}{_counts(found.path, 'rows')}")
            lines += [line for one in made_elsewhere(found) if (line := f"  {'':<16} {one}") not in lines]
        else:
            pending += 1
            after = f", after {', '.join(waits[:4])}{' and others' * (len(waits) > 4)}" if waits else ""
            perhaps = ", unless another stands in its place" if node.instead is not None else ""
            lines.append(f"  {node.name:<16} would be made{_size(args)}{after}{perhaps}")
    lines.append(f"dry run: {pending} of {len(nodes)} stages would be run; nothing was run or written")
    return lines, not pending


def _counts(path: str | Path, *names: str) -> str:
    """What an artifact's manifest counts; with `names`, these counts only, and the tokens."""
    if not is_artifact(path := Path(path)):
        return ""
    manifest = open_artifact(path, thorough=False).manifest
    kept = {name: value for name, value in manifest["counts"].items() if isinstance(value, int)}
    counts = [f"{value:,} {name}" for name, value in kept.items() if not names or name in names]
    if manifest["tokens"]:
        counts.append(f"{manifest['tokens']:,} tokens")
    return f" ({', '.join(counts)})" if counts else ""


def _size(args: Any) -> str:
    """Of how many problems, samples and tokens, where the arguments say so."""
    from rollouts.problems.args import ProblemArgs

    sizes = []
    problems = getattr(args, "problems", None)
    if isinstance(problems, ProblemArgs) and "solutions" in getattr(args, "examples", ["solutions"]):
        count = count_problems(problems)
        if count is None:
            return ""
        sizes.append(f"{count:,} problems")
        if hasattr(args, "n"):
            samples = count * args.n
            sizes += [f"{samples:,} samples", f"at most {samples * args.sampler.max_tokens:,} tokens"]
    return f" ({', '.join(sizes)})" if sizes else ""


def count_problems(problems: ProblemArgs) -> int | None:
    """How many problems these arguments give (those of the embedded world are not made for it); None where an earlier
    stage will make them."""
    from rollouts.problems.args import ARTIFACT
    from rollouts.problems.load import load_problems
    from rollouts.world.args import SOURCE

    if problems.source == ARTIFACT and not is_artifact(Path(problems.path)):
        return None
    if problems.source != SOURCE:
        return len(load_problems(problems))
    # how many are made is what is asked for, and making them takes a while
    size, offset = problems.world.size, problems.offset
    return max(0, min(size if problems.limit is None else offset + problems.limit, size) - offset)
