"""In-process sampling of a Hugging Face causal LM, on one device.

The loop is in `decoding.py`, the model's cache in `slots.py`, drawing in `draw.py`, ends of texts in `rows.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import torch

from rollouts.backends.hf.attention import fold
from rollouts.backends.hf.decoding import Decoder
from rollouts.backends.hf.rows import Ending, Row
from rollouts.backends.hf.slots import windows
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import context_length, load_policy
from rollouts.sampling.protocol import Request, Sample, SamplingError, end_tokens, read_requests, sample_seed


class HFSampler:
    """Samples a causal LM on one device, `batch_size` rows at a time. It gives the model an attention of its own.

    Raises:
        ValueError: the model cannot be decoded in slots.
    """

    promise = (
        "the same texts, however requests are ordered, batched, split over processes and resumed, except where float "
        "rounding moves a draw across a boundary (the shipped student on a CPU: 0 of 24,000 texts in float32, 34 of "
        "800 in bfloat16)"
    )

    def __init__(self, model, tokenizer, args: SamplerArgs) -> None:
        windows(model)  # raises where the model cannot be sampled here
        fold(model)
        self.model, self.tokenizer, self.args = model, tokenizer, args
        ends = model.generation_config.eos_token_id if model.generation_config is not None else None
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.ends = {tokenizer.eos_token_id, *ends}
        self.limit, self.vocabulary = context_length(model), model.get_input_embeddings().weight.shape[0]

    def sample(self, requests: Sequence[Request]) -> Generator[Sample, None, None]:
        """Yield the samples of all requests, the longest prompts first (so that memory runs out at once or never).

        Raises:
            SamplingError: the policy's logits are not finite numbers, memory runs out, or the sampler is closed.
        """
        if self.model is None:
            raise SamplingError("this sampler is closed")
        groups: list[list[Row]] = []
        ends = set(self.ends)
        for one in read_requests(requests, self.args, self.tokenizer, self.limit, self.vocabulary):
            if isinstance(one, Sample):
                yield one
                continue
            request, prompt = one
            ends.update(end_tokens(self.tokenizer, request))
            seeds = ((index, sample_seed(request.seed, request.id, index)) for index in request.indices)
            groups.append([Row(request, index, seed, prompt) for index, seed in seeds])
        groups.sort(key=lambda rows: -len(rows[0].prompt) if rows else 0)
        ending = Ending(self.tokenizer, ends)
        with closing(Decoder(self.model, ending, groups, self.args.batch_size).run()) as samples:
            try:
                yield from samples
            except torch.OutOfMemoryError as error:
                size = self.args.batch_size
                raise SamplingError(f"out of memory with sampler.batch_size={size}: set a smaller one") from error

    def close(self) -> None:
        """Let go of the model."""
        self.model = None


def load(policy: str, args: SamplerArgs) -> HFSampler:
    """Open a policy's folder on the device and in the precision that `args` names."""
    model, tokenizer = load_policy(policy, args.dtype, args.device)
    return HFSampler(model, tokenizer, args)
