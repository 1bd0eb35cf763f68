"""A command of a stage or a pipeline: arguments by Hydra or from a file, one run, its result.

Left out: how arguments are checked and folders named (`experiments/commands/config.py`), and what the stage does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.commands.config import ConfigError, Job, build_job, claim_folder, read_yaml, register_schema
from stages.artifacts import Artifact
from stages.child import JobFailed, end_with_parent, run_resolved
from stages.files import write_json
from stages.launch import must_launch
from stages.make import make
from stages.processes import current
from stages.stage import Stage
from stages.tracking import Tracker


def stage_command(
    stage: Stage, config_name: str | None = None, show: Callable[[Artifact], None] | None = None
) -> Callable[[], None]:
    """The command of one stage: finds or makes its artifact, of which `show` prints more than the path. See
    `command`."""

    def work(job: Job) -> dict[str, Any]:
        tracking = dataclasses.replace(
            job.tracking, group=job.tracking.group or job.run.name, name=job.tracking.name or stage.name
        )

        def track(folder: Path) -> Tracker:
            return Tracker(tracking, folder, config=job.config, mirror_folder=job.folder)

        artifact, reused = make(stage, job.args, job.run.artifacts, track)
        if show is not None and current().first:
            show(artifact)
        known = {name: artifact.manifest[name] for name in ("stage", "key", "seconds", "tokens")}
        return known | {"path": str(artifact.path), "reused": reused}

    return command(stage.name, stage.args, work, config_name)


def command(
    name: str,
    args: type,
    work: Callable[[Job], dict[str, Any]],
    config_name: str | None = None,
    relaunch: bool = True,
) -> Callable[[], None]:
    """What `python -m experiments.<name>` runs: `work` with arguments of class `args`.

    Hydra composes them from `conf/<config_name>.yaml` and the command line; `--resolved FILE.yaml` takes them from a
    file as they stand. The run's folder gets `config.yaml` and `result.json`, what `work` returns. With --resolved
    that folder is the file's, nothing is written there, and the result is the last line of stdout, as JSON; with
    `--result FILE.json` behind it, it is written to that file, which is how one command runs another.

    With `launch.num_processes` over 1 the work is done by that many processes under `accelerate launch`, unless
    `relaunch` is false: then `work` itself sees to it.

    Exit codes: 0; 2 for the user's errors, in one line on stderr (STEPWISE_TRACEBACK=1: with the trace); 130 when
    stopped by Ctrl-C, 143 when told to end; 1 for anything else.
    """
    schema = register_schema(name, args)

    def main() -> None:
        # so that a process that is told to end (by its parent, by a cluster) leaves nothing half-written
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        end_with_parent()
        # a library's news of every request is not this program's
        for library in ("httpx", "filelock", "datasets", "urllib3"):
            logging.getLogger(library).setLevel(logging.WARNING)
        try:
            if "--resolved" in sys.argv[1:]:
                _run_resolved_here(schema, args, work, relaunch)
            else:
                _run_with_hydra(schema, args, work, config_name or name, relaunch)
        except KeyboardInterrupt:
            sys.exit(130)

    return main


def this_program() -> list[str]:
    """The command line, without arguments, that started this process."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, "-m", spec.name] if spec else [sys.executable, str(Path(sys.argv[0]).resolve())]


def _run_resolved_here(schema: type, args: type, work: Callable[[Job], dict[str, Any]], relaunch: bool) -> None:
    """What `--resolved FILE` does."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with _one_line_errors():
        processes = current()
        # what all processes would say, the first one says
        logging.getLogger().setLevel(logging.INFO if processes.first else logging.ERROR)
        file, result_file = _resolved_files(sys.argv[1:])
        job = build_job(schema, args, read_yaml(file), file.parent)
        result = _work(job, work, file, relaunch)
        if result_file is None and processes.first:
            print(json.dumps(result), flush=True)
        # the first process of each machine: whoever started the launch there waits for a file of that machine
        if result_file is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            write_json(result_file, result)
        processes.leave()


def _run_with_hydra(
    schema: type, args: type, work: Callable[[Job], dict[str, Any]], config_name: str, relaunch: bool
) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    program, composed = this_program(), False

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=config_name)
    def task(config: Any) -> None:
        nonlocal composed
        composed = True
        settings = HydraConfig.get()
        folder = Path(os.path.relpath(settings.runtime.output_dir))
        with _one_line_errors(), _no_useless_folder(folder):
            job = build_job(schema, args, config, folder)
            claim_folder(job)
            # jobs that share a process share its accelerator state and memory
            apart, file = settings.mode == RunMode.MULTIRUN, folder / "config.yaml"
            result = run_resolved(program, file) if apart else _work(job, work, file, relaunch)
            write_json(folder / "result.json", result)
            _show(result)

    try:
        task()
    except SystemExit as error:
        # Hydra has said what is wrong with the arguments, and exits with 1
        raise SystemExit(2 if error.code == 1 and not composed else error.code) from None


def _work(job: Job, work: Callable[[Job], dict[str, Any]], file: Path, relaunch: bool) -> dict[str, Any]:
    if relaunch and must_launch(job.launch, current()):
        try:
            return run_resolved(this_program(), file, job.launch)
        except JobFailed as error:
            if error.code > 128:  # ended by a signal, and perhaps nobody could say so
                raise
            raise SystemExit(error.code) from error
    if job.run.threads is not None:
        # torch reads these when it is loaded, which is later
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(job.run.threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job.run.threads)
    return work(job)


def _resolved_files(argv: list[str]) -> tuple[Path, Path | None]:
    if argv[0] != "--resolved" or len(argv) not in (2, 4) or argv[2:3] not in ([], ["--result"]):
        raise ConfigError(f"--resolved takes one file and no overrides, not {' '.join(argv)}")
    return Path(argv[1]), Path(argv[3]) if argv[3:] else None


def _show(result: dict[str, Any]) -> None:
    if "path" in result:
        how = "reused" if result.get("reused") else f"made in {result.get('seconds', 0):.0f} s"
        print(f"{result['path']} ({how})")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except JobFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.code) from error
    except (ValueError, OSError) as error:
        if os.environ.get("STEPWISE_TRACEBACK") == "1":
            traceback.print_exc()
        text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        # a class of our own says all there is to say; another may be a mistake in the program
        hint = " (STEPWISE_TRACEBACK=1 shows where)" if type(error).__module__ == "builtins" else ""
        rank = current().rank
        print(f"{f'process {rank}: ' if rank else ''}error: {text}{hint}", file=sys.stderr)
        raise SystemExit(2) from error


@contextmanager
def _no_useless_folder(folder: Path) -> Iterator[None]:
    # Hydra makes the folder before the arguments are checked; after a mistake of the user's, nothing is left of it
    claimed = (folder / "config.yaml").exists()
    try:
        yield
    except (ValueError, OSError):
        if not claimed and {path.name for path in folder.iterdir()} <= {"config.yaml"}:
            shutil.rmtree(folder)
            with suppress(OSError):  # another run has its folder there
                folder.parent.rmdir()
        raise
