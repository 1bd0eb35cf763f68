"""The same sampling over a Ray cluster: a pool of actors, each with a sampler of another backend in it.

Requests go out in chunks and samples stream back. What a lost actor or node still owed is done by another, and an
actor is started in its place. `policy` is a folder that every node must see: a shared file system.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rollouts.backends.ray.cluster import check_hope, connect, count_room, disconnect
from rollouts.backends.ray.worker import Worker, list_files
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sample, SamplingError
from stages.text import one_line

logger = logging.getLogger(__name__)

_UNDER_WAY = 2  # chunks of an actor: the next is there when one is done
_PATIENCE = 5.0  # seconds without news after which the cluster is asked whether an actor can come at all
_GRACE = 30.0  # seconds that actors have to close what they hold, before they are killed


@dataclass
class _Chunk:
    """Requests that an actor works on; `owed` are the numbers of the samples that have not come, by request."""

    actor: Any
    requests: list[Request]
    owed: dict[str, set[int]]

    def rest(self) -> Iterator[Request]:
        for request in self.requests:
            if self.owed[request.id]:
                yield replace(request, wanted=tuple(sorted(self.owed[request.id])))


class _Todo:
    """What no actor works on: requests that have not gone out, and before them what lost actors owed."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.fresh, self.left, self.back = iter(requests), len(requests), deque()

    def __len__(self) -> int:
        return self.left + len(self.back)

    def take(self, most: int) -> list[Request]:
        taken = [self.back.popleft() for _ in range(min(most, len(self.back)))]
        fresh = list(islice(self.fresh, most - len(taken)))
        self.left -= len(fresh)
        return taken + fresh


class RaySampler:
    """Actors that sample, `opening` or `ready`; `lost` counts those that were replaced."""

    def __init__(self, policy: str, args: SamplerArgs) -> None:
        pool = self.pool = args.ray
        if pool.backend == "vllm" and args.vllm.tensor_parallel_size > max(1, pool.gpus):
            raise ValueError(
                f"an actor of sampler.ray.gpus={pool.gpus:g} is too small for "
                f"sampler.vllm.tensor_parallel_size={args.vllm.tensor_parallel_size}"
            )
        # a relative path means another folder in an actor
        self.policy, lora = os.path.abspath(policy), args.vllm.lora and os.path.abspath(args.vllm.lora)
        # what the key of the results says; vLLM goes by its own build
        device = args.device if args.device != "auto" or pool.backend == "vllm" else "cuda" if pool.gpus > 0 else "cpu"
        self.inner = replace(args, backend=pool.backend, device=device, vllm=replace(args.vllm, lora=lora))
        self.seen = {folder: list_files(folder) for folder in (self.policy, lora) if folder}
        # Ray is not to restart them: it would not open the policy, and counts for each actor by itself
        options = {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self.actors = ray.remote(Worker).options(**options)
        self.opening: dict[ray.ObjectRef, Any] = {}
        self.ready: dict[Any, str] = {}  # actor -> its node
        self.lost = 0
        self.promise = ""

    def start(self) -> None:
        """Connect, start the actors, and wait for the first to have opened the policy.

        Raises:
            ValueError: there is no such cluster, no room in it, or the policy cannot be opened.
            SamplingError: actors were lost more often than `restarts`.
        """
        connect(self, self.pool)
        if (room := count_room(self.pool)) < self.pool.actors:
            raise ValueError(
                f"sampler.ray.actors={self.pool.actors}, but the Ray cluster has room for {room} actors of "
                f"cpus={self.pool.cpus:g} and gpus={self.pool.gpus:g}"
            )
        for _ in range(self.pool.actors):
            self._start_actor()
        while not self.ready:
            for opened in self._wait([]):
                self._welcome(opened)

    def sample(self, requests: Sequence[Request]) -> Generator[Sample, None, None]:
        """Yield the samples of all requests in the order in which they come.

        Raises:
            ValueError: what the inner sampler raises, or a node that opens the policy later does not see it.
            SamplingError: actors were lost more often than `restarts`, or no node is left for one.
        """
        todo, streams = _Todo(requests), {}
        try:
            while todo or streams:
                self._hand_out(todo, streams)
                for came in self._wait(list(streams)):
                    if came not in streams:
                        self._welcome(came)
                    elif (sample := self._read(came, streams, todo)) is not None:
                        yield sample
        finally:
            for stream in streams:
                ray.cancel(stream)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        if ray.is_initialized():
            closing = [actor.close.remote() for actor in self.ready]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=_GRACE)
            for actor in [*self.ready, *self.opening.values()]:
                ray.kill(actor)
        self.ready, self.opening = {}, {}
        disconnect(self)

    def _start_actor(self) -> None:
        actor = self.actors.remote(max(1, int(self.pool.cpus)))
        self.opening[actor.open.remote(self.policy, self.inner, self.seen)] = actor

    def _wait(self, streams: list[ray.ObjectRefGenerator]) -> list[Any]:
        """Streams with a next sample, and actors that have opened the policy or failed; empty for now if none."""
        awaited = [*streams, *self.opening]
        if not awaited:
            raise SamplingError("the Ray sampler has no actors left: it is closed, or lost them")
        came, _ = ray.wait(awaited, num_returns=1, timeout=_PATIENCE, fetch_local=False)
        if came:
            # as many as there are: asking anew for each sample would take longer the more actors there are
            came, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)
        elif not self.ready:
            check_hope(self.pool)
        return came

    def _welcome(self, opened: ray.ObjectRef) -> None:
        actor = self.opening.pop(opened)
        try:
            promise, node = ray.get(opened)
        except RayError as error:
            ray.kill(actor)
            raise_fault(error)
            self._replace("opening the policy", error)
        else:
            self.promise = f"{promise}; over Ray the same, where all nodes are of one kind"
            self.ready[actor] = node

    def _hand_out(self, todo: _Todo, streams: dict[ray.ObjectRefGenerator, _Chunk]) -> None:
        """Fill every actor up, one chunk each in turn; towards the end chunks get smaller, so that all end together."""
        busy = Counter(chunk.actor for chunk in streams.values())
        for held in range(_UNDER_WAY):
            for actor in [actor for actor in self.ready if busy[actor] <= held]:
                if not todo:
                    return
                requests = todo.take(min(self.pool.chunk, -(-len(todo) // self.pool.actors)))
                owed = {request.id: set(request.indices) for request in requests}
                stream = actor.sample.options(num_returns="streaming").remote(requests)
                streams[stream] = _Chunk(actor, requests, owed)
                busy[actor] += 1

    def _read(self, stream: ray.ObjectRefGenerator, streams: dict[Any, _Chunk], todo: _Todo) -> Sample | None:
        """The next sample of a stream; None, and the stream is forgotten, if it has ended or its actor was lost."""
        chunk = streams[stream]
        try:
            sample = ray.get(next(stream))
        except StopIteration:
            del streams[stream]
            if rest := list(chunk.rest()):
                raise SamplingError(f"an actor forgot samples {rest[0].wanted} of {rest[0].id}") from None
            return None
        except RayError as error:
            del streams[stream]
            todo.back.extend(chunk.rest())
            raise_fault(error)
            if chunk.actor in self.ready:  # else its other chunk has said so
                node = self.ready.pop(chunk.actor)
                ray.kill(chunk.actor)
                self._replace(f"sampling on node {node}", error)
            return None
        chunk.owed[sample.request_id].remove(sample.index)
        return sample

    def _replace(self, doing: str, error: RayError) -> None:
        """Start another actor for one that was lost while `doing` something."""
        what = f"a Ray actor was lost {doing}"
        if self.lost == self.pool.restarts:
            raise SamplingError(
                f"{what}, and sampler.ray.restarts={self.lost} are used up: {in_words(error)}"
            ) from error
        self.lost += 1
        logger.warning("%s and is replaced (%d of %d): %s", what, self.lost, self.pool.restarts, in_words(error))
        self._start_actor()


def raise_fault(error: RayError) -> None:
    """Raise what the user has to mend as it was raised in the actor. Anything else is the actor's own failure."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, ValueError) and not isinstance(cause, SamplingError):
        raise cause from None


def in_words(error: Exception) -> str:
    """What went wrong, in one line."""
    cause = getattr(error, "cause", None) or error
    return one_line(f"{type(cause).__name__}: {cause}", 300)


def load(policy: str, args: SamplerArgs) -> RaySampler:
    """Open a policy's folder in every actor of the pool; returns when the first has opened it.

    Raises:
        ValueError: as `RaySampler.start` says.
    """
    sampler = RaySampler(policy, args)
    with ExitStack() as undo:
        undo.callback(sampler.close)
        sampler.start()
        undo.pop_all()
    return sampler
