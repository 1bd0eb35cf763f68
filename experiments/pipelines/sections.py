"""What a pipeline's config says of its stages before the pipeline fills it in.

A parent stands at PENDING, a seed at PIPELINE_SEED. The numbers suit a pretrained causal LM on one GPU.
"""

from __future__ import annotations

from dataclasses import replace

from refine.beam_search import BeamArgs
from refine.refine_until import UntilArgs
from refine.revise import ReviseArgs
from refine.train_policy import TrainPolicyArgs
from rewards.labels.search import PAPER_K
from rewards.labels.stepwise import LabelArgs
from rewards.train import TrainRewardArgs
from rewards.train_implicit import TrainImplicitArgs
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.sample import SampleArgs
from stages.pipeline import PENDING
from training.args import TrainArgs

PIPELINE_SEED = -1  # stands in a pipeline's config for a stage's seed: the pipeline's own


def sampling(n: int, temperature: float) -> SampleArgs:
    sampler = SamplerArgs(temperature=temperature, max_tokens=512)
    return SampleArgs(policy=PENDING, n=n, seed=PIPELINE_SEED, sampler=sampler)


def training(epochs: float) -> TrainArgs:
    return TrainArgs(epochs=epochs, seed=PIPELINE_SEED)


def reward(kind: str) -> TrainRewardArgs:
    source = {"rollouts": PENDING} if kind == "orm" else {"labels": PENDING}
    return TrainRewardArgs(kind=kind, policy=PENDING, train=training(1), **source)


def implicit() -> TrainImplicitArgs:
    return TrainImplicitArgs(policy=PENDING, rollouts=PENDING, train=training(1))


def labels() -> LabelArgs:
    sampler = SamplerArgs(temperature=1.0, max_tokens=512)
    return LabelArgs(rollouts=PENDING, policy=PENDING, seed=PIPELINE_SEED, sampler=sampler)


def test_labels() -> LabelArgs:
    """Of every prefix, and of many continuations: reward models are measured on them."""
    return replace(labels(), search="exhaustive", rule="posterior", continuations=4 * PAPER_K)


def refiner() -> TrainPolicyArgs:
    return TrainPolicyArgs(examples=["global"], policy=PENDING, pairs=PENDING, max_length=2048, train=training(2))


def revise() -> ReviseArgs:
    return ReviseArgs(
        drafts=PENDING, samples=PENDING, global_refiner=PENDING, local_refiner=PENDING, control=PENDING,
        shuffled=PENDING, orm=PENDING, sorm=PENDING, seed=PIPELINE_SEED,
        sampler=SamplerArgs(temperature=0.0, max_tokens=512),
    )  # fmt: skip


def beam_search() -> BeamArgs:
    sampler = SamplerArgs(temperature=0.7, max_tokens=128)
    return BeamArgs(policy=PENDING, scorer=PENDING, seed=PIPELINE_SEED, sampler=sampler)


def refine_until() -> UntilArgs:
    return UntilArgs(
        drafts=PENDING, global_refiner=PENDING, local_refiner=PENDING, orm=PENDING, sorm=PENDING, seed=PIPELINE_SEED,
        sampler=SamplerArgs(temperature=0.0, max_tokens=512),
    )  # fmt: skip
