"""Settings of the backends that have any of their own; `SamplerArgs` holds one of each.

What changes speed but not texts is `runtime`, and no part of an artifact's key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rollouts.sampling.policies import device_class, dtype_name
from stages.checks import check_choices, check_least, check_range
from stages.hub import is_hub
from stages.stage import only_when, parent, resolved, runtime


@dataclass
class VLLMArgs:
    """The offline engine. Data parallelism is `launch.num_processes`: an engine a process, each with its own GPUs.

    `lora` is the folder of a LoRA adapter of the policy. `max_num_seqs` rows are decoded at once (None: vLLM decides).
    `max_model_len` bounds prompt and completion (None: the model's context).
    """

    lora: str | None = parent("train_policy", any_path=True, default=None)
    max_lora_rank: int = runtime(64)
    tensor_parallel_size: int = runtime(1)
    max_num_seqs: int | None = runtime(None)
    max_model_len: int | None = None
    gpu_memory_utilization: float = runtime(0.9)
    enforce_eager: bool = runtime(False)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_least(self, "sampler.vllm.", max_lora_rank=1, tensor_parallel_size=1, max_num_seqs=1, max_model_len=1)
        check_range(self, "sampler.vllm.", gpu_memory_utilization="(0, 1]")


OMITTABLE = ("n", "temperature", "top_p", "seed", "stop")


def _model_at_hosts(args: OpenAIArgs) -> str | None:
    return None if args.model is None else f"{args.model}@{args.hosts}"


@dataclass
class OpenAIArgs:
    """Servers that speak OpenAI's protocol, as one pool: `base_urls` all serve `model` (None: the policy's name).

    A model that only its server knows counts by its name and the hosts of the addresses.

    `api` is completions (prompts go as they are) or chat (those of prompt=chat go as messages, which the server puts
    into its template; any other is the one message of a user). `vllm` says that the
    servers are `vllm serve`, whose extensions (token ids, seeds for each of n samples) are then used. The key is read
    from the environment variable that `api_key_env` names. `concurrency` requests are under way at a time, over all
    servers; one that fails is tried `attempts` times, `timeout` seconds each.

    For servers that do not take what is sent to them: `omit` names parameters that are left out (n, temperature, top_p,
    seed, stop), `seed_bits` bounds the seeds, and `max_tokens_field` is what the limit of a completion is called (None:
    max_completion_tokens in a chat, else max_tokens).
    """

    base_urls: list[str] = field(default_factory=lambda: ["http://127.0.0.1:8000/v1"], metadata={"runtime": True})
    model: str | None = resolved(None, _model_at_hosts)
    api: str = "completions"
    vllm: bool = False
    omit: list[str] = field(default_factory=list)
    seed_bits: int = 63
    max_tokens_field: str | None = runtime(None)
    api_key_env: str = runtime("OPENAI_API_KEY")
    concurrency: int = runtime(64)
    attempts: int = runtime(8)
    timeout: float = runtime(600.0)

    @property
    def hosts(self) -> str:
        """The hosts of all addresses, in order, without their ports."""
        return ",".join(sorted({urlsplit(url).hostname or url for url in self.base_urls}))

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        for number, url in enumerate(self.base_urls):
            if any(mark in url for mark in "@?#"):  # before any message that shows the addresses
                raise ValueError(
                    f"sampler.openai.base_urls[{number}] holds a user name, password, query or fragment, which would "
                    "be recorded with the results; a key is read from the variable that api_key_env names"
                )
        if not self.base_urls or not all(url.startswith(("http://", "https://")) for url in self.base_urls):
            raise ValueError(f"sampler.openai.base_urls must be http(s) addresses, not {list(self.base_urls)}")
        check_choices(self, "sampler.openai.", api=("completions", "chat"))
        if unknown := set(self.omit) - set(OMITTABLE):
            raise ValueError(f"sampler.openai.omit takes {', '.join(OMITTABLE)}, not {', '.join(sorted(unknown))}")
        if self.vllm and {"seed", "stop"} & set(self.omit):
            raise ValueError("sampler.openai.omit: vllm serve takes seed and stop, and sampler.openai.vllm=true")
        if self.max_tokens_field is not None:
            check_choices(self, "sampler.openai.", max_tokens_field=("max_tokens", "max_completion_tokens"))
        check_least(self, "sampler.openai.", concurrency=1, attempts=1)
        check_range(self, "sampler.openai.", seed_bits="[8, 63]", timeout="(0, inf)")


@dataclass
class RayArgs:
    """A pool of Ray actors, each with a sampler of `backend` (hf, vllm, scripted) in it.

    `address` is the cluster's (None: RAY_ADDRESS, else a cluster of this machine alone). Each of `actors` gets
    `cpus` and `gpus`, and `chunk` requests at a time; an actor that dies is replaced `restarts` times in all.
    """

    backend: str = "hf"
    address: str | None = runtime(None)
    actors: int = runtime(1)
    cpus: float = runtime(1.0)
    gpus: float = runtime(0.0)
    chunk: int = runtime(64)
    restarts: int = runtime(8)

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_choices(self, "sampler.ray.", backend=("hf", "vllm", "scripted"))
        check_least(self, "sampler.ray.", actors=1, chunk=1, restarts=0)
        check_range(self, "sampler.ray.", cpus="[0, inf)", gpus="[0, inf)")


# name -> module with `load(policy: str, args: SamplerArgs) -> Sampler`; a new backend is one file and one line
BACKENDS = {
    "hf": "rollouts.backends.hf.sampler",
    "vllm": "rollouts.backends.vllm.sampler",
    "openai": "rollouts.backends.servers.sampler",
    "ray": "rollouts.backends.ray.sampler",
    "scripted": "rollouts.backends.scripted",
}


def _device(args: SamplerArgs) -> str:
    if args.backend == "ray" and args.device == "auto":  # its actors run elsewhere, on what they are given
        return "cuda" if args.ray.gpus > 0 else "cpu"
    return device_class(args.device)


def _dtype(args: SamplerArgs) -> str:
    return args.dtype if args.dtype != "auto" else dtype_name("auto", _device(args))


@dataclass
class SamplerArgs:
    """How to sample. `temperature` 0 is greedy; `max_tokens` bounds a completion, in the policy's tokens; a text ends
    before the first of the `stop` strings. `batch_size` rows are decoded at once by the backend hf."""

    backend: str = "hf"  #: hf, vllm, openai, ray or scripted
    temperature: float = 1.0  #: 0 is greedy
    top_p: float = 1.0
    max_tokens: int = 256  #: the longest completion
    stop: list[str] = field(default_factory=list)
    dtype: str = only_when(resolved("auto", _dtype), "engine", "hf", "vllm")
    batch_size: int = runtime(256)  #: rows decoded at once (hf)
    device: str = only_when(resolved("auto", _device), "engine", "hf", "vllm")
    vllm: VLLMArgs = only_when(field(default_factory=VLLMArgs), "engine", "vllm")
    openai: OpenAIArgs = only_when(field(default_factory=OpenAIArgs), "backend", "openai")
    ray: RayArgs = only_when(field(default_factory=RayArgs), "backend", "ray")

    @property
    def engine(self) -> str:
        """The backend that does the work: with Ray the one within its actors."""
        return self.ray.backend if self.backend == "ray" else self.backend

    def validate(self) -> None:
        """Raise ValueError naming the first setting out of range."""
        check_choices(self, backend=sorted(BACKENDS))
        check_range(self, temperature="[0, inf)", top_p="(0, 1]")
        check_least(self, max_tokens=1, batch_size=1)
        if not all(self.stop):
            raise ValueError(f"a stop string must not be empty: {list(self.stop)}")
        for one in (self.vllm, self.openai, self.ray):
            one.validate()


class Sampling:
    """What the arguments of stages that sample `policy` with `sampler` share."""

    policy: str
    sampler: SamplerArgs

    @property
    def served(self) -> str | None:
        """`MODEL@HOSTS` where `policy` is what servers call their model; None for a folder that can be read here."""
        if self.sampler.backend != "openai" or is_hub(self.policy) or Path(self.policy).is_dir():
            return None
        return f"{self.policy}@{self.sampler.openai.hosts}"
