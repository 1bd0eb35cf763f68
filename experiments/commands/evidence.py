"""What a run that failed leaves in its folder: `error.log`, with the trace, the versions and the arguments' file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from experiments.commands.yaml_files import ConfigError
from stages import provenance
from stages.artifacts import ArtifactError
from stages.processes import current


@contextmanager
def error_log(file: Path) -> Iterator[None]:
    """Write `error.log` beside `file`, the run's arguments, where an error ends the work. An ArtifactError and a
    ConfigError do not count: a parent or a setting could not be used, and no work had begun.

    For arguments NAME.yaml, other than config.yaml, it is `NAME.error.log`; a rank other than 0 adds its number. A run
    that succeeds removes the log of the one before.
    """
    rank = current().rank
    name = "error" if file.name == "config.yaml" else f"{file.stem}.error"
    log = file.with_name(f"{name}.{rank}.log" if rank else f"{name}.log")
    try:
        yield
    except (ArtifactError, ConfigError):
        raise
    except Exception as error:
        versions = ", ".join(f"{package} {version}" for package, version in provenance.versions().items())
        facts = [
            f"{datetime.now(UTC).isoformat(timespec='seconds')} arguments: {file.absolute()}",
            f"program: {provenance.describe(provenance.code())}; {versions}",
            "".join(traceback.format_exception(error)),
        ]
        with suppress(OSError):  # a full disk, say, of which the error itself tells
            log.write_text("\n".join(facts), encoding="utf-8", errors="backslashreplace")
        raise
    with suppress(OSError):
        log.unlink(missing_ok=True)
