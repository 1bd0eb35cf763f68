"""Checkpoints of a run that is not finished: `checkpoints/step-00000120` holds the run after its 120th step.

A checkpoint is written under another name, with a manifest of hashes, and then renamed: it is there whole, or not at
all. Loading checks every file, key, shape, type and number, warns of what it refuses and why, and takes the newest good
one. Left out: what a run saves (`training/loop.py`), and finished models (`stages/artifacts.py`).
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.files import StoreError, read_json, sha256, sync, write_json

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MANIFEST, STATE, WEIGHTS = "manifest.json", "state.json", "weights.safetensors"
MOMENTS, BEST = "moments.safetensors", "best.safetensors"
FIGURES = ("running", "tokens", "useful", "computed", "seconds", "misses")  # what a resumed run counts on from
PARTS = ("exp_avg", "exp_avg_sq", "step")  # of the optimizer's state of one weight
_STATE = {"step": int, "belongs": dict, "untouched": list, "figures": dict, "rows": list, "evaluation": dict}
_STATE |= {"best": dict | None}
_NAME = re.compile(r"step-(\d{8})")

Tensors = dict[str, "torch.Tensor"]
Shapes = dict[str, tuple[tuple[int, ...], "torch.dtype"]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: its numbers, trained weights, optimizer's state, and the best weights so far."""

    state: dict[str, Any]
    weights: Tensors
    moments: Tensors
    best: Tensors | None = None


class Checkpoints:
    """The checkpoints of one run below `folder`, of which the last `keep` good ones stay. Only rank 0 uses this.

    A good one is of this run: it has the same `belongs` (`training/identity.py`), a tensor of each of these `shapes`,
    and at most `steps` steps.
    """

    def __init__(self, folder: Path, keep: int, belongs: dict[str, Any], shapes: Shapes, steps: int) -> None:
        self.folder, self.keep, self.belongs, self.shapes, self.steps = folder, keep, belongs, shapes, steps
        self._good: list[str] = []  # loaded or written here, the newest last

    def found(self) -> list[Path]:
        """The folders that are there, good or bad, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)

    def newest(self) -> Checkpoint | None:
        """The newest good checkpoint, or None; a warning says which ones are refused, and why."""
        there = self.found()
        for path in there:
            try:
                checkpoint = self.load(path)
            except (CheckpointError, StoreError) as error:
                logger.warning("refused: %s", error)
                continue
            self._good = [path.name]
            return checkpoint
        if there:
            logger.warning("%s: no good checkpoint among %d; starting from the beginning", self.folder, len(there))
        return None

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint of a step, then remove all but the last `keep` good ones.

        Raises:
            CheckpointError: it cannot be written.
        """
        path, aside = self.folder / f"step-{step:08d}", self.folder / f".step-{step:08d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        for rest in [*self.folder.glob(".step-*"), *self.folder.glob(".old-*")]:  # of runs killed while they saved
            shutil.rmtree(rest)
        try:
            _write(aside, checkpoint)
            if path.exists():  # it was refused
                self._remove(path)
            os.replace(aside, path)
            sync(self.folder)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._good = [*self._good, path.name][-self.keep :]
        for other in self.found():
            if other.name not in self._good:
                self._remove(other)
        return path

    def load(self, path: Path) -> Checkpoint:
        """Read one checkpoint and verify all of it.

        Raises:
            CheckpointError: a file is missing, changed or not listed, or what it holds is not this run's.
            StoreError: the manifest or the state is no JSON.
        """
        names = _check_files(path)
        state = self._check_state(path / STATE, int(path.name.removeprefix("step-")))
        weights = _check_tensors(path / WEIGHTS, self.shapes)
        moments = _check_tensors(path / MOMENTS, _moment_shapes(path / STATE, state, self.shapes))
        for key, value in moments.items():
            if key.endswith("/step") and float(value) != state["step"]:
                raise CheckpointError(f"{path / MOMENTS}: {key} is {float(value):g}, not {state['step']}")
            if key.endswith("/exp_avg_sq") and bool((value < 0).any()):
                raise CheckpointError(f"{path / MOMENTS}: {key} has a negative square")
        best = _check_tensors(path / BEST, self.shapes) if BEST in names else None
        if (state["best"] is None) != (best is None):
            raise CheckpointError(f"{path / STATE}: best is {state['best']}, but the best weights are {names}")
        return Checkpoint(state, weights, moments, best)

    def _check_state(self, file: Path, step: int) -> dict[str, Any]:
        state = read_json(file)
        if not isinstance(state, dict) or state.keys() != _STATE.keys():
            shown = sorted(state) if isinstance(state, dict) else state
            raise CheckpointError(f"{file}: not the state of a run: {shown}")
        for name, kind in _STATE.items():
            if not isinstance(state[name], kind):
                raise CheckpointError(f"{file}: {name} is {state[name]!r}")
        for name in FIGURES:
            value = state["figures"].get(name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise CheckpointError(f"{file}: figures.{name} is {value!r}")
        for name in sorted(self.belongs.keys() | state["belongs"].keys()):
            theirs, ours = state["belongs"].get(name), self.belongs.get(name)
            if theirs != ours:
                raise CheckpointError(f"{file}: it belongs to another run: {name} is {theirs!r}, here it is {ours!r}")
        if state["step"] != step or not 1 <= step <= self.steps:
            raise CheckpointError(f"{file}: step is {state['step']}, in {file.parent.name} of a run of {self.steps}")
        return state

    def _remove(self, path: Path) -> None:
        # renamed first: a folder with a checkpoint's name is never half removed
        hidden = path.with_name(f".old-{path.name}")
        os.replace(path, hidden)
        shutil.rmtree(hidden)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {WEIGHTS: checkpoint.weights, MOMENTS: checkpoint.moments, BEST: checkpoint.best}
    for name, value in tensors.items():
        if value is not None:
            try:
                save_file(value, folder / name)
            except SafetensorError as error:
                raise OSError(f"{name}: {error}") from error
    write_json(folder / STATE, checkpoint.state)
    files = sorted(folder.iterdir())
    for file in files:
        sync(file)
    write_json(folder / MANIFEST, {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in files})
    sync(folder)


def _check_files(path: Path) -> list[str]:
    manifest = read_json(path / MANIFEST)
    listed = manifest if isinstance(manifest, dict) else {}
    if not {STATE, WEIGHTS, MOMENTS} <= listed.keys() <= {STATE, WEIGHTS, MOMENTS, BEST}:
        raise CheckpointError(f"{path / MANIFEST}: not the manifest of a checkpoint: it lists {sorted(listed)}")
    for file in path.iterdir():
        if file.name not in listed and file.name != MANIFEST:
            raise CheckpointError(f"{file}: there, though the manifest does not list it")
    for name, entry in listed.items():
        file = path / name
        if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
            raise CheckpointError(f"{path / MANIFEST}: no size and hash for {name}: {entry}")
        if not file.is_file():
            raise CheckpointError(f"{file}: missing, though the manifest lists it")
        if (size := file.stat().st_size) != entry["size"]:
            raise CheckpointError(f"{file}: {size} bytes, but the manifest says {entry['size']!r}")
        if (digest := sha256(file)) != entry["sha256"]:
            raise CheckpointError(f"{file}: changed: SHA-256 {digest}, but the manifest says {entry['sha256']}")
    return sorted(listed)


def _moment_shapes(file: Path, state: dict[str, Any], shapes: Shapes) -> Shapes:
    """Name and shape of the optimizer's tensors: three for each weight, none where there was no gradient so far."""
    import torch

    if not set(state["untouched"]) < shapes.keys():
        raise CheckpointError(f"{file}: untouched is {state['untouched'][:5]}, not some of the weights")
    return {
        f"{name}/{part}": ((), torch.float32) if part == "step" else shape
        for name, shape in shapes.items()
        if name not in state["untouched"]
        for part in PARTS
    }


def _check_tensors(file: Path, shapes: Shapes) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    for kind, names in (("missing", shapes.keys() - tensors), ("unknown", tensors.keys() - shapes)):
        if names:
            raise CheckpointError(f"{file}: {kind}: {', '.join(sorted(names)[:5])}, {len(names)} in all")
    for name, (shape, dtype) in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise CheckpointError(f"{file}: {name} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} {dtype}")
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{file}: {name} is not finite")
    return tensors
