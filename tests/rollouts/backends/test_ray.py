"""Sampling over a Ray cluster of several nodes on this machine: the contract, and workers and nodes that are killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rollouts.sampling.args import RayArgs, SamplerArgs
from rollouts.sampling.protocol import Request, Sample, Sampler, SamplingError, load_sampler
from tests.rollouts.backends.contract import SamplerContract, by_name, questions, sampler_args, student, texts

ray = pytest.importorskip("ray")
from rollouts.backends.ray.worker import Worker  # noqa: E402

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[3]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
HEAD = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# a dead node is noticed within two seconds, not half a minute
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """What Ray's processes inherit: they find this package, and do not read a token from the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield patch


@pytest.fixture(scope="module")
def cluster(environment: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that holds no actor, and two nodes that hold one each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=HEAD | {"_system_config": HEALTH})
    for _ in range(2):
        cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def ray_args(cluster: Cluster, backend: str = "scripted", **settings: Any) -> SamplerArgs:
    pool = {"address": cluster.address, "actors": 2, "chunk": 4} | settings
    return sampler_args(backend="ray", ray=RayArgs(backend=backend, **pool))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "script.json").write_text(json.dumps({"Q: ?\n": [f"text {n} of\n#### {n}" for n in range(50)]}))
    return str(folder)


def many(count: int = 200, n: int = 3, **settings: Any) -> list[Request]:
    return [Request(f"m{i}", "Q: ?\n", n=n, **settings) for i in range(count)]


def ask(sampler: Any, question: Any) -> list[Any]:
    """What a function of the worker gives in each actor's process, once that has opened the policy."""
    return ray.get([a.__ray_call__.remote(question) for a in (*sampler.ready, *sampler.opening.values())])


def place(worker: Worker) -> tuple[str, int]:
    return ray.get_runtime_context().get_node_id(), os.getpid()


def kill_node(cluster: Cluster, node: Any, process: int) -> None:
    """As a power cut would: left to itself, an actor's process lives a moment longer than its node, and works on."""
    cluster.remove_node(node, allow_graceful=False)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


class TestRay(SamplerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, cluster: Cluster) -> Iterator[Sampler]:
        sampler = load_sampler(student(), ray_args(cluster, "hf"))
        yield sampler
        sampler.close()

    def test_the_texts_are_the_inner_backend_s(self, opened, wanted) -> None:
        with closing(load_sampler(student(), sampler_args(backend="hf", device="cpu"))) as inner:
            requests = [Request(f"r{i}", prompt, n=3) for i, prompt in enumerate(questions())]
            assert texts(by_name(inner.sample(requests))) == texts(wanted)
            assert opened.promise.startswith(inner.promise)

    def test_a_killed_process_loses_and_doubles_nothing(self, opened) -> None:
        requests = [Request(f"m{i}", questions()[i % 6], n=3, max_tokens=8) for i in range(100)]
        undisturbed = texts(by_name(opened.sample(requests)))
        found: list[Sample] = []
        for sample in opened.sample(requests):
            found.append(sample)
            if len(found) == 30:
                os.kill(ask(opened, place)[0][1], signal.SIGKILL)
        assert opened.lost == 1
        assert texts(by_name(found)) == undisturbed


def test_a_killed_process_and_a_lost_node_lose_and_double_nothing(cluster: Cluster, script: str) -> None:
    """One actor's process is killed, then the node of another, with hundreds of requests to come."""
    undisturbed = {(f"m{i}", k): (f"text {k} of\n#### {k}", "stop", 4) for i in range(500) for k in range(3)}
    doomed = cluster.add_node(**NODE)
    with closing(load_sampler(script, ray_args(cluster, actors=3))) as sampler:
        places = dict(ask(sampler, place))
        assert len(places) == 3 and doomed.node_id in places
        process = next(pid for node, pid in places.items() if node != doomed.node_id)
        found: list[Sample] = []
        for sample in sampler.sample(many(500)):
            found.append(sample)
            if len(found) == 40:
                os.kill(process, signal.SIGKILL)
            if len(found) == 200:
                kill_node(cluster, doomed, places[doomed.node_id])
        # more where Ray sends a new actor to the node of which it does not know yet that it is dead
        assert sampler.lost >= 2
    assert texts(by_name(found)) == undisturbed


def test_where_no_node_is_left_it_does_not_wait_for_ever(cluster: Cluster, script: str, monkeypatch) -> None:
    monkeypatch.setattr("rollouts.backends.ray.sampler._PATIENCE", 0.2)
    large = cluster.add_node(**NODE | {"num_cpus": 2})
    found: list[Sample] = []
    with closing(load_sampler(script, ray_args(cluster, actors=1, cpus=2.0))) as sampler:
        ((_, process),) = ask(sampler, place)
        stream = sampler.sample(many())
        found.extend(itertools.islice(stream, 10))
        kill_node(cluster, large, process)
        with pytest.raises(SamplingError, match="no node of the Ray cluster is left"):
            found.extend(stream)
    assert 10 <= len(by_name(found)) < 600


def test_after_its_last_restart_it_says_what_was_lost(cluster: Cluster, script: str) -> None:
    with closing(load_sampler(script, ray_args(cluster, actors=1, restarts=1))) as sampler:
        found: list[Sample] = []
        with pytest.raises(SamplingError, match=r"sampling on node [\d.]+, .*restarts=1 are used up: Actor\w+Error"):
            for sample in sampler.sample(many()):
                found.append(sample)
                if len(found) in (1, 50):
                    for _, pid in ask(sampler, place):
                        os.kill(pid, signal.SIGKILL)
        assert 50 <= len(by_name(found)) < 600
        with pytest.raises(SamplingError, match="no actors left"):
            next(sampler.sample(many()))


def test_an_actor_that_fails_by_itself_is_replaced_too(cluster: Cluster, script: str, monkeypatch) -> None:
    class Failing(Worker):
        """As when a GPU fails: the process lives on, but what it holds is of no use any more."""

        def sample(self, requests: list[Request]) -> Iterator[Sample]:
            for count, sample in enumerate(super().sample(requests)):
                if count == 5:
                    raise RuntimeError("the device\nis gone")
                yield sample

    monkeypatch.setattr("rollouts.backends.ray.sampler.Worker", Failing)
    found: list[Sample] = []
    with closing(load_sampler(script, ray_args(cluster, restarts=3))) as sampler:
        with pytest.raises(SamplingError, match="restarts=3 are used up: RuntimeError: the device; is gone"):
            found.extend(sampler.sample(many()))
        assert sampler.lost == 3


def test_an_actor_that_never_opens_is_no_endless_loop(cluster: Cluster, script: str, monkeypatch) -> None:
    class Closed(Worker):
        def open(self, policy: str, args: SamplerArgs, seen: Any) -> str:
            raise MemoryError("no room for the weights")

    monkeypatch.setattr("rollouts.backends.ray.sampler.Worker", Closed)
    with pytest.raises(SamplingError, match=r"opening the policy, .*restarts=2 are used up: MemoryError"):
        load_sampler(script, ray_args(cluster, restarts=2))


def test_closing_the_stream_stops_what_is_under_way(cluster: Cluster, script: str, monkeypatch) -> None:
    class Waiting(Worker):
        """After three samples it waits until it is told to stop."""

        made, closed = 0, False

        def sample(self, requests: list[Request]) -> Iterator[Sample]:
            inner = self.sampler
            self.sampler = SimpleNamespace(sample=lambda requests: self.wait(inner.sample(requests)))
            yield from super().sample(requests)
            self.sampler = inner

        def wait(self, samples: Iterator[Sample]) -> Iterator[Sample]:
            try:
                for self.made, sample in enumerate(samples, 1):
                    yield sample
                    turns = itertools.repeat(ray.get_runtime_context(), 6000 if self.made == 3 else 0)
                    while (context := next(turns, None)) and not context.is_canceled():
                        threading.Event().wait(0.01)
            finally:
                self.closed = True

    monkeypatch.setattr("rollouts.backends.ray.sampler.Worker", Waiting)
    with closing(load_sampler(script, ray_args(cluster, actors=1))) as sampler:
        with closing(sampler.sample(many(2, n=100))) as stream:
            assert next(stream).index == 0
        ((made, closed),) = ask(sampler, lambda worker: (worker.made, worker.closed))
        assert closed and made <= 4


class Counted(list):
    """Requests that count how many of them were looked at."""

    taken = 0

    def __iter__(self) -> Iterator[Request]:
        for request in super().__iter__():
            self.taken += 1
            yield request


def test_only_a_few_chunks_are_under_way(cluster: Cluster, script: str) -> None:
    requests = Counted(many(5000, n=1))
    with closing(load_sampler(script, ray_args(cluster))) as sampler:
        read = 0
        for read, _ in enumerate(sampler.sample(requests), 1):
            assert requests.taken <= read + 2 * 2 * 4  # two chunks of four for each of two actors
        assert read == requests.taken == 5000


def test_an_error_of_the_user_s_comes_as_it_is(cluster: Cluster, script: str, monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as plain:
        load_sampler(str(tmp_path), sampler_args(backend="scripted"))
    with pytest.raises(ValueError) as found:
        load_sampler(str(tmp_path), ray_args(cluster))
    assert (type(found.value), str(found.value)) == (type(plain.value), str(plain.value))
    with closing(load_sampler(script, ray_args(cluster))) as sampler:
        with pytest.raises(ValueError, match=r"^the script has no text for request 'lost'$"):
            list(sampler.sample([*many(), Request("lost", "?")]))
        assert len(by_name(sampler.sample(many()))) == 600 and sampler.lost == 0
    monkeypatch.setattr("rollouts.backends.ray.sampler.list_files", lambda folder: {"script.json": 1, "other": 2})
    with pytest.raises(ValueError, match=r"^node [\d.]+ does not see .* other, script.json differ; .* shared file"):
        load_sampler(script, ray_args(cluster))


def test_a_pool_that_cannot_be_had_is_refused(cluster: Cluster, script: str) -> None:
    with pytest.raises(ValueError, match="room for 2 actors of cpus=1 and gpus=0"):
        load_sampler(script, ray_args(cluster, actors=3))
    with pytest.raises(ValueError, match="room for 0 actors of cpus=0 and gpus=1"):
        load_sampler(script, ray_args(cluster, cpus=0.0, gpus=1.0))
    assert not ray.is_initialized()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster answers at .*{closed}"):
            load_sampler(script, ray_args(cluster, address=closed))
    for address in ("ray://head:10001", "head"):
        with pytest.raises(ValueError, match=f"host:port, not '{address}'"):
            load_sampler(script, ray_args(cluster, address=address))


def test_ray_ends_with_the_last_sampler_that_stands_on_it(cluster: Cluster, script: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    one, two = (load_sampler(script, ray_args(cluster, actors=1)) for _ in range(2))
    assert signal.getsignal(signal.SIGTERM) is handler
    one.close()
    one.close()
    assert len(by_name(two.sample(many(10)))) == 30
    two.close()
    assert not ray.is_initialized()


def test_ray_that_was_there_stays(cluster: Cluster, script: str) -> None:
    ray.init(cluster.address, log_to_driver=False)
    load_sampler(script, ray_args(cluster, actors=2)).close()
    assert ray.is_initialized()
    # the actors are gone: there is room for others
    with closing(load_sampler(script, ray_args(cluster, actors=2))) as sampler:
        assert len(ask(sampler, place)) == 2
    ray.shutdown()


def test_without_a_cluster_it_starts_ray_on_this_machine(environment, script: str, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    args = sampler_args(backend="ray", ray=RayArgs(backend="scripted", cpus=1.0))
    with closing(load_sampler(script, args)) as sampler:
        assert len(by_name(sampler.sample(many(10)))) == 30
        assert ask(sampler, lambda worker: os.environ["OMP_NUM_THREADS"]) == ["1"]
    assert not ray.is_initialized()
