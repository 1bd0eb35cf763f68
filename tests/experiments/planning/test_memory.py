"""The memory plan beside what a CPU allocates for a step of the real training loop."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.planning.memory import GIB, is_sharded, sampling_memory, training_memory
from experiments.planning.models import KNOWN, Shape, _shape, find_shape
from refine.train_policy import TrainPolicyArgs
from rollouts.sampling.args import SamplerArgs, VLLMArgs
from stages.launch import LaunchArgs
from training.adapters import LoraArgs, add_adapter
from training.args import TrainArgs
from training.examples import Example

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WEIGHTS = {  # as the models' cards and files have them
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
}


def small(kind: str) -> PretrainedConfig:
    from transformers import LlamaConfig, Qwen2Config

    sizes = {"hidden_size": 192, "num_attention_heads": 6}
    if kind == "llama":
        more = {"vocab_size": 2000, "intermediate_size": 512, "num_hidden_layers": 6, "tie_word_embeddings": True}
        return LlamaConfig(**sizes, **more)
    more = {"vocab_size": 8000, "intermediate_size": 640, "num_hidden_layers": 4, "num_key_value_heads": 2}
    return Qwen2Config(**sizes, **more)  # a large vocabulary, few key heads


def examples(vocabulary: int) -> list[Example]:
    rng = random.Random(0)
    found = []
    for _ in range(40):
        ids = [rng.randrange(5, vocabulary) for _ in range(rng.randint(40, 80))]
        positions = list(range(len(ids) // 2, len(ids) - 1))
        found.append(Example(ids, positions, [ids[at + 1] for at in positions], len(ids) // 2))
    return found


def allocated(model: PreTrainedModel, train: TrainArgs) -> tuple[float, tuple[int, int, int]]:
    """The most bytes that weights, moments and a step hold together on this CPU, and the step's (tokens, targets,
    forward passes)."""
    import torch

    from stages.processes import Processes
    from training.adapters import inputs_as_they_are
    from training.attention.install import packed_attention
    from training.completions import completion_loss
    from training.distributed import Engine
    from training.loader import StepLoader

    engine = Engine(model, train, Processes())
    loader = StepLoader(examples(model.config.vocab_size), train, 0, engine)
    with packed_attention(model), inputs_as_they_are(model, train.dtype):
        first, step = loader.prepare(0), loader.prepare(1)
        engine.step(first.batches, first.counted, first.items, completion_loss, False)  # makes the moments
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            engine.step(step.batches, step.counted, step.items, completion_loss, False)
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    held = sum(one.nbytes for one in model.parameters())
    held += sum(one.nbytes for state in engine.optimizer.state.values() for one in state.values())
    assert peak > held / 10  # the profiler has seen the step
    row = max(batch.ids.numel() for batch in step.batches), max(len(batch.targets) for batch in step.batches)
    return held + peak, (*row, len(step.batches))


@pytest.mark.parametrize(
    ("kind", "dtype", "checkpointing", "tokens", "rank"),
    [
        ("llama", "float32", False, 1024, 0),
        ("llama", "bfloat16", True, 512, 0),
        ("qwen2", "bfloat16", True, 1024, 0),
        ("qwen2", "bfloat16", False, 512, 0),
        ("llama", "bfloat16", False, 1024, 16),
        ("qwen2", "bfloat16", True, 1024, 32),
    ],
)
def test_a_step_takes_what_was_planned(kind: str, dtype: str, checkpointing: bool, tokens: int, rank: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = small(kind)
    train = TrainArgs(
        epochs=2, tokens_per_step=1024, tokens_per_batch=tokens, dtype=dtype, device="cpu",
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    model, lora = AutoModelForCausalLM.from_config(config).train(), LoraArgs(rank, dropout=0.05 * (kind == "llama"))
    if rank:
        add_adapter(model.to(getattr(torch, dtype)), lora)
    taken, step = allocated(model, train)
    args = TrainPolicyArgs(train=train, lora=lora)
    plan = training_memory(_shape(kind, config), args, LaunchArgs(), False, *step)
    assert step[2] == 1024 // tokens and plan.when == "step"
    assert plan.peak == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_counted_exactly(name: str) -> None:
    assert find_shape(f"hub:{name}@0123abc").weights == WEIGHTS[name] and name in KNOWN


def test_a_model_of_its_own_is_read_from_its_folder(tmp_path) -> None:
    from tests.tiny import make_model, save_policy

    folder = save_policy(tmp_path)
    shape, model = find_shape(folder), make_model()
    assert shape.weights == sum(one.numel() for one in model.parameters())
    assert (shape.layers, shape.hidden, shape.cache(4)) == (1, 32, 2 * 32 * 4)
    with pytest.raises(ValueError, match=r"nowhere has no config.json here, and is none of meta-llama"):
        find_shape("nowhere")


def args(**lora) -> TrainPolicyArgs:
    return TrainPolicyArgs(train=TrainArgs(dtype="bfloat16"), lora=LoraArgs(**lora))


@pytest.fixture(scope="module")
def shape() -> Shape:
    return find_shape("meta-llama/Llama-2-7b-hf")


def test_eight_processes_share_weights_gradients_and_moments(shape: Shape) -> None:
    alone = training_memory(shape, args(), LaunchArgs(), False, 4096, 2000, 2)
    shared = training_memory(shape, args(), LaunchArgs(8, "fsdp2"), False, 4096, 2000, 2)
    replicas = training_memory(shape, args(), LaunchArgs(8, "gpus"), False, 4096, 2000, 2)
    assert alone.weights == alone.gradients == alone.optimizer / 2 == 4 * shape.weights
    assert shared.weights + shared.gradients + shared.optimizer == 16 * shape.weights / 8
    assert replicas.peak == alone.peak > 16 * shape.weights > shared.peak
    assert is_sharded(TrainArgs(shard="fsdp2"), LaunchArgs(2)) and not is_sharded(TrainArgs(), LaunchArgs(2))
    assert not is_sharded(TrainArgs(shard="none"), LaunchArgs(2, "fsdp2"))


def test_an_adapter_has_the_moments_of_its_own_weights_only(shape: Shape) -> None:
    plan = training_memory(shape, args(rank=64), LaunchArgs(), False, 4096, 2000, 2)
    adapter = 64 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert (plan.gradients, plan.optimizer) == (4 * adapter, 8 * adapter)
    small_base = training_memory(shape, args(rank=64, quantize="nf4"), LaunchArgs(), False, 4096, 2000, 2)
    other = 2 * (shape.weights - shape.body) + 4 * adapter
    assert 0.5 * shape.body < small_base.weights - other < 0.53 * shape.body
    # a base in 4 bits is never whole on the accelerator: it is opened and put together on the host
    assert small_base.when == "step" and small_base.peak < 2 * shape.weights
    assert small_base.host > 4 * shape.weights > plan.peak > plan.weights > 2 * shape.weights


def test_an_engine_holds_a_part_of_the_weights_and_rows(shape: Shape) -> None:
    sampler = SamplerArgs(backend="vllm", dtype="bfloat16", max_tokens=400)
    whole, rows = sampling_memory(shape, sampler, 500, 80 * GIB)
    assert whole.weights == 2 * shape.weights and whole.peak > whole.weights
    assert rows == pytest.approx((0.9 * 80 * GIB - 2 * shape.weights - 2 * GIB) / (524288 * 500))
    half, more = sampling_memory(shape, replace(sampler, vllm=VLLMArgs(tensor_parallel_size=2)), 500, 80 * GIB)
    assert half.weights == shape.weights and more > 2 * rows
    hf, at_once = sampling_memory(shape, SamplerArgs(batch_size=8, dtype="float32"), 500, 80 * GIB)
    assert at_once == 8 and hf.peak == 4 * shape.weights + 8 * 500 * 2 * 524288
