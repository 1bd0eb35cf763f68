"""Connecting a process to a Ray cluster, and what room there is in it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from rollouts.sampling.args import RayArgs
from rollouts.sampling.protocol import SamplingError

_KNOCK = 10.0  # seconds in which the cluster's head has to answer
_STORE = 128 * 2**20  # bytes: only prompts and texts pass through the object store
_standing: list[object] = []  # who needs the Ray that was started or connected to here: the last of them ends it


def connect(holder: object, pool: RayArgs) -> None:
    """Connect this process to the cluster, or start Ray on this machine alone, unless it is connected already; it
    stays so until `holder` disconnects, and whoever else was given it.

    Raises:
        ValueError: no cluster answers at the address.
    """
    if ray.is_initialized():
        if _standing:
            _standing.append(holder)
        return
    address = pool.address or os.environ.get("RAY_ADDRESS") or "local"
    # such an error of work that was cancelled is nobody's any more
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    options = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        if address not in ("auto", "local"):
            knock(address)
        with keep_sigterm():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except OSError as error:
        raise ValueError(f"no Ray cluster answers at sampler.ray.address={address}: {error}") from error
    _standing.append(holder)


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the program's, and with it another exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def knock(address: str) -> None:
    """Raise where nobody listens at host:port. Ray itself would try for minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal():
        raise ValueError(f"sampler.ray.address must be auto, local or host:port, not {address!r}")
    socket.create_connection((host, int(port)), timeout=_KNOCK).close()


def disconnect(holder: object) -> None:
    """End Ray when nothing stands any more on what was started here."""
    if holder in _standing:
        _standing.remove(holder)
        if not _standing:
            ray.shutdown()


def count_room(pool: RayArgs) -> int:
    """How many actors the living nodes could hold, were nothing else there."""
    room = 0
    for node in ray.nodes():
        needs = {"CPU": pool.cpus, "GPU": pool.gpus}
        # 1.0 // 0.1 is 9
        fits = [int(node["Resources"].get(kind, 0) / need + 1e-6) for kind, need in needs.items() if need]
        room += min(fits, default=pool.actors) if node["Alive"] else 0
    return room


def check_hope(pool: RayArgs) -> None:
    """Raise SamplingError where no actor can come any more, however long one waits."""
    own = ray.get_runtime_context().get_node_id()
    if not any(node["Alive"] and node["NodeID"] == own for node in ray.nodes()):
        raise SamplingError("Ray's processes on this machine are gone, and with them all actors that were started here")
    if not count_room(pool):
        raise SamplingError("no node of the Ray cluster is left that could hold an actor")
