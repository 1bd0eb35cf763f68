"""What W&B keeps of offline runs, read back with its own tool."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


@dataclass
class Kept:
    """One offline run: what it is called, its arguments, lines, summary and tables, and its artifacts by name."""

    id: str
    facts: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    used: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def name(self) -> str:
        return self.facts["display_name"]


def read_runs(folder: Path) -> list[Kept]:
    """All offline runs below a folder, in the order of their names."""
    found = [(log, inspect(log)) for log in sorted(folder.rglob("offline-run-*/*.wandb"))]
    # the log of one whose process was killed at once may hold nothing
    runs = [_read(log, records) for log, records in found if any(one["type"] == "run" for one in records)]
    return sorted(runs, key=lambda run: run.name)


def _read(log: Path, records: list[dict[str, Any]]) -> Kept:
    run = next(record["run"] for record in records if record["type"] == "run")
    kept = Kept(run["run_id"], run, config=dict(run["config"]["update"]))
    for record in records:
        own = record[record["type"]] if isinstance(record.get(record["type"]), dict) else {}
        match record["type"]:
            case "config":
                kept.config |= own["update"]
            case "history":
                kept.history.append(own["item"])
            case "summary":
                kept.summary |= own.get("update", {})
            case "artifact":
                of = kept.used if own.get("use_after_commit") else kept.made
                of[own["name"]] = own
            case "exit":
                kept.exit_code = own.get("exit_code", 0)
    for name in [key.removesuffix("._type") for key, value in kept.summary.items() if value == "table-file"]:
        kept.tables[name] = json.loads((log.parent / "files" / kept.summary[f"{name}.path"]).read_text())
    return kept


def inspect(log: Path) -> list[dict[str, Any]]:
    """The records of a run's log."""
    # what `wandb leet inspect --json` runs, without the seconds that the command takes to start
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", log, log.parent]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
