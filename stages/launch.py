"""Several processes for one stage: relaunching a command under `accelerate launch`, and ending all of it in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

from stages.processes import ProcessError, Processes, end_with

LAUNCHED = "STEPWISE_LAUNCHED"  # set for the processes of a launch, to how many were asked for
PARENT = "STEPWISE_PARENT"  # set for processes that must not outlive the one with this number
GRACE = 10.0  # seconds that processes get to end by themselves; Slurm kills after 30, by default


@dataclass
class LaunchArgs:
    """How many processes a stage runs in; nothing here changes its results.

    `config_file` is one of accelerate's own, for several machines or FSDP: a path, or the name of one that comes with
    this program (conf/accelerate). What it says of the number of processes is overruled by `num_processes`, which
    counts those of all machines.
    """

    num_processes: int = 1  #: processes of a stage
    config_file: str | None = None  #: accelerate's, or a name of conf/accelerate

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        if self.num_processes < 1:
            raise ValueError(f"launch.num_processes must be at least 1, not {self.num_processes}")
        if self.config_file is not None:
            find_config(self.config_file)


def find_config(name: str) -> str:
    """The path of accelerate's config file `name`, which may be one of conf/accelerate.

    Raises:
        ValueError: there is no such file.
    """
    ours = files("conf") / "accelerate"
    if os.path.isfile(name):
        return name
    known = sorted(path.name.removesuffix(".yaml") for path in ours.iterdir() if path.name.endswith(".yaml"))
    if name in known:
        return str(ours / f"{name}.yaml")
    raise ValueError(f"launch.config_file={name}: there is no such file, and it is none of {', '.join(known)}")


def must_launch(args: LaunchArgs, processes: Processes) -> bool:
    """Whether this process has to start those that do the work.

    Raises:
        ProcessError: it is one of them, but another number was started than was asked for (`accelerate launch --cpu`
            starts one, whatever it is told).
    """
    if processes.count == 1 and LAUNCHED not in os.environ:
        return args.num_processes > 1 or args.config_file is not None
    if processes.count != args.num_processes:
        raise ProcessError(f"launch.num_processes={args.num_processes}, but {processes.count} processes were started")
    return False


def launch_command(args: LaunchArgs, program: list[str]) -> list[str]:
    """The command line that starts `program` (`[python, -m, module]` or `[python, script]`) in several processes."""
    command = [sys.executable, "-m", "stages.launcher"]
    if args.config_file is not None:
        command += ["--config_file", find_config(args.config_file)]
    else:
        # "multi_gpu" is what starts that many processes on CPUs, too; port 0: two jobs on one machine do not collide
        command += ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*command, "--num_processes", str(args.num_processes), *program[1:]]


def child_environment(launch: LaunchArgs | None = None) -> dict[str, str]:
    """The environment of a process that ends when this one has gone (`end_with_parent`), or of those of a launch."""
    launched = {} if launch is None else {LAUNCHED: str(launch.num_processes)}
    return os.environ | {PARENT: str(os.getpid())} | launched


def end_with_parent() -> None:
    """Where another process of this program started this one, end when that one has gone.

    A process of a launch also ends for certain some seconds after it was told to: in an exchange with another that
    has died, it may never come back to hear of it.
    """
    parent = os.environ.get(PARENT)
    if parent is not None:
        end_with(int(parent), _end)
    if LAUNCHED in os.environ:
        _end_when_told()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(143)


def _end_when_told() -> None:
    """Watch for SIGTERM beside the main thread, which hears of it only between two steps of Python."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in os.read(reader, 1):
            continue
        time.sleep(GRACE)
        os._exit(143)

    threading.Thread(target=watch, name="end-when-told", daemon=True).start()


@contextmanager
def child(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, which is ended in order where the block is left before it has ended.

    It and its children are told to end, and killed where they have not after a while. (Ctrl-C reaches only this
    process, which then ends them.)
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        # also what a process that was killed left behind
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
