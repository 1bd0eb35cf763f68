"""Metrics of a run: `metrics.jsonl` always, and a mirror in W&B when asked.

The file is the record. Whatever goes wrong with W&B is one warning, and the run goes on without the mirror.
W&B is told the metrics and the arguments, not the command line, the console, the environment or the code.
"""

from __future__ import annotations

import json
import logging
import math
import netrc
import numbers
import os
import re
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


class Mode(StrEnum):
    """Where metrics go besides `metrics.jsonl`."""

    none = "none"
    wandb = "wandb"


@dataclass
class TrackingArgs:
    """How a run appears in W&B. The key comes from WANDB_API_KEY or netrc, never from here.

    `group` defaults to the run's name and `name` to the stage's. Without a key the mirror is kept offline, in the
    run's folder, where `wandb sync` finds it.
    """

    mode: Mode = Mode.none
    project: str = "stepwise"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)

    def validate(self) -> None:
        """Raise ValueError naming the first setting that W&B cannot take."""
        if not self.project or set(self.project) & set("/\\#?%:"):
            raise ValueError(f"tracking.project={self.project!r} must not be empty or hold any of / \\ # ? % :")
        for tag in self.tags:
            if not 1 <= len(tag) <= 64:
                raise ValueError(f"tracking.tags: {tag!r} must have 1 to 64 characters")


class Untracked:
    """A tracker that drops all metrics."""

    def log(self, step: int, **metrics: float) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Writes one JSON object a line to `<folder>/metrics.jsonl` and mirrors it.

    `config` is what W&B shows as the run's arguments; its files go to `<mirror_folder>/wandb`.
    """

    def __init__(
        self,
        args: TrackingArgs,
        folder: Path,
        *,
        config: dict[str, Any] | None = None,
        mirror_folder: Path | None = None,
    ) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._warned: set[str] = set()
        self._mirror: Any = None
        if args.mode == Mode.wandb:
            try:
                self._mirror = _open_mirror(args, config or {}, mirror_folder or folder)
            except Exception as error:  # W&B raises dozens of kinds, and none may stop a run
                self._give_up(error)

    def log(self, step: int, **metrics: float) -> None:
        """Write one line: the step, the time in seconds since 1970, and the metrics.

        A number that is not finite is written as null, with a warning the first time.

        Raises:
            TypeError: the step is not an integer, or a metric is not a number.
        """
        if isinstance(step, bool) or not isinstance(step, numbers.Integral):
            raise TypeError(f"step must be an integer, not {step!r}")
        row: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        for name, value in metrics.items():
            if name in row:
                raise TypeError(f"no metric can be called {name!r}")
            row[name] = self._plain(name, value, step)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        if self._mirror is not None:
            try:
                self._mirror.log({name: value for name, value in row.items() if name != "time" and value is not None})
            except Exception as error:  # as above
                self._give_up(error)

    def close(self) -> None:
        """Finish the mirror and close the file. Closing again does nothing."""
        self._file.close()
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            try:
                mirror.finish()
            except Exception as error:  # as above
                self._give_up(error)

    def _plain(self, name: str, value: Any, step: int) -> int | float | None:
        if not isinstance(value, numbers.Real):
            raise TypeError(f"metric {name} must be a number, not {value!r}")
        if math.isfinite(value):
            return int(value) if isinstance(value, numbers.Integral) else float(value)
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("metric %s is %s at step %d; metrics.jsonl says null", name, value, step)
        return None

    def _give_up(self, error: Exception) -> None:
        self._mirror = None
        logger.warning("W&B failed, the run goes on without it: %s: %s", type(error).__name__, error)


def _open_mirror(args: TrackingArgs, config: dict[str, Any], folder: Path) -> Any:
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        quiet=True,
        # seconds: a server that is down must not hold every stage of a pipeline for minutes
        init_timeout=20,
        finish_timeout=60,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    start = partial(
        wandb.init,
        project=args.project,
        entity=args.entity,
        group=args.group,
        name=args.name,
        tags=list(args.tags),
        config=_without_secrets(config),
        dir=str(folder),
        reinit="create_new",
        settings=settings,
    )
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key(wandb) else "offline")
    try:
        run = start(mode=mode)
    except wandb.errors.Error as error:
        if mode != "online":
            raise
        logger.warning("W&B cannot be reached, its run is kept offline: %s", error)
        run = start(mode="offline")
    # W&B's own counter begins at 0 again when a run is resumed offline
    run.define_metric("*", step_metric="step")
    return run


def _has_key(wandb: Any) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(wandb.setup().settings.base_url).hostname
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for name in files:
        try:
            if netrc.netrc(Path(name).expanduser()).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _without_secrets(value: Any) -> Any:
    """The configuration with the value of every secret environment variable replaced by the variable's name."""
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, str):
        for name, secret in os.environ.items():
            if _SECRET.search(name) and len(secret) >= 8:
                value = value.replace(secret, f"${name}")
    return value
