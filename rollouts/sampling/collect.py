"""Drawing the samples of requests so that none is lost: each is kept as it comes, and after a restart only what is
missing is drawn. Each process of a launch draws its shard of the requests and has its own journal.

Left out: how a backend samples (`rollouts/sampling/protocol.py`), and the journal itself (`stages/journal.py`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Generic, TypeVar

from rollouts.sampling.budget import Budget, BudgetSpent
from rollouts.sampling.protocol import REFUSED, Request, Sample, Sampler, refuse, request_fault
from stages.files import StoreError
from stages.journal import Entry, Journal, JournalIndex
from stages.rows import from_row, to_row
from stages.workspace import Quarantined, Workspace

T = TypeVar("T")
logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 1.0  # between two looks at what all processes have kept


class RowsByRequest(Generic[T]):
    """The rows that were made of samples, read from disk as they are asked for: `rows[request_id]` has one a sample, in
    the order of their numbers."""

    def __init__(self, index: JournalIndex, cls: type[T], keys: Mapping[str, str]) -> None:
        self._index, self._cls, self._keys = index, cls, keys

    def __getitem__(self, request_id: str) -> list[T]:
        rows, folder = list(self._index.rows(self._keys[request_id])), self._index.folder
        try:
            return [from_row(self._cls, row) for row in rows]
        except ValueError as error:
            raise StoreError(
                f"{folder}: a row kept for {request_id}: {error}; delete the folder to make its rows anew"
            ) from error

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def close(self) -> None:
        """Free files and memory, where a stage collects many times; it happens anyhow when the stage ends."""
        self._index.close()


def collect(
    sampler: Sampler,
    requests: Sequence[Request],
    work: Workspace,
    label: str,
    make_row: Callable[[Request, Sample], T] = lambda _, sample: sample,
    cls: type[T] = Sample,
    need_some: bool = True,
    budget: Budget | None = None,
) -> RowsByRequest[T]:
    """Draw every sample of every request that has not been kept yet; old and new ones come back together.

    `label` names this piece of work within its stage; what stands before a slash is common to several pieces.
    `make_row` turns a sample into the record (of class `cls`) to keep, such as a graded rollout; without it the sample
    itself is kept. A sample that was refused has a row too, and is drawn again after a restart. Requests with refused
    samples only, and single refused samples of others (`REQUEST#3`), are named in the quarantine. All processes get all
    rows. With a `budget`, for which rows must have `prompt_tokens` and `completion_tokens`, what may not fit into it is
    not asked for; each process has a part of it.

    Raises:
        ValueError: two requests have the same id, an id is no text, `n` is under 1, or, with `need_some`, every sample
            of every request was refused (with the first reason).
        BudgetSpent: the budget is spent before all is drawn; what was drawn is kept.
        RuntimeError: the sampler gave something else than it was asked for.
        StoreError: a row cannot be kept (a full disk), or a journal cannot be read.
    """
    keys = _keys(requests, cls)
    folder = work.unfinished / label.replace("/", "-")
    index = work.keep_open(JournalIndex(folder, {keys[request.id]: request.n for request in requests}))
    index.update()
    work.processes.wait()  # nobody writes while another still reads
    missing = [_missing(request, index.samples(keys[request.id])) for request in requests]
    left = sum(len(request.indices) for request in missing)
    kept = sum(request.n for request in requests) - left
    _log_kept(index, label, kept, left, work)
    # by the request's place in the list, so that a shard is the same whatever is missing
    shard = missing[work.processes.rank :: work.processes.count]
    if budget is not None:
        for row in (row for key in keys.values() for row in index.rows(key)):
            budget.pay(row["prompt_tokens"], row["completion_tokens"])
        budget.divide(work.processes.count)
    with work.progress(left, "samples", label, kept) as bar:

        def show() -> None:
            """Show what all processes have kept."""
            bar.advance(index.update())

        if shard := [request for request in shard if request.indices]:
            with closing(Journal(folder / f"{work.processes.rank}.jsonl")) as journal:
                for part in [shard] if budget is None else budget.parts(shard):
                    _draw(sampler, part, keys, journal, make_row, show if work.processes.first else None, budget)
        work.processes.wait()
        show()
    kept, wanted = sum(len(index.samples(key)) for key in keys.values()), sum(request.n for request in requests)
    if budget is not None and kept < wanted:
        raise BudgetSpent(
            f"{label}: the budget is spent ({budget.limits}): {kept} of {wanted} samples are kept; the same command "
            "with a larger one goes on from there"
        )
    for request in requests:
        if len(found := index.samples(keys[request.id])) < request.n:
            raise RuntimeError(f"there are {len(found)} of {request.n} samples of {request.id}")
    work.spend(index.tokens)
    work.note(f"promise of {label.partition('/')[0]}", sampler.promise)
    _quarantine(index, keys, label, work, need_some)
    return RowsByRequest(index, cls, keys)


def _keys(requests: Sequence[Request], cls: type) -> dict[str, str]:
    """By request id, a hash of all that a sample of the request and its row depend on: not on `n`, nor on others."""
    keys = {}
    for request in requests:
        name = request.id
        if not isinstance(name, str) or name.encode(errors="replace").decode() != name or request.n < 1:
            raise ValueError(f"a request needs a text as its id and n >= 1, not {name!r} and {request.n}")
        asked = repr((replace(request, n=1, wanted=None), cls.__name__, list(cls.__dataclass_fields__)))
        keys[name] = hashlib.sha256(asked.encode()).hexdigest()[:16]
    if len(keys) != len(requests):
        raise ValueError("two requests have the same id")
    return keys


def _missing(request: Request, known: Mapping[int, str | None]) -> Request:
    """What is to be drawn: also what was refused, since settings or servers may be others now."""
    return replace(request, wanted=tuple(i for i in request.indices if known.get(i, "not there") is not None))


def _log_kept(index: JournalIndex, label: str, kept: int, left: int, work: Workspace) -> None:
    if kept and (left or "/" not in label):  # of many pieces only the one that is gone on with
        logger.info("%s: %d samples are there from before, %d to go", label, kept, left)
    if work.processes.first:
        for fault, (count, first) in index.left_out.items():
            logger.warning("%s: %d kept samples are not used: %s; the first: %s", label, count, fault, first)


def _draw(
    sampler: Sampler,
    requests: Sequence[Request],
    keys: Mapping[str, str],
    journal: Journal,
    make_row: Callable[[Request, Sample], Any],
    show: Callable[[], None] | None,
    budget: Budget | None,
) -> None:
    """Draw all that these requests want, and keep each sample as it comes; call `show` about once a second."""
    waiting = {request.id: (request, set(request.indices)) for request in requests}
    shown = time.monotonic()
    with closing(_stream(sampler, requests)) as stream:
        for sample in stream:
            request, numbers = waiting.get(sample.request_id, (None, set()))
            if sample.index not in numbers:
                raise RuntimeError(f"the sampler gave sample {sample.index} of {sample.request_id}, unasked")
            numbers.remove(sample.index)
            reason = sample.reason or "no reason given" if sample.finish_reason == REFUSED else None
            if budget is not None:
                budget.pay(sample.prompt_tokens, sample.completion_tokens)
            row = to_row(make_row(request, sample))
            journal.add(Entry(request.id, keys[request.id], sample.index, sample.completion_tokens, reason, row))
            if show and time.monotonic() - shown >= _PROGRESS_SECONDS:
                show()
                shown = time.monotonic()
    for request, numbers in waiting.values():
        if numbers:
            given = len(request.indices) - len(numbers)
            raise RuntimeError(f"the sampler gave {given} of {len(request.indices)} samples of {request.id}")


def _stream(sampler: Sampler, requests: Sequence[Request]) -> Generator[Sample, None, None]:
    """What the sampler gives; it never sees a request that would stop it, and with it all others."""
    readable = []
    for request in requests:
        if fault := request_fault(request):
            yield from refuse(request, fault)
        else:
            readable.append(request)
    yield from sampler.sample(readable)


def _quarantine(index: JournalIndex, keys: Mapping[str, str], label: str, work: Workspace, need_some: bool) -> None:
    """Name what was refused: whole requests, and single samples of others."""
    whole: dict[str, str] = {}
    single: dict[str, str] = {}
    for name, key in keys.items():
        reasons = index.samples(key)
        if all(reason is not None for reason in reasons.values()):
            whole[name] = reasons[0]
        else:
            single |= {f"{name}#{i}": reason for i, reason in reasons.items() if reason is not None}
    if need_some and whole and len(whole) == len(keys):
        first = min(whole)
        raise ValueError(f"{label}: none of the {len(keys)} requests can be sampled; {first}: {whole[first]}")
    for refused, what in (
        (whole, f"of {len(keys)} requests cannot be sampled"),
        (single, "samples were refused, beside others of the same requests that came"),
    ):
        if refused:
            first = min(refused)
            logger.warning(
                "%s: %d %s; they are left out (all of them: quarantine.parquet); %s: %s",
                *(label, len(refused), what, first, refused[first]),
            )
            work.quarantine([Quarantined(name, reason) for name, reason in sorted(refused.items())])
