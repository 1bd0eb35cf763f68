"""`python -m experiments.track PATH …`: shows in W&B what was made before, with tracking or without.

PATH is the folder of an artifact, a folder of artifacts, the run of a stage or of a pipeline, or a folder of runs. What
W&B has already is left out. Without a key the runs are kept offline, for `wandb sync`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.commands.plain_parser import PlainParser, end_with
from experiments.commands.tracked import artifact_run, pipeline_run
from experiments.commands.yaml_files import read_yaml
from stages.artifacts import Artifact, is_artifact, open_artifact
from stages.files import read_json
from stages.mirror import Run
from stages.text import one_line, visible
from stages.tracking import Mode, TrackingArgs

OF_ARTIFACTS = Path("runs/track")  # where the runs of artifacts are kept that no run is known of


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    end_with(run, connected=True)


def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, 1 where W&B failed, or 2 after the user's error, in one line."""
    parser = PlainParser("python -m experiments.track", __doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="an artifact or a run, or a folder of them")
    parser.add_argument("--project", help="W&B's project (WANDB_PROJECT, or stepwise)")
    parser.add_argument("--entity", help="the team or user that the project belongs to (WANDB_ENTITY)")
    parser.add_argument("--group", help="the group of the runs (WANDB_RUN_GROUP, or the name of the run)")
    parser.add_argument(
        "--tag", action="append", default=[], dest="tags", help="a tag; may be given again (WANDB_TAGS)"
    )
    options = vars(parser.parse_args(argv))
    try:
        args = TrackingArgs(mode=Mode.wandb, **{name: options[name] for name in ("project", "entity", "group", "tags")})
        args.validate()
        if os.environ.get("WANDB_MODE") == "disabled":
            raise ValueError("WANDB_MODE=disabled: nothing can be shown in W&B")
        found = [one for path in options["paths"] for one in find_runs(path, args)]
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    code = 0
    for one, made in found:
        what = "there already" if one.finished else "mirrored"
        one.mirror(made)
        if not one.finished:
            what, code = "failed", 1
        print(visible(f"{one.args.group}: {one.args.name} ({what})"))
    return code


def find_runs(path: Path, args: TrackingArgs) -> list[tuple[Run, Artifact]]:
    """The runs of W&B that a path stands for, each with what it has made.

    Raises:
        ValueError: there is nothing to show.
    """
    places = [path] if is_artifact(path) or _is_run(path) else [*sorted(path.glob("*")), *sorted(path.glob("*/*"))]
    found: list[tuple[Run, Artifact]] = []
    for place in places:
        if is_artifact(place):
            found.append(_alone(open_artifact(place, thorough=False), args))
        elif _is_run(place):
            found += _of_run(place, args)
    if not found:
        raise ValueError(f"{path}: neither an artifact nor a finished run, nor a folder of such")
    return found


def _is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() and (folder / "config.yaml").is_file()


def _alone(artifact: Artifact, args: TrackingArgs) -> tuple[Run, Artifact]:
    """An artifact that no run is known of."""
    name = f"{artifact.stage}/{artifact.key}"
    return artifact_run(args.resolved("artifacts", name), OF_ARTIFACTS, artifact), artifact


def _of_run(folder: Path, args: TrackingArgs) -> Iterator[tuple[Run, Artifact]]:
    """The run in a folder, as it would have been mirrored when it was made; a pipeline's stages first."""
    config, result = read_yaml(folder / "config.yaml"), read_json(folder / "result.json")
    own = args.resolved(_name(config, folder), folder.resolve().name)
    if "artifacts" not in result:
        if is_artifact(Path(result.get("path", ""))):
            found = open_artifact(result["path"], thorough=False)
            yield artifact_run(own, folder, found), found
        return
    for name, path in result["artifacts"].items():
        if is_artifact(Path(path)):
            found = open_artifact(path, thorough=False)
            yield artifact_run(own.of_stage(name), folder / "stages", found), found
            if name == "report":
                yield pipeline_run(own, folder, _pipeline(found), config), found


def _name(config: dict[str, Any], folder: Path) -> str:
    run = config.get("run")
    return str(run.get("name") or folder.name) if isinstance(run, dict) else folder.name


def _pipeline(report: Artifact) -> str:
    return "lema" if report.stage == "lema_report" else "glore"


if __name__ == "__main__":
    main()
