"""How fast the backend vllm is beside the engine alone, and how much of the prompts it finds in the engine's cache.

    python -m experiments.bench.vllm_speed --problems 256 --samples 8 --rounds 5

Both arms use one engine, in turn, on the same prompts and seeds. `LLM.generate` gets all prompts at once and stores
nothing; the backend keeps each sample as it comes, as a stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from experiments.bench.measure import in_turns, make_parser, print_header, print_rates
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


def store_rows(folder: Path, sampler: VLLMSampler, requests: Sequence[Request]) -> list[Sample]:
    """Draw all samples and keep each as a stage does."""
    samples = []

    def keep(_: Request, sample: Sample) -> Sample:
        samples.append(sample)
        return sample

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


def generate(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request]) -> Iterator[tuple[str, int, str, int]]:
    """All samples by the engine alone: request, number, text and tokens of each."""
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
    for request, output in zip(filled, outputs, strict=True):
        for part in output.outputs:
            yield request.id, part.index, part.text, len(part.token_ids)


def bench(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request], rounds: int) -> None:
    """Measure both arms, each time with an empty cache, and print what was found.

    Raises:
        ValueError: the arms gave different texts, so that their times do not compare.
    """
    backends, engines = [], []  # the texts of each round
    kept: list[Sample] = []
    hits = 0.0

    def backend(number: int) -> int:
        nonlocal hits
        with TemporaryDirectory() as folder, cold_cache(llm, sampler) as found:
            kept[:] = store_rows(Path(folder), sampler, requests)
        hits = found()
        backends.append({(sample.request_id, sample.index): sample.text for sample in kept})
        return sum(sample.completion_tokens for sample in kept)

    def engine(number: int) -> int:
        with cold_cache(llm, sampler):
            made = list(generate(llm, sampler, requests))
        engines.append({(name, index): text for name, index, text, _ in made})
        return sum(tokens for *_, tokens in made)

    rates = in_turns({"backend": backend, "engine": engine}, rounds)
    if backends != engines:
        raise ValueError("the backend and the engine gave different texts")
    print_rates(rates)
    print(f"prompt tokens found in the cache: n samples {hits:.1%}")
    print(f"                                  continuations {continue_prefixes(llm, sampler, requests, kept):.1%}")


@contextmanager
def cold_cache(llm: LLM, sampler: VLLMSampler) -> Iterator[Callable[[], float]]:
    """Begin with an empty prefix cache; gives what share of the prompt tokens read since then was found there."""
    llm.llm_engine.reset_prefix_cache()
    read, hit = sampler.prompt_tokens, sampler.cached_tokens
    yield lambda: (sampler.cached_tokens - hit) / (sampler.prompt_tokens - read)


def continue_prefixes(llm: LLM, sampler: VLLMSampler, requests: Sequence[Request], samples: Sequence[Sample]) -> float:
    """Go on from each proper prefix of the first sample of each request, as a search for the first wrong step does: the
    share of the tokens read that were in the cache."""
    prompts = {request.id: request.prompt for request in requests}
    wanted = []
    for sample in sorted((s for s in samples if s.index == 0), key=lambda sample: sample.request_id):
        lines = sample.text.splitlines(keepends=True)
        for steps in range(len(lines)):
            name, prefix = f"{sample.request_id}/{steps}", "".join(lines[:steps])
            wanted.append(Request(name, prompts[sample.request_id], prefix=prefix, n=4, max_tokens=32))
    with cold_cache(llm, sampler) as found:
        for _ in sampler.sample(wanted):
            pass
    return found()


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
        bench(llm, sampler, requests, asked.rounds)
    finally:
        sampler.close()


if __name__ == "__main__":
    main()
