"""`python -m experiments.convert`: rows of step labels from one format to another, as a stream.

Left out: the conversion itself (`rewards/formats/convert.py`), and labels to train on (`experiments/import_labels.py`).
"""

from __future__ import annotations

from typing import Any

from experiments.commands.command import Command
from experiments.commands.config import Job
from experiments.commands.unused import refuse_set
from rewards.formats.convert import ConvertArgs, convert


def work(job: Job) -> dict[str, Any]:
    """Convert, and say what came of it."""
    refuse_set(job, "launch", "tracking", reason="this is one process, and result.json is all that it records")
    result = convert(job.args)
    others = ("bad_rows", "dropped", "steps_cut", "soft_labels", "unlabelled_steps")
    more = "".join(f", {result[name]:,} {name.replace('_', ' ')}" for name in others if result[name])
    print(f"{result['output']}: {result['written']:,} of {result['rows']:,} rows, {result['steps']:,} steps{more}")
    return result


main = Command("convert", ConvertArgs, work, relaunch=False)

if __name__ == "__main__":
    main()
