"""Running requests so that no sample is lost: each is kept as it comes, and after a restart only what is missing is
sampled. Every process of a launch takes its share and keeps its own journal; together they are the result.

Left out: how a backend samples (`rollouts/sampling/protocol.py`), and the file of rows itself (`stages/journal.py`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from rollouts.sampling.protocol import Request, Sample, Sampler, refuse, request_fault
from stages import journal
from stages.files import StoreError
from stages.journal import Journal, Rows
from stages.progress import Progress
from stages.rows import from_row, to_row
from stages.workspace import Quarantined, Workspace

T = TypeVar("T")
logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds between two looks at what the other processes have done


class Collected(Generic[T]):
    """What came of some requests, read from disk as it is asked for: `found[request_id]` has a row a sample, in the
    order of their numbers."""

    def __init__(self, rows: Rows, cls: type[T], counts: dict[str, int]) -> None:
        self._rows, self._cls, self._counts = rows, cls, counts

    def __getitem__(self, request_id: str) -> list[T]:
        if request_id not in self._counts:
            raise KeyError(request_id)
        folder = self._rows.paths[0].parent
        try:
            found = [from_row(self._cls, row) for _, row in self._rows.of(request_id)]
        except ValueError as error:
            raise StoreError(
                f"{folder}: a row kept for {request_id}: {error}; delete the folder to make its rows anew"
            ) from error
        if len(found) != self._counts[request_id]:
            raise StoreError(f"{folder}: has changed on disk: {len(found)} samples of {request_id}; run it again")
        return found

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._counts

    def close(self) -> None:
        """Close the files, where a stage collects many times; they are closed anyhow when it ends."""
        self._rows.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)


def collect(
    sampler: Sampler,
    requests: Sequence[Request],
    work: Workspace,
    label: str,
    make_row: Callable[[Request, Sample], T] | None = None,
    cls: type[T] = Sample,
) -> Collected[T]:
    """Draw every sample of every request that is not on disk yet; what was there and what is new come back together.

    `label` names this piece of work within its stage; what stands before a slash is common to several pieces.
    `make_row` turns a sample into the record (of class `cls`) to keep, such as a graded rollout; without it the sample
    itself is kept. With several processes each draws its share, and all of them get all rows.

    Raises:
        ValueError: two requests have the same id, an id is no text, `n` is under 1, or every request was refused
            (with the first reason).
        RuntimeError: the sampler gave something else than it was asked for.
        StoreError: a row cannot be kept (a full disk), or a file of kept rows is damaged.
    """
    counts = _counts(requests)
    folder, about = work.unfinished / label.replace("/", "-"), _about(requests, cls)
    known, others = _known(folder, about, work)
    missing = [_missing(request, known.get(request.id, set())) for request in requests]
    left = sum(len(request.indices) for request in missing)
    if known and (left or "/" not in label):  # of many pieces only the one that is gone on with
        logger.info("%s: %d samples are there from before, %d to go", label, sum(map(len, known.values())), left)
    # by the request's place in the list, so that a share is the same whatever is missing
    share = [request for i, request in enumerate(missing) if i % work.processes.count == work.processes.rank]
    with work.progress(left, "samples", label) as bar:
        _draw(sampler, [r for r in share if r.indices], folder, about, work, bar, others, make_row or _itself)
    rows = work.keep_open(Rows(_files(folder)))
    _check_complete(rows.samples(), counts)
    work.spend(rows.tokens())
    work.note(f"promise of {label.partition('/')[0]}", sampler.promise)
    refused = rows.refused()
    if refused and len(refused) == len(requests):
        _forget(rows, folder, work)
        first = min(refused)
        raise ValueError(f"{label}: none of the {len(requests)} requests can be sampled; {first}: {refused[first]}")
    _quarantine(refused, len(requests), label, work)
    return Collected(rows, cls, counts)


def _itself(_: Request, sample: Sample) -> Sample:
    return sample


def _counts(requests: Sequence[Request]) -> dict[str, int]:
    for request in requests:
        name = request.id
        if not isinstance(name, str) or name.encode(errors="replace").decode() != name or request.n < 1:
            raise ValueError(f"a request needs a text as its id and n >= 1, not {name!r} and {request.n}")
    counts = {request.id: request.n for request in requests}
    if len(counts) != len(requests):
        raise ValueError("two requests have the same id")
    return counts


def _about(requests: Sequence[Request], cls: type) -> str:
    """What rows belong to: a hash of these requests and of the kind of row."""
    total = hashlib.sha256(cls.__name__.encode())
    for request in requests:
        asked = [getattr(request, name) for name in Request.__dataclass_fields__ if name != "wanted"]
        total.update(repr(asked).encode())
    return total.hexdigest()


def _known(folder: Path, about: str, work: Workspace) -> tuple[dict[str, set[int]], _Others]:
    """The samples on disk, of whichever process, and what watches how many become more; damaged rows are dropped
    first. All processes see the same."""
    if work.processes.first:
        for path in _files(folder):
            journal.check(path, about)
    work.processes.wait()
    rows = Rows(_files(folder))
    try:
        return rows.samples(), _Others(folder, work)
    finally:
        rows.close()
        work.processes.wait()  # nobody writes while another still looks


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlite"))


def _missing(request: Request, known: set[int]) -> Request:
    return replace(request, wanted=tuple(index for index in request.indices if index not in known))


def _draw(
    sampler: Sampler,
    requests: list[Request],
    folder: Path,
    about: str,
    work: Workspace,
    bar: Progress,
    others: _Others,
    make_row: Callable[[Request, Sample], Any],
) -> None:
    """Draw this process's share and wait for the others'."""
    waited = {request.id: (request, set(request.indices)) for request in requests}
    with _journal(folder / f"{work.processes.rank}.sqlite", about) as kept:
        stream = _stream(sampler, requests)
        try:
            for sample in stream:
                request, open_ = waited.get(sample.request_id, (None, set()))
                if sample.index not in open_:
                    raise RuntimeError(f"the sampler gave sample {sample.index} of {sample.request_id}, unasked")
                open_.remove(sample.index)
                row = to_row(make_row(request, sample))
                kept.add(sample.request_id, sample.index, sample.completion_tokens, sample.reason, row)
                bar.advance(1)
                others.look(bar)
        finally:
            stream.close()
    for request, open_ in waited.values():
        if open_:
            given = len(request.indices) - len(open_)
            raise RuntimeError(f"the sampler gave {given} of {len(request.indices)} samples of {request.id}")
    work.processes.wait()
    others.look(bar, now=True)


def _stream(sampler: Sampler, requests: list[Request]) -> Generator[Sample, None, None]:
    """What the sampler gives; it never sees a request that would stop it, and with it all others."""
    readable = []
    for request in requests:
        if fault := request_fault(request):
            yield from refuse(request, fault)
        else:
            readable.append(request)
    yield from sampler.sample(readable)


@contextmanager
def _journal(path: Path, about: str) -> Iterator[Journal]:
    kept = Journal(path, about)
    try:
        yield kept
    finally:
        kept.close()


class _Others:
    """What the other processes have kept since the start, for the one progress bar of the first."""

    def __init__(self, folder: Path, work: Workspace) -> None:
        ranks = range(1, work.processes.count) if work.processes.first else ()
        self._paths = [folder / f"{rank}.sqlite" for rank in ranks]
        self._seen, self._looked = self._count(), time.monotonic()

    def _count(self) -> int:
        return sum(journal.count(path) for path in self._paths if path.exists())

    def look(self, bar: Progress, now: bool = False) -> None:
        if self._paths and (now or time.monotonic() - self._looked >= _LOOK_EVERY):
            self._looked, total = time.monotonic(), self._count()
            bar.advance(total - self._seen)
            self._seen = total


def _check_complete(known: dict[str, set[int]], counts: dict[str, int]) -> None:
    for name, n in counts.items():
        if known.get(name) != set(range(n)):
            raise RuntimeError(f"there are {len(known.get(name, ()))} of {n} samples of {name}")
    if extra := known.keys() - counts.keys():
        raise RuntimeError(f"there are samples of {len(extra)} requests that nobody made, such as {min(extra)}")


def _forget(rows: Rows, folder: Path, work: Workspace) -> None:
    """Drop the journals: where every request was refused, the next try has settings with which they may be drawn."""
    rows.close()
    work.processes.wait()  # until all have read them
    if work.processes.first:
        for path in _files(folder):
            journal.remove(path)


def _quarantine(refused: dict[str, str], requests: int, label: str, work: Workspace) -> None:
    if not refused:
        return
    first = min(refused)
    logger.warning(
        "%s: %d of %d requests cannot be sampled and are left out (all of them: quarantine.parquet); %s: %s",
        *(label, len(refused), requests, first, refused[first]),
    )
    work.quarantine([Quarantined(name, reason) for name, reason in sorted(refused.items())])
