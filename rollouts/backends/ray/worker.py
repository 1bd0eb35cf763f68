"""What lives in each actor of the backend ray: the inner sampler, and what this node sees of the policy's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ray

from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, Sample, Sampler, load_sampler
from stages.files import files_in


class Worker:
    """What lives in an actor: the inner sampler."""

    def __init__(self, threads: int) -> None:
        # read when torch is imported, which is later; by default every actor takes all cores
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.sampler: Sampler | None = None

    def open(self, policy: str, args: SamplerArgs, seen: dict[str, dict[str, int]]) -> tuple[str, str]:
        """Open the policy; return the inner sampler's promise and this node. `seen` is what the driver sees of each
        folder.

        Raises:
            ValueError: this node does not see a folder as the driver does, or it is not a policy's.
        """
        node = ray.util.get_node_ip_address()
        for folder, files in seen.items():
            here = list_files(folder)
            if here != files:
                wrong = sorted(name for name in here.keys() | files if here.get(name) != files.get(name))
                raise ValueError(
                    f"node {node} does not see {folder} as the driver does: "
                    f"{', '.join(wrong[:3])} differ; every node must see the same files (a shared file system)"
                )
        self.sampler = load_sampler(policy, args)
        return self.sampler.promise, node

    def sample(self, requests: list[Request]) -> Iterator[Sample]:
        """Yield the samples of a chunk until there is no more or the driver wants no more."""
        context = ray.get_runtime_context()
        with closing(self.sampler.sample(requests)) as samples:
            for sample in samples:
                if context.is_canceled():
                    return
                yield sample

    def close(self) -> None:
        """Give back what the sampler holds: killed, its processes might live on and keep a GPU's memory."""
        if self.sampler is not None:
            self.sampler.close()


def list_files(folder: str) -> dict[str, int]:
    """The files below a folder and their sizes, by relative name; hidden ones left out, as in its key."""
    found = ((path.relative_to(folder), path) for path in files_in(Path(folder)))
    return {
        name.as_posix(): path.stat().st_size
        for name, path in found
        if not any(part.startswith(".") for part in name.parts)
    }
