"""Sampling with vLLM's offline engine: requests are handed over a bounded number at a time, so that the engine is
always full and memory stays flat, and each sample is given as it ends.

The n samples of a prompt are one request of the engine, which seeds child i with seed + i; prompts and prefixes that
were read before are found in its cache. Starting and ending the engine is in `rollouts/backends/vllm/engine.py`.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from rollouts.backends.vllm.engine import Watch, check_lora, prepare, start_engine
from rollouts.sampling.policies import load_tokenizer
from rollouts.sampling.protocol import (
    SEEDS,
    Request,
    Sample,
    SamplingError,
    end_tokens,
    fill,
    read_requests,
    split_samples,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast
    from vllm import LLMEngine, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput

    from rollouts.sampling.args import SamplerArgs

_ENDING = 60.0  # seconds after which the engine's processes are killed; ending takes them about 5


@dataclass
class EngineCall:
    """One request of the engine: it draws the samples `indices` of one of ours, the first of them with `seed`."""

    request: Request
    indices: Sequence[int]
    seed: int
    prompt: list[int]
    parts: dict[int, list[CompletionOutput]] = field(default_factory=dict)

    def sample(self, child: int) -> Sample:
        """The sample that the parts of a child make, when the last has come.

        Raises:
            SamplingError: it did not end as a text ends.
        """
        parts, index = self.parts.pop(child), self.indices[child]
        reason = parts[-1].finish_reason
        if reason not in ("stop", "length"):
            raise SamplingError(f"vLLM ended sample {index} of request {self.request.id} with {reason!r}")
        ids = tuple(token for part in parts for token in part.token_ids)
        entries = [entry for part in parts for entry in part.logprobs or ()]
        return Sample(
            request_id=self.request.id,
            index=index,
            text="".join(part.text for part in parts),
            finish_reason=reason,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(ids),
            seed=(self.seed + child) % SEEDS,
            token_ids=ids,
            logprobs=tuple(entry[token].logprob for token, entry in zip(ids, entries, strict=True)) if entries else (),
        )


def calls(request: Request, prompt: list[int]) -> list[EngineCall]:
    """The engine's requests for the samples that are wanted: one for all n, or one each for some of them."""
    # vLLM refuses n > 1 where nothing is drawn
    return [EngineCall(request, *part, prompt) for part in split_samples(request, request.temperature > 0)]


def sampling_params(request: Request, n: int, seed: int, ends: Sequence[int] = ()) -> SamplingParams:
    """vLLM's names for the settings of a request, which the tokens `ends` end beside the policy's own.

    Raises:
        ValueError: vLLM does not sample with such settings (temperatures above 2).
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import RequestOutputKind

    try:
        return SamplingParams(
            n=n,
            seed=seed,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            stop=list(request.stop),
            stop_token_ids=list(ends),
            logprobs=0 if request.logprobs else None,  # of the token drawn, and of none of the likeliest
            # with all of a request's samples together, the first would wait for the last
            output_kind=RequestOutputKind.DELTA,
        )
    except VLLMValidationError as error:
        raise ValueError(f"request {request.id!r}: vLLM does not sample so: {error}") from error


class VLLMSampler:
    """Samples a policy, or a LoRA adapter of it, with an engine of its own.

    Of the `prompt_tokens` of all samples given so far, `cached_tokens` were found in the engine's cache.
    """

    def __init__(
        self, engine: LLMEngine, watch: Watch, tokenizer: PreTrainedTokenizerFast, args: SamplerArgs, lora: str | None
    ) -> None:
        self.engine: LLMEngine | None = engine
        self.watch, self.tokenizer, self.args = watch, tokenizer, args
        self.limit: int = engine.model_config.max_model_len
        self.vocabulary: int = engine.model_config.get_vocab_size()
        # as many again wait in the engine as it decodes, so that a row that ends is followed at once
        self.room: int = 2 * engine.vllm_config.scheduler_config.max_num_seqs
        self.promise = _promise(engine)
        self.prompt_tokens = self.cached_tokens = 0
        self._under_way: dict[str, EngineCall] = {}
        self._names = map(str, count())
        atexit.register(self.close)  # before multiprocessing's own, which waits for the engine's processes
        self.lora = self._add_adapter(lora)

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield each sample as it ends. The seed of sample i is that of the request's first sample plus i.

        Raises:
            SamplingError: the engine has failed; it is then closed.
            ValueError: a request has settings with which vLLM does not sample.
            RuntimeError: samples of another call are still being read.
        """
        if self._under_way:
            raise RuntimeError("one call of sample at a time: close the other's iterator first")
        read = read_requests(requests, self.args, self.tokenizer, self.limit, self.vocabulary)
        waiting = chain.from_iterable([one] if isinstance(one, Sample) else calls(*one) for one in read)
        rows = 0
        try:
            while True:
                while rows < self.room and (one := next(waiting, None)) is not None:
                    if isinstance(one, Sample):
                        yield one
                    else:
                        rows += len(one.indices)
                        self._hand_over(one)
                if not self._under_way:
                    break
                for sample in self._step():
                    rows -= 1
                    yield sample
        finally:
            self._abort()

    def close(self) -> None:
        """End the engine and its processes. A second call does nothing."""
        engine, self.engine = self.engine, None
        if engine is not None:
            atexit.unregister(self.close)
            engine.engine_core.shutdown(timeout=_ENDING)
            self.watch.end()

    def _hand_over(self, call: EngineCall) -> None:
        from vllm.inputs.engine import tokens_input

        ends = end_tokens(self.tokenizer, call.request)
        name, params = next(self._names), sampling_params(call.request, len(call.indices), call.seed, ends)
        with self._inside() as engine:
            self._under_way[name] = call
            engine.add_request(name, tokens_input(call.prompt), params, lora_request=self.lora)

    def _step(self) -> Iterator[Sample]:
        """Wait for what the engine gives next, and yield the samples that end with it."""
        with self._inside() as engine:
            outputs = engine.step()
        for output in outputs:
            call = self._under_way[output.request_id]
            if output.finished:
                del self._under_way[output.request_id]
            for part in output.outputs:
                call.parts.setdefault(part.index, []).append(part)
                if part.finish_reason is not None:
                    self.prompt_tokens += len(call.prompt)
                    self.cached_tokens += output.num_cached_tokens or 0
                    yield call.sample(part.index)

    def _abort(self) -> None:
        under_way, self._under_way = list(self._under_way), {}
        if under_way and self.engine is not None:
            with self._inside() as engine:
                engine.abort_request(under_way)

    @contextmanager
    def _inside(self) -> Iterator[LLMEngine]:
        """What is broken off inside the engine, by an error or by Ctrl-C, leaves it in no known state: it is ended."""
        from vllm.exceptions import VLLMError

        if self.engine is None:
            raise SamplingError("the sampler is closed")
        whole = False
        try:
            yield self.engine
            whole = True
        except (VLLMError, RuntimeError) as error:
            raise SamplingError(f"vLLM has failed: {error or type(error).__name__}") from error
        finally:
            if not whole:
                self.close()

    def _add_adapter(self, folder: str | None) -> LoRARequest | None:
        from vllm.lora.request import LoRARequest

        if folder is None:
            return None
        adapter = LoRARequest("adapter", 1, folder)
        with self._inside() as engine:
            try:
                engine.add_lora(adapter)
            except Exception as error:  # it raises no narrower one
                raise SamplingError(f"vLLM cannot read the adapter {folder}: {error}") from error
        return adapter


def _promise(engine: LLMEngine) -> str:
    import vllm

    dtype = str(engine.model_config.dtype).removeprefix("torch.")
    kind = engine.vllm_config.device_config.device_type
    head = f"vLLM {vllm.__version__} on {kind} in {dtype}, each sample seeded by itself: "
    if (kind, dtype) == ("cpu", "float32"):
        return head + "the same texts in whatever order, company and parts they are drawn, as far as was measured"
    return head + "texts may differ where rounding, which depends on the rows beside a row, moves a draw"


def load(policy: str, args: SamplerArgs) -> VLLMSampler:
    """Start an engine for a policy's folder, with the settings `args.vllm`.

    Raises:
        ValueError: vLLM is not installed, the folder lacks something, or settings and machine do not fit together.
        SamplingError: vLLM does not start.
    """
    # what is wrong is said before the minute that the engine takes
    prepare()
    check_lora(args.vllm)
    tokenizer = load_tokenizer(policy)
    sampling_params(fill(Request("of sampler", ""), args), n=1, seed=0)
    engine, watch = start_engine(policy, args)
    return VLLMSampler(engine, watch, tokenizer, args, args.vllm.lora)
