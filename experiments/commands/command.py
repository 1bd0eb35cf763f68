"""A command of a stage or a pipeline: arguments by Hydra or from a file, one run, its result.

Left out: how arguments are checked and folders named (`experiments/commands/config.py`), and what the stage does.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.commands.catalogue import COMMANDS
from experiments.commands.config import ConfigError, Job, build_job, claim_folder, read_yaml, register_schema
from experiments.commands.dry_run import stage_plan
from experiments.commands.evidence import error_log
from experiments.commands.overrides import hydra_told
from experiments.commands.sweeps import Sweep, finished, objective_of, reason_told, said
from experiments.commands.tracked import TrackedStage
from stages.artifacts import Artifact
from stages.child import PARENT, JobFailed, end_with_parent, run_resolved
from stages.files import write_json
from stages.launch import must_launch
from stages.make import make
from stages.processes import current
from stages.stage import Stage
from stages.text import CleanRecord, one_line, visible

Work = Callable[[Job], dict[str, Any]]
Plan = Callable[[Job], tuple[list[str], bool]]  # what a dry run prints; whether all of it is made already


def stage_command(stage: Stage, show: Callable[[Artifact], None] | None = None) -> Command:
    """The command of one stage: finds or makes its artifact, of which `show` prints more than the path."""

    def work(job: Job) -> dict[str, Any]:
        tracked = TrackedStage(job, stage)
        artifact, reused = make(stage, job.args, job.run.artifacts, tracked.track)
        if reused and current().first:
            tracked.found(artifact)
        if show is not None and current().first:
            show(artifact)
        known = {name: artifact.manifest[name] for name in ("stage", "key", "seconds", "tokens")}
        return known | {"path": str(artifact.path), "reused": reused}

    return Command(stage.name, stage.args, work, plan=lambda job: stage_plan(stage, job))


@dataclass
class Command:
    """What `python -m experiments.<name>` runs: `work` with arguments of class `args`, which are in `sys.argv`.

    Hydra composes them from `conf/<name>.yaml` and the command line; `--resolved FILE.yaml` takes them from a
    file as they stand. The run's folder gets `config.yaml` and `result.json`, what `work` returns. With --resolved
    that folder is the file's, nothing is written there, and the result is the last line of stdout, as JSON; with
    `--result FILE.json` behind it, it is written to that file, which is how one command runs another. Where the work
    fails, `error.log` in the run's folder has the trace.

    With `launch.num_processes` over 1 the work is done by that many processes under `accelerate launch`; without
    `relaunch`, `work` itself sees to that. With `dry_run` the lines of `plan` are printed, and that is all; `plan` also
    tells a sweep which of its arms are still finished. A sweep returns to its sweeper the number that
    `objective` names.

    Exit codes: 0; 2 for the user's errors, in one line on stderr (STEPWISE_TRACEBACK=1: with the trace); 130 when
    stopped by Ctrl-C and 143 when told to end, each with a line that says how to go on; 141 when nobody reads its
    output; 1 for anything else, as for a sweep in which an arm failed.
    """

    name: str
    args: type
    work: Work
    relaunch: bool = True
    plan: Plan | None = None

    def __post_init__(self) -> None:
        self.schema = register_schema(self.name, self.args)

    def __call__(self) -> None:
        if self.args.__module__ == "__main__":
            # a launcher sends these classes to other processes, which look for them in the module by its name
            spec = sys.modules["__main__"].__spec__
            return importlib.import_module(spec.name if spec else COMMANDS[self.name]).main()
        # an exception, so that a process that is told to end (by its parent, by a cluster) leaves nothing half-written
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        end_with_parent()
        logging.setLogRecordFactory(CleanRecord)
        # these libraries log every request
        for library in ("httpx", "filelock", "datasets", "urllib3", "torch"):
            logging.getLogger(library).setLevel(logging.WARNING)
        if any(one.startswith("--info") for one in sys.argv[1:]):
            logging.raiseExceptions = False  # Hydra logs what it says then, and a log prints that a pipe is closed
        try:
            with reason_told():
                if "--resolved" in sys.argv[1:]:
                    self._run_resolved_here()
                elif {"--help", "-h"} & {*sys.argv[1:]}:
                    from experiments.commands.describe import print_help

                    print_help(self.name, self.schema)
                else:
                    self._run_with_hydra()
                sys.stdout.flush()
        except KeyboardInterrupt:
            self._say_stopped("stopped")
            sys.exit(130)
        except SystemExit as error:
            if error.code == 143 and error.__cause__ is None:
                self._say_stopped("told to end (SIGTERM)")
            raise
        except BrokenPipeError as error:
            if not _output_closed(error):
                raise
            sys.exit(141)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the interpreter does at its end has nothing to unwind

    def _say_stopped(self, how: str) -> None:
        if PARENT not in os.environ:  # else the command that started this one says it
            then = "begins anew" if self.plan is None else "goes on from what is kept"
            print(f"{how}; the same command {then}", file=sys.stderr, flush=True)

    def _run_resolved_here(self) -> None:
        """What `--resolved FILE` does."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        with _one_line_errors():
            processes = current()
            # what all processes would say, the first one says
            logging.getLogger().setLevel(logging.INFO if processes.first else logging.ERROR)
            match sys.argv[1:]:
                case ["--resolved", file]:
                    result_file = None
                case ["--resolved", file, "--result", result_file]:
                    pass
                case argv:
                    raise ConfigError(f"--resolved takes one file and no overrides, not {' '.join(argv)}")
            job = build_job(self.schema, self.args, read_yaml(Path(file)), Path(file).parent)
            result = self._work(job, Path(file))
            if result_file is None and processes.first:
                print(json.dumps(result), flush=True)
            # the first process of each machine: whoever started the launch there waits for a file of that machine
            if result_file is not None and os.environ.get("LOCAL_RANK", "0") == "0":
                write_json(result_file, result)
            processes.leave()

    def _run_with_hydra(self) -> None:
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        program, sweep = this_program(), Sweep.new()

        @hydra.main(version_base="1.3", config_path="pkg://conf", config_name=self.name)
        def task(config: Any) -> float | None:
            settings = HydraConfig.get()
            if settings.mode != RunMode.MULTIRUN:
                return self._run_composed(config, None)
            overrides, folder = list(settings.overrides.task), Path(settings.runtime.output_dir)
            return sweep.arm(overrides, folder, lambda: self._run_composed(config, program))

        with _one_line_errors(), hydra_told(self.args):
            try:
                task()
                failed = sweep.end()
            except ValueError:
                failed = sweep.end()  # Optuna raises where no trial has succeeded
                if not failed:
                    raise
            finally:
                shutil.rmtree(sweep.folder, ignore_errors=True)
                # what was typed here is not what was typed for another job of this process
                HydraConfig.instance().cfg = None
        if failed:
            raise SystemExit(1)

    def _run_composed(self, config: Any, program: list[str] | None) -> float | None:
        """Run what Hydra has composed, in this process, or by `program` in one of its own; returns the objective.

        An arm of a sweep has a process of its own: jobs that share one would share its accelerator state and memory.
        """
        from hydra.core.hydra_config import HydraConfig

        settings = HydraConfig.get()
        folder = Path(os.path.relpath(settings.runtime.output_dir, settings.runtime.cwd))
        with _one_line_errors(), _no_useless_folder(Path(settings.runtime.output_dir), Path(settings.runtime.cwd)):
            if settings.job.chdir:
                os.chdir(settings.runtime.cwd)
                raise ConfigError("hydra.job.chdir=true: a command stays in the folder in which it was started")
            file = folder / "config.yaml"
            job = build_job(self.schema, self.args, config, folder)
            if program and job.objective is None and not settings.sweeper._target_.endswith("BasicSweeper"):
                raise ConfigError("this sweeper needs objective=KEY, the number of the result to go by")
            if job.dry_run:
                self._work(job, file)
                return None
            claim_folder(job)
            result = finished(folder) if program else None
            # its artifacts may be those of an older version of a stage
            if result is not None and (self.plan is None or self.plan(job)[1]):
                print(f"{folder} (finished before)")
            else:
                result = run_resolved(program, file) if program else self._work(job, file)
                write_json(folder / "result.json", result)
                _show(result)
            return None if job.objective is None else objective_of(result, job.objective)

    def _work(self, job: Job, file: Path) -> dict[str, Any]:
        """Do the work here, in the processes of a launch, or not at all (`dry_run`)."""
        if job.dry_run:
            if self.plan is None:
                raise ConfigError(f"dry_run=true: {self.name} is one step, and has no plan to show")
            print(*self.plan(job)[0], sep="\n")
            return {"dry_run": True}
        if self.relaunch and must_launch(job.launch, current()):
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
        with error_log(file):
            return self.work(job)


def this_program() -> list[str]:
    """The command line, without arguments, that started this process."""
    spec = sys.modules["__main__"].__spec__
    return [sys.executable, "-m", spec.name] if spec else [sys.executable, str(Path(sys.argv[0]).resolve())]


def _show(result: dict[str, Any]) -> None:
    if "path" in result:
        how = "reused" if result.get("reused") else f"made in {result.get('seconds', 0):.0f} s"
        print(f"{visible(result['path'])} ({how})")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except JobFailed as error:
        if not said():
            print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(error.code) from error
    except (ValueError, OSError) as error:
        if _output_closed(error):
            raise SystemExit(141) from None
        if os.environ.get("STEPWISE_TRACEBACK") == "1":
            print(visible(traceback.format_exc()), end="", file=sys.stderr)
        # a class of our own says all there is to say; another may be a mistake in the program
        hint = " (STEPWISE_TRACEBACK=1 shows where)" if type(error).__module__ == "builtins" else ""
        rank = current().rank
        print(f"{f'process {rank}: ' if rank else ''}error: {one_line(error)}{hint}", file=sys.stderr)
        raise SystemExit(2) from error


def _output_closed(error: Exception) -> bool:
    """Whether this came of printing to a pipe that nobody reads any more, as after `| head -1`. If so, what is still
    printed goes nowhere."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if closed := bool(poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


@contextmanager
def _no_useless_folder(folder: Path, below: Path) -> Iterator[None]:
    # Hydra makes the folder before the arguments are checked; after a mistake of the user's, nothing is left of it
    file = folder / "config.yaml"
    claimed = file.exists()
    try:
        yield
    except (ValueError, OSError):
        if not claimed and {path.name for path in folder.iterdir()} <= {file.name}:
            file.unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError):  # which is not empty
            for one in (folder, *folder.parents):
                if one in (below, *below.parents):
                    break  # where the user stands is not ours to remove
                one.rmdir()
