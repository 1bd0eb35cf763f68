"""Runs the parts one after the other, each in a process of its own and for a limited time, and writes what they found:
`results.jsonl`, a row a line, `report.md`, and `log.txt` with all that the parts printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.gpu.setting import Row, Setting

ROOT = Path(__file__).parents[2]
_ENOUGH = 10  # seconds: a part is not started with less


@dataclass(frozen=True)
class Part:
    """A part of the script: the module's `run(Setting)` yields rows. It gets at most `seconds`."""

    name: str
    module: str
    seconds: float


def run_parts(parts: Sequence[Part], setting: Setting) -> list[Row]:
    """Run all parts within `setting.seconds`; returns their rows, and of each part one that says how it ended."""
    folder = Path(setting.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    for file in (results, folder / "log.txt", folder / "report.md"):
        file.unlink(missing_ok=True)
    found: list[Row] = []
    for part in parts:
        seconds = min(part.seconds, setting.left)
        began = time.monotonic()
        if seconds < _ENOUGH:
            rows: list[Row] = []
            ended = f"not started: {max(0.0, setting.left):.0f} s were left"
        else:
            print(f"{part.name}: at most {seconds:.0f} s", flush=True)
            rows, ended = _run(part, replace(setting, seconds=seconds))
        took = time.monotonic() - began
        own = [{"part": part.name} | row for row in rows]
        own.append({"part": part.name, "status": ended, "seconds": round(took, 1), "ok": ended == "done"})
        with results.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in own)
        found += own
        (folder / "report.md").write_text(render(found), encoding="utf-8")
        print(f"{part.name}: {ended} after {took:.0f} s, {len(rows)} rows", flush=True)
    return found


def _run(part: Part, setting: Setting) -> tuple[list[Row], str]:
    """The rows of one part, and how it ended: done, or why not in one line."""
    folder = Path(setting.folder)
    rows = folder / f".{part.name}.jsonl"
    rows.unlink(missing_ok=True)
    given = {name: value for name, value in asdict(setting).items() if name != "began"}
    command = [sys.executable, "-m", "tests.gpu.part", part.module, str(rows.resolve()), json.dumps(given)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "PYTHONPATH": path}
    log = folder / "log.txt"
    with log.open("ab") as out:
        out.write(f"==== {part.name}\n".encode())
        out.flush()
        began = out.tell()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(setting.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    made = _read(rows)
    rows.unlink(missing_ok=True)
    if code is None:
        return made, f"stopped: it took more than {setting.seconds:.0f} s"
    if code == 0:
        return made, "done"
    if code < 0:
        return made, f"died: {signal.Signals(-code).name}"
    said = log.read_bytes()[began:].decode(errors="replace").strip().splitlines()
    return made, f"failed: {said[-1] if said else f'exit status {code}'}"


def _end(process: subprocess.Popen) -> None:
    """End what a part started too: a launch has processes of its own, and they hold the GPU's memory."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(file: Path) -> list[Row]:
    """All whole rows; a part that was stopped may have left half of one."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def render(rows: Sequence[Row]) -> str:
    """The report as Markdown: how each part ended, then a table of all rows."""
    lines = ["| part | ended | seconds |", "|---|---|---|"]
    lines += [f"| {row['part']} | {_cell(row['status'])} | {row['seconds']} |" for row in rows if "status" in row]
    lines += ["", "| part | what | value | at most | |", "|---|---|---|---|---|"]
    for row in rows:
        if "status" not in row:
            verdict = {True: "ok", False: "**no**", None: ""}[row.get("ok")]
            words = "; ".join(filter(None, [verdict, row.get("note") or ""]))
            value = f"{_number(row['value'])} {row['unit']}".strip()
            cells = (row["part"], row["what"], value, _number(row["limit"]), words)
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
