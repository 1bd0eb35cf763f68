"""How fast the backend vllm is beside the engine alone, and how much of the prompts it finds in the engine's cache.

    python -m experiments.bench.vllm_speed --problems 256 --samples 8 --rounds 5

Both arms use one engine, in turn, on the same prompts and seeds. `LLM.generate` gets all prompts at once and stores
nothing; the backend keeps each sample as it comes, as a stage does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.measure import make_parser, print_header, ratios, spread
from refine.students.shipped import find_start
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.collect import collect
from rollouts.sampling.protocol import Request, Sample, fill, prompt_ids, sample_seed
from stages.workspace import Untracked, Workspace

if TYPE_CHECKING:
    from vllm import LLM

    from rollouts.backends.vllm.sampler import VLLMSampler

ARMS = ("engine", "backend")


@dataclass
class VLLMBench:
    """Tokens a second by arm and round, and shares of prompt tokens found in the cache."""

    rates: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    hits_of_samples: float = 0.0  # where n samples share a prompt
    hits_of_continuations: float = 0.0  # where prefixes of samples are gone on from

    @property
    def ratios(self) -> list[float]:
        """Of the backend's rate to the engine's, round by round."""
        return ratios(self.rates["engine"], self.rates["backend"])


def store_rows(folder: Path, sampler: VLLMSampler, requests: Sequence[Request]) -> list[Sample]:
    """Draw all samples and keep each as a stage does."""
    samples = []

    def keep(_: Request, sample: Sample) -> Sample:
        samples.append(sample)
        return sample

    folder.mkdir()
    work = Workspace(folder, {}, Untracked())
    collect(sampler, requests, work, "backend", keep)
    work.close()
    return samples


def open_both(policy: str, args: SamplerArgs) -> tuple[LLM, VLLMSampler]:
    """The engine by itself, and the backend with this same engine."""
    from rollouts.backends.vllm.engine import Watch, device_kind, engine_settings, prepare
    from rollouts.backends.vllm.sampler import VLLMSampler
    from rollouts.sampling.policies import load_tokenizer

    prepare()
    from vllm import LLM

    llm = LLM(**engine_settings(policy, args, device_kind(args.device)))
    return llm, VLLMSampler(llm.llm_engine, Watch([], died=lambda: None), load_tokenizer(policy), args, lora=None)


def generate(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request]) -> dict[tuple[str, int], str]:
    """The texts of all samples by the engine alone."""
    from vllm import SamplingParams

    filled = [fill(request, sampler.args) for request in requests]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt_ids(sampler.tokenizer, request)} for request in filled],
        [
            SamplingParams(
                n=request.n,
                seed=sample_seed(request.seed, request.id, 0),
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
            )
            for request in filled
        ],
        use_tqdm=False,
    )
    pairs = zip(filled, outputs, strict=True)
    return {(request.id, part.index): part.text for request, output in pairs for part in output.outputs}


def bench(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request], rounds: int) -> VLLMBench:
    """Measure both arms in turn, each first in every other round, each with an empty cache.

    Raises:
        ValueError: the arms gave different texts, so that their times do not compare.
    """
    found = VLLMBench()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, rounds):  # the first warms up and does not count
            seconds: dict[str, float] = {}
            for arm in ARMS if number % 2 else reversed(ARMS):
                llm.llm_engine.reset_prefix_cache()
                read, hit = sampler.prompt_tokens, sampler.cached_tokens
                start = time.perf_counter()
                if arm == "engine":
                    texts = generate(llm, sampler, requests)
                else:
                    samples = store_rows(Path(folder) / f"round{number}", sampler, requests)
                seconds[arm] = time.perf_counter() - start
                if arm == "backend":
                    found.hits_of_samples = (sampler.cached_tokens - hit) / (sampler.prompt_tokens - read)
            if {(sample.request_id, sample.index): sample.text for sample in samples} != texts:
                raise ValueError("the backend and the engine gave different texts")
            if number >= 0:
                tokens = sum(sample.completion_tokens for sample in samples)
                for arm in ARMS:
                    found.rates[arm].append(tokens / seconds[arm])
        found.hits_of_continuations = continue_prefixes(llm, sampler, requests, samples)
    return found


def continue_prefixes(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request], samples: Sequence[Sample]) -> float:
    """Go on once from each proper prefix of the first sample of each request, in the order of a search for the first
    wrong step; the share of the tokens read that were in the cache, which is empty at the start."""
    prompts = {request.id: request.prompt for request in requests}
    chosen = sorted((s for s in samples if s.index == 0), key=lambda sample: sample.request_id)
    wanted = []
    for sample in chosen:
        lines = sample.text.splitlines(keepends=True)
        for steps in range(len(lines)):
            name, prefix = f"{sample.request_id}/{steps}", "".join(lines[:steps])
            wanted.append(Request(name, prompts[sample.request_id], prefix=prefix, n=4, max_tokens=32))
    llm.llm_engine.reset_prefix_cache()
    read, hit = sampler.prompt_tokens, sampler.cached_tokens
    for _ in sampler.sample(wanted):
        pass
    return (sampler.cached_tokens - hit) / (sampler.prompt_tokens - read)


def lines_of(found: VLLMBench) -> list[str]:
    """What was measured, in words."""
    lines = [f"{arm:8} {spread(rates, ',.0f')} tokens a second" for arm, rates in found.rates.items()]
    lines.append(f"backend / engine: {spread(found.ratios, '.3f')} in {len(found.ratios)} rounds")
    lines.append(f"prompt tokens found in the cache: n samples {found.hits_of_samples:.1%}")
    lines.append(f"                                  continuations {found.hits_of_continuations:.1%}")
    return lines


def main() -> None:
    """Measure with the numbers that the command line names."""
    parser = make_parser(__doc__)
    parser.add_argument("--policy", default=find_start("shipped"))
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    problems = load_problems(ProblemArgs(split="test", limit=asked.problems))
    requests = [Request(problem.id, render_prompt(problem.question), n=asked.samples) for problem in problems]
    llm, sampler = open_both(asked.policy, SamplerArgs(backend="vllm", max_tokens=asked.max_tokens))
    try:
        print_header(
            f"{asked.policy}: {len(requests)} prompts, {asked.samples} samples each of at most {asked.max_tokens} "
            f"tokens, {asked.rounds} rounds in turns, medians",
            ("torch", "transformers", "vllm"),
        )
        print("\n".join(lines_of(bench(llm, sampler, requests, asked.rounds))), flush=True)
    finally:
        sampler.close()


if __name__ == "__main__":
    main()
