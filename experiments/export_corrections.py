"""`python -m experiments.export_corrections`: corrections that are kept as rows of another project."""

from __future__ import annotations

from typing import Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.unused import refuse_set
from refine.lema.export import ExportCorrectionsArgs, export_corrections


def work(job: Job) -> dict[str, Any]:
    """Write the file, and say how many rows it has."""
    refuse_set(job, "launch", "tracking", reason="this is one process, and result.json is all that it records")
    result = export_corrections(job.args)
    print(f"{result['output']}: {result['written']:,} of {result['rows']:,} corrections; the others are dropped ones")
    return result


main = Command("export_corrections", ExportCorrectionsArgs, work, relaunch=False)

if __name__ == "__main__":
    main()
