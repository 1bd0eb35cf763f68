"""`accelerate launch`, ending with the exit code of the first process that failed, and without a trace of its own.

Run as `python -m stages.launcher` with the arguments of `accelerate launch`.
"""

from __future__ import annotations

import logging
import subprocess
import sys


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
