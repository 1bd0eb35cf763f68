"""A run in W&B: its metrics as they come, then what it made, from which artifacts, with numbers and tables.

Whatever goes wrong with W&B is one warning, and the work goes on without the mirror. W&B is told the metrics and the
arguments, not the command line, the console, the environment or the code. Left out: `metrics.jsonl`, which is the
record (`stages/tracking.py`), W&B's server (`stages/wandb_server.py`), and what there is to show
(`experiments/commands/tracked.py`).
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts import Artifact, ArtifactError, named_parents, open_artifact
from stages.files import StoreError, read_json, write_json
from stages.tracking import Mode, TrackingArgs, read_metrics
from stages.wandb_log import last_record
from stages.wandb_server import clean, find_mode, go_offline

logger = logging.getLogger(__name__)

# seconds: a server that is down must not hold a pipeline for minutes
_INIT, _FINISH, _WRITTEN = 8, 60, 30
_COPIED = 5_000_000  # bytes up to which the files of a report are uploaded; anything else is a reference
# those that make a process one run; the stages of a pipeline are runs of their own
_OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME", "WANDB_JOB_TYPE")

Table = tuple[list[str], list[list[Any]]]  # columns, rows


@dataclass(frozen=True)
class Shown:
    """What there is to see in an artifact besides its manifest: numbers and texts by name, and tables."""

    numbers: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run as W&B lists it. `args` are resolved. Its files are in `folder/wandb`; `name.json` there keeps its id, so
    that the run of a job that was killed is gone on with.

    `kind` names what sort of thing an artifact is (rollouts, labels), `show` what is in it. The run of a stage makes
    its artifact; that of a pipeline (`makes` is false) has used the one that it ends with.
    """

    args: TrackingArgs
    folder: Path
    name: str
    job_type: str
    config: dict[str, Any]
    kind: Callable[[Artifact], str]
    show: Callable[[Artifact], Shown]
    makes: bool = True

    @property
    def state(self) -> Path:
        return self.folder / "wandb" / f"{self.name}.json"

    @property
    def finished(self) -> bool:
        """Whether W&B, or the folder, has all of it."""
        return _read_state(self.state).get("finished") is True

    def open(self) -> WandbMirror | None:
        """Begin the run, or go on with it; None where nothing is mirrored, or W&B failed, which is a warning."""
        if self.args.mode != Mode.wandb or os.environ.get("WANDB_MODE") == "disabled":
            return None
        try:
            return WandbMirror(self)
        except Exception as error:  # W&B raises dozens of kinds, and none may stop a run
            _warn(error)
            return None

    def mirror(self, made: Artifact) -> None:
        """Show an artifact that is there already, unless the run has it: the lines of its metrics.jsonl, and itself."""
        if not self.finished and (mirror := self.open()):
            for row in read_metrics(made.path):
                mirror.log(row)
            mirror.end(made)


class WandbMirror:
    """An open run in W&B.

    Lines of one step are one line of W&B, sent with the next step. A run that goes on online leaves out the steps that
    the server has; one that is kept offline is written anew, since what was killed has lost its last lines.
    """

    def __init__(self, run: Run) -> None:
        import wandb

        self._about, self._wandb = run, wandb
        own = {name: os.environ.pop(name, None) for name in _OF_ONE_RUN}
        mode = find_mode(wandb)
        known = _read_state(run.state).get("id")
        wanted = known or own["WANDB_RUN_ID"]
        self.id = wanted or secrets.token_hex(4)
        run.state.parent.mkdir(parents=True, exist_ok=True)
        self._keep(finished=False)
        try:
            self._run = _start(wandb, run, self.id, mode, own)
        except wandb.errors.Error as error:
            if mode != "online":
                raise
            mode = go_offline(f"W&B cannot be reached, runs are kept offline: {error}")
            if wanted is None:  # W&B's process holds the id of what it could not begin
                self.id = secrets.token_hex(4)
                self._keep(finished=False)
            else:
                with suppress(Exception):
                    wandb.teardown()
            self._run = _start(wandb, run, self.id, mode, own)
        resumed = self._run.resumed and not self._run.settings._offline
        self._last = int(self._run.summary.get("step", -1)) if resumed else -1
        self._pending: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        """Show one line of `metrics.jsonl`."""
        if self._run is None or row["step"] <= self._last:
            return
        if self._pending.get("step") not in (None, row["step"]):
            self._safely(self._send)
        own = {"_timestamp" if name == "time" else name: value for name, value in row.items()}
        self._pending |= {name: value for name, value in own.items() if value is not None}

    def end(self, made: Artifact | None) -> None:
        """Show what the run has made, or that it failed (None)."""
        self._safely(self._send)
        if made is not None:
            self._safely(lambda: self._show(made))
            self._safely(lambda: self._trace(made))
        finished = self._safely(lambda: self._finish(0 if made else 1))
        self._run = None
        if finished and made is not None:
            with suppress(OSError):
                self._keep(finished=True)

    def _keep(self, finished: bool) -> None:
        write_json(self._about.state, {"id": self.id, "finished": finished})

    def _safely(self, work: Callable[[], Any]) -> bool:
        if self._run is None:
            return False
        try:
            work()
        except Exception as error:  # as in `Run.open`
            self._run = None
            _warn(error)
            if isinstance(error, ConnectionError) or type(error).__name__ == "MailboxClosedError":
                with suppress(Exception):  # its process has gone: else it prints a trace when this one ends
                    self._wandb.teardown()
            return False
        return True

    def _finish(self, code: int) -> None:
        settings = self._run.settings
        self._run.finish(exit_code=code)
        deadline = time.monotonic() + _WRITTEN
        while settings._offline and not _has_its_end(Path(settings.sync_file)):
            if time.monotonic() > deadline:
                raise OSError(f"{settings.sync_file}: cut short; is the disk full?")  # of which W&B says nothing
            time.sleep(0.02)

    def _send(self) -> None:
        row, self._pending = self._pending, {}
        if row:
            self._run.log(row)

    def _show(self, made: Artifact) -> None:
        """The manifest's counts and all that there is to see, as the run's summary and tables."""
        manifest, shown = made.manifest, self._about.show(made)
        numbers = dict(shown.numbers)
        if self._about.makes:
            seconds, tokens = manifest.get("seconds", 0), manifest.get("tokens", 0)
            rate = {"tokens_per_second": tokens / seconds} if seconds > 0 and tokens else {}
            numbers = {"seconds": seconds, "tokens": tokens} | rate | manifest.get("counts", {}) | numbers
        parents: dict[str, list[str]] = {}
        for name, one in named_parents(manifest):
            parents.setdefault(name, []).append(_name(one))
        about = {"artifact": _name(manifest), "parents": parents, "code": manifest.get("code", {})}
        self._run.config.update(clean(about), allow_val_change=True)
        self._run.summary.update(clean(numbers))
        tables = {
            name: self._wandb.Table(columns=columns, data=clean(rows)) for name, (columns, rows) in shown.tables.items()
        }
        if tables:
            self._run.log({"step": int(self._run.summary.get("step", 0)), **tables})

    def _trace(self, made: Artifact) -> None:
        """The lineage: which artifacts the run has used, and which it has made."""
        if not self._about.makes:
            return self._use(made)
        for _, one in named_parents(made.manifest):
            with suppress(ArtifactError):  # it is gone, or was made by no stage: the run's config names it
                self._use(open_artifact(one["path"], thorough=False))
        self._run.log_artifact(self._entry(made))

    def _use(self, found: Artifact) -> None:
        if self._run.settings._offline:  # `use_artifact` refuses then; this is what it does of an artifact's own files
            self._run._log_artifact(self._entry(found), is_user_created=True, use_after_commit=True)
        else:
            self._run.use_artifact(self._entry(found))

    def _entry(self, found: Artifact) -> Any:
        """An artifact of ours as one of W&B: references to its files, and the small files of a report themselves.

        The same artifact gives the same entry in every run, so that W&B takes them for one.
        """
        manifest, kind = found.manifest, self._about.kind(found)
        about = {name: manifest.get(name) for name in ("counts", "tokens", "seconds", "created", "code")}
        entry = self._wandb.Artifact(f"{manifest['stage']}-{manifest['key']}", kind, metadata=clean(about))
        for name, facts in manifest["files"].items():
            path = (found.path / name).resolve()
            if kind == "report" and facts["size"] <= _COPIED:
                entry.add_file(str(path), name=name, policy="immutable", skip_cache=True)
            else:
                entry.add_reference(path.as_uri(), name=name, checksum=False)
        return entry


def _name(one: dict[str, Any]) -> str:
    """An artifact by its manifest, or as a manifest names a parent."""
    return f"{one['stage']}/{one['key']}" if one["stage"] else one["key"]


def _start(wandb: Any, run: Run, identity: str, mode: str, own: dict[str, str | None]) -> Any:
    """Begin the run or go on with it."""
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        init_timeout=_INIT,
        finish_timeout=_FINISH,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_save_requirements=False,
        **({"sweep_id": own["WANDB_SWEEP_ID"]} if own["WANDB_SWEEP_ID"] else {}),
    )
    if mode == "offline":
        for folder in (run.folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(folder, ignore_errors=True)
    found = wandb.init(
        id=identity,
        resume="allow",
        mode=mode,
        dir=str(run.folder.resolve()),  # W&B's process may stand elsewhere
        job_type=own["WANDB_JOB_TYPE"] or run.job_type,
        config=clean(run.config),
        reinit="create_new",
        settings=settings,
        **clean({name: value for name, value in asdict(run.args).items() if name != "mode"}),
    )
    os.environ.pop("WANDB_SERVICE", None)  # else the processes that this one starts depend on W&B's process of this one
    # W&B's own counter begins at 0 again when a run is resumed offline
    found.define_metric("*", step_metric="step")
    return found


def can_reach() -> bool:
    """Whether there is a key for W&B's server, nobody has asked for offline, and the server answers."""
    import wandb

    return find_mode(wandb) == "online"


def _has_its_end(log: Path) -> bool:
    """Whether the last record of a run's log is the one that ends it."""
    from wandb.proto.wandb_internal_pb2 import Record

    return Record.FromString(last_record(log.read_bytes())).HasField("exit")


def _read_state(file: Path) -> dict[str, Any]:
    with suppress(StoreError):
        state = read_json(file)
        if isinstance(state, dict) and isinstance(state.get("id"), str):
            return state
    return {}


def _warn(error: Exception) -> None:
    logger.warning("W&B failed, the work goes on without it: %s: %s", type(error).__name__, clean(str(error)))
