"""Several processes for one stage: whether they have to be started, and the command line that does.

`python -m stages.launch` is `accelerate launch`, but ends with the exit code of the first process that failed, and
without a trace of its own. Left out: starting it, and ending all processes in order (`stages/child.py`).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files

from stages.checks import check_least
from stages.processes import ProcessError, Processes

LAUNCHED = "STEPWISE_LAUNCHED"  # set for the processes of a launch, to how many were asked for


@dataclass
class LaunchArgs:
    """How many processes a stage runs in; nothing here changes its results.

    `config_file` is one of accelerate's own, for several machines or FSDP: a path, or the name of one that comes with
    this program (conf/accelerate). `num_processes`, which counts those of all machines, overrides its number.
    """

    num_processes: int = 1  #: processes of a stage
    config_file: str | None = None  #: accelerate's, or a name of conf/accelerate

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_least(self, "launch.", num_processes=1)
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
    """Whether this process has to start the ranks; false in one of them.

    Raises:
        ProcessError: more or fewer ranks were started than were asked for (`accelerate launch --cpu` starts one,
            whatever it is told).
    """
    if processes.count == 1 and LAUNCHED not in os.environ:
        return args.num_processes > 1 or args.config_file is not None
    if processes.count != args.num_processes:
        raise ProcessError(f"launch.num_processes={args.num_processes}, but {processes.count} processes were started")
    return False


def launch_command(args: LaunchArgs, program: list[str]) -> list[str]:
    """The command line that starts `program` (`[python, -m, module]` or `[python, script]`) in several processes."""
    command = [sys.executable, "-m", "stages.launch"]
    if args.config_file is not None:
        command += ["--config_file", find_config(args.config_file)]
    else:
        # "multi_gpu" is what starts that many processes on CPUs, too; port 0: two jobs on one machine do not collide
        command += ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*command, "--num_processes", str(args.num_processes), *program[1:]]


def main() -> None:
    """Launch, and exit as the processes did; 128 and its number where a signal ended one."""
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        launch()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code < 0:
            print(f"error: process {rank} was ended by signal {-code}", file=sys.stderr)
        sys.exit(code if code >= 0 else 128 - code)
    except subprocess.CalledProcessError as error:  # of one process, which is started without torchrun
        sys.exit(error.returncode if error.returncode >= 0 else 128 - error.returncode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
