"""Which arguments of each stage are part of its key, and that the same key means the same result."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.report.lema import LEMA_REPORT, LemaReportArgs
from experiments.report.stage import REPORT, ReportArgs
from refine.beam_search import BEAM_SEARCH, BeamArgs
from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.evolve import EVOLVE, EvolveArgs
from refine.lema.imports import IMPORT_CORRECTIONS, ImportCorrectionsArgs
from refine.lema.mistakes import COLLECT_MISTAKES, MistakeArgs
from refine.mix import MixArgs
from refine.pairs import BUILD_PAIRS, PairArgs
from refine.refine_until import REFINE_UNTIL, UntilArgs
from refine.rerank import RERANK, RerankArgs
from refine.revise import REVISE, ReviseArgs
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.labels.audit import AUDIT_LABELS, AuditArgs
from rewards.labels.corrupt import CORRUPT_SOLUTIONS, CorruptArgs
from rewards.labels.imports import IMPORT_LABELS, ImportArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rewards.train_implicit import TRAIN_IMPLICIT, TrainImplicitArgs
from rollouts.problems.args import FieldArgs, ProblemArgs
from rollouts.sampling.args import OpenAIArgs, RayArgs, SamplerArgs, VLLMArgs
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.bad_rows import BAD_ROWS
from stages.parents import find_parents, parent_keys
from stages.processes import Processes
from stages.stage import Stage, artifact_key, counted_fields
from training.args import TrainArgs

ROOT = Path(__file__).parents[2]

PROMPT = "prompt: kind examples instruction system"
HF = "sampler: backend temperature top_p max_tokens stop dtype device"
WORLD = """
problems: source split path limit offset shuffle_seed
problems.world: size seed min_steps max_steps max_value max_operand max_factor min_distractors max_distractors
problems.world: side_branches direct_distractors rivals followers people totals shortcuts operations
"""
TRAINING = f"""
{PROMPT}
lora: rank alpha dropout target_modules quantize keep_adapter
train: epochs max_steps stop_after tokens_per_step tokens_per_batch pack_tokens layout share_prefixes learning_rate
train: warmup final_share weight_decay beta2 max_grad_norm seed dtype gradient_checkpointing device evaluations
train.early_stopping: metric mode patience
"""
SEARCH = "search rule continuations at_least confidence threshold least_gain share_traces"

# what is in a stage's key, with these arguments: whoever changes a line makes artifacts that were made before
# unfindable, or lets two different results have one key
COUNTED: list[tuple[Stage, Any, str]] = [
    (SAMPLE, SampleArgs(), f"policy n seed last_number\n{WORLD}\n{HF}\n{PROMPT}"),
    (
        LABEL_STEPS,
        LabelArgs(),
        f"rollouts policy max_wrong_per_problem max_right_per_problem max_problems positive_propagation consistency "
        f"least_confidence seed {SEARCH}\n{HF}\n{PROMPT}",
    ),
    (
        AUDIT_LABELS,
        AuditArgs(),
        f"labels policy solutions continuations rule threshold consistency positive_propagation seed\n{HF}\n{PROMPT}",
    ),
    (
        IMPORT_LABELS,
        ImportArgs(),
        "input format lines bad_rows split limit\n"
        "choices: neutral after_error threshold unlabelled later number_steps aside contradictory extra",
    ),
    (CORRUPT_SOLUTIONS, CorruptArgs(), f"kinds per_problem seed\n{WORLD}"),
    (BUILD_PAIRS, PairArgs(), "rollouts labels max_per_problem max_right_per_wrong seed"),
    (BUILD_PAIRS, PairArgs(corrections=["c"]), "rollouts labels corrections max_per_problem max_right_per_wrong seed"),
    (
        TRAIN_REWARD,
        TrainRewardArgs(kind="orm"),
        "kind policy rollouts labels more_rollouts positions balance shuffled_labels validation_share max_length "
        "allow_empty" + TRAINING,
    ),
    (
        TRAIN_REWARD,
        TrainRewardArgs(kind="sorm"),
        "kind policy rollouts labels balance_lengths targets shuffled_labels validation_share max_length allow_empty"
        + TRAINING,
    ),
    (
        TRAIN_IMPLICIT,
        TrainImplicitArgs(),
        "policy rollouts more_rollouts balance beta validation_share max_length allow_empty" + TRAINING,
    ),
    (
        TRAIN_POLICY,
        TrainPolicyArgs(),
        "examples policy rollouts pairs max_length validation_share allow_empty\n"
        + "model: hidden_size layers heads feed_forward context initializer_range\n"
        + "model: embedding_range branch_range look_back"
        + WORLD
        + TRAINING,
    ),
    (
        TRAIN_POLICY,
        TrainPolicyArgs(policy="p", examples=["rollouts"]),
        "examples policy rollouts more_rollouts pairs max_per_problem max_length validation_share allow_empty"
        + TRAINING,
    ),
    (
        TRAIN_POLICY,
        TrainPolicyArgs(policy="p", examples=["global"]),
        "examples policy rollouts pairs max_length validation_share allow_empty" + TRAINING,
    ),
    (
        TRAIN_POLICY,
        TrainPolicyArgs(policy="p", examples=["corrections"], corrections=["c"], mix=MixArgs("tokens", size=9)),
        "examples policy rollouts pairs corrections max_length validation_share allow_empty\n"
        "correction: instruction wrong_step explanation shape mask_wrong\nmix: by size corrections" + TRAINING,
    ),
    (
        REVISE,
        ReviseArgs(),
        f"drafts samples global_refiner local_refiner control shuffled orm sorm where seed device\n{HF}\n{PROMPT}",
    ),
    (RERANK, RerankArgs(), "candidates orm sorm samples when seed device"),
    (
        RERANK,
        RerankArgs(more=["m"], aggregate="min"),
        "candidates more orm sorm samples aggregate when seed device",
    ),
    (
        BEAM_SEARCH,
        BeamArgs(),
        f"policy scorer beams expand max_steps aggregate seed device\n{WORLD}\n{HF}\n{PROMPT}",
    ),
    (
        REFINE_UNTIL,
        UntilArgs(),
        f"drafts global_refiner local_refiner orm sorm judge where rounds seed device\n{HF}\n{PROMPT}",
    ),
    (COLLECT_MISTAKES, MistakeArgs(), "rollouts max_per_problem max_problems seed"),
    (
        CORRECT,
        CorrectArgs(),
        "mistakes corrector n seed\noracle: wrong_step wrong_explanation wrong_correction hidden_error",
    ),
    (
        CORRECT,
        CorrectArgs(corrector="policy", policy="p", where="sorm", sorm="s"),
        f"mistakes corrector policy where sorm device n seed\n{HF}\n{PROMPT}\n"
        "ask: instruction examples layout parts chat system",
    ),
    (EVOLVE, EvolveArgs(corrections="c"), f"corrections seeds size policy seed\n{WORLD}"),
    (
        EVOLVE,
        EvolveArgs(problems=ProblemArgs("gsm8k", path="d"), seeds="all", policy="p"),
        f"corrections seeds size policy answers agreement seed\n{HF}\n{PROMPT}\nask: instruction examples chat system\n"
        "problems: source split path limit offset shuffle_seed validation_share bad_rows",
    ),
    (IMPORT_CORRECTIONS, ImportCorrectionsArgs(), "input format problems trust_answers bad_rows limit"),
    (
        LEMA_REPORT,
        LemaReportArgs(),
        "start samples policies arms corrections correction_names asked asked_names trained_on stages names title "
        "model seed",
    ),
    (
        REPORT,
        ReportArgs(),
        "rerank candidates more orm sorm labels test_labels trained_on stages names given given_names title model "
        "scorer where when seed",
    ),
]


def dotted(text: str) -> set[str]:
    """`a b` and `c: d e` in lines, as {a, b, c.d, c.e}."""
    found = set()
    for line in text.splitlines():
        before, colon, names = line.rpartition(": ")
        found |= {f"{before}.{name}" if colon else name for name in names.split()}
    return found


def counted(args: Any, before: str = "") -> Iterator[str]:
    for one in counted_fields(args):
        value = getattr(args, one.name)
        if dataclasses.is_dataclass(value):
            yield from counted(value, f"{before}{one.name}.")
        else:
            yield before + one.name


@pytest.mark.parametrize(("stage", "args", "wanted"), COUNTED, ids=lambda one: getattr(one, "name", ""))
def test_what_is_in_the_key(stage: Stage, args: Any, wanted: str) -> None:
    assert isinstance(args, stage.args)
    assert set(counted(args)) == dotted(wanted)


def test_every_stage_is_listed() -> None:
    from experiments.commands.catalogue import COMMANDS, stage_named

    assert {stage.name for stage, *_ in COUNTED} == {stage.name for name in COMMANDS if (stage := stage_named(name))}


def key_of(stage: Stage, args: Any) -> str:
    parents = find_parents(args, Processes())
    return artifact_key(stage, args, {name: parent_keys(found) for name, found in parents.items()})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def sampled(tmp_path: Path, **sampler: Any) -> str:
    (tmp_path / "policy").mkdir(exist_ok=True)
    return key_of(SAMPLE, SampleArgs(policy=str(tmp_path / "policy"), sampler=SamplerArgs(**sampler)))


def on_both(monkeypatch: pytest.MonkeyPatch, key: Any) -> tuple[str, str]:
    """A key on a machine with a GPU, and on one without."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with_gpu = key()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return with_gpu, key()


def test_auto_counts_as_what_it_means_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu, cpu = on_both(monkeypatch, lambda: sampled(tmp_path))
    assert gpu != cpu
    assert gpu == sampled(tmp_path, device="cuda:1", dtype="bfloat16") == sampled(tmp_path, device="cuda")
    assert cpu == sampled(tmp_path, device="cpu", dtype="float32") != sampled(tmp_path, dtype="bfloat16")
    # training and scoring
    for stage, args in ((TRAIN_POLICY, TrainPolicyArgs()), (RERANK, RerankArgs()), (REVISE, ReviseArgs())):
        parents = {name: "a" for name in counted(args)}
        gpu, cpu = on_both(monkeypatch, lambda: artifact_key(stage, args, parents))  # noqa: B023
        assert gpu != cpu
    args = TrainPolicyArgs(train=TrainArgs(device="cpu"))
    gpu, cpu = on_both(monkeypatch, lambda: key_of(TRAIN_POLICY, args))
    assert gpu == cpu == key_of(TRAIN_POLICY, TrainPolicyArgs())


def test_a_device_that_does_nothing_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for backend in ("openai", "scripted"):
        gpu, cpu = on_both(monkeypatch, lambda: sampled(tmp_path, backend=backend))  # noqa: B023
        assert gpu == cpu == sampled(tmp_path, backend=backend, device="cpu", dtype="float16")
    # the actors of a cluster have what they are given, whatever this machine has
    gpu, cpu = on_both(monkeypatch, lambda: sampled(tmp_path, backend="ray", ray=RayArgs(gpus=1.0)))
    assert gpu == cpu != sampled(tmp_path, backend="ray")


def test_a_device_that_is_named_loads_nothing() -> None:
    program = (
        "import sys\n"
        "from rollouts.sampling.args import SamplerArgs\n"
        "from stages.stage import plain_args\n"
        "found = plain_args(SamplerArgs(device='cuda:3'), {})\n"
        "print(found['device'], found['dtype'], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "cuda bfloat16 False\n", done.stderr


def test_a_served_model_counts_with_its_host(tmp_path: Path) -> None:
    def key(*urls: str, policy: str = "a-model", **settings: Any) -> str:
        sampler = SamplerArgs(backend="openai", openai=OpenAIArgs(base_urls=list(urls), **settings))
        return key_of(SAMPLE, SampleArgs(policy=policy, sampler=sampler))

    one = key("http://one:8000/v1")
    assert one == key("http://one:8000/v1", "http://one:8001/v1", concurrency=3)
    assert len({one, key("http://two:8000/v1"), key("http://one:1/v1", "http://two:1/v1")}) == 3
    # what is sent counts, but not what the limit is called
    assert one == key("http://one:8000/v1", max_tokens_field="max_tokens")
    assert len({one, key("http://one/v1", omit=["seed"]), key("http://one/v1", seed_bits=31)}) == 3
    # a folder counts by its contents, wherever it is served, unless the server has a name of its own for it
    folder = {"policy": str(tmp_path)}
    assert key("http://one/v1", **folder) == key("http://two/v1", **folder)
    assert key("http://one/v1", model="m", **folder) != key("http://two/v1", model="m", **folder)


def test_settings_of_another_backend_or_source_do_not_count(tmp_path: Path) -> None:
    missing = VLLMArgs(lora="nowhere", max_model_len=7)  # not even looked for
    assert sampled(tmp_path) == sampled(tmp_path, vllm=missing, openai=OpenAIArgs(model="m"), ray=RayArgs("vllm"))
    own = [sampled(tmp_path, backend="vllm", vllm=VLLMArgs(max_model_len=length)) for length in (7, 8)]
    assert own[0] != own[1]
    inner = [sampled(tmp_path, backend="ray", ray=RayArgs("vllm"), vllm=VLLMArgs(max_model_len=n)) for n in (7, 8)]
    assert inner[0] != inner[1]

    (tmp_path / "train.jsonl").write_text("{}")
    stage = Stage("load", 1, ProblemArgs, lambda args, space: None)

    def loaded(source: str, size: int, shares: list[float]) -> str:
        path = None if source == "arithmetic" else str(tmp_path)
        args = ProblemArgs(source=source, path=path, split_shares=shares)
        args.world.size = size
        return key_of(stage, args)

    even, test = [0.4, 0.3, 0.3], [0.0, 0.0, 1.0]
    assert loaded("gsm8k", 10, even) == loaded("gsm8k", 20, test)
    assert loaded("svamp", 10, even) == loaded("svamp", 20, even) != loaded("svamp", 10, test)
    bad = [key_of(stage, ProblemArgs(source="gsm8k", path=str(tmp_path), bad_rows=how)) for how in BAD_ROWS]
    names = [key_of(stage, ProblemArgs("jsonl", path=str(tmp_path), fields=FieldArgs(answer=a))) for a in "ab"]
    assert bad[0] != bad[1] and names[0] != names[1]
    assert loaded("arithmetic", 10, even) == loaded("arithmetic", 10, test) != loaded("arithmetic", 20, even)


def test_problems_do_not_count_for_refiners_that_train_on_pairs(tmp_path: Path) -> None:
    def key(limit: int, examples: str, policy: str | None) -> str:
        problems = ProblemArgs(limit=limit)
        return key_of(TRAIN_POLICY, TrainPolicyArgs(examples=[examples], policy=policy, problems=problems))

    assert key(1, "local", str(tmp_path)) == key(2, "local", str(tmp_path))
    assert key(1, "solutions", str(tmp_path)) != key(2, "solutions", str(tmp_path))
    assert key(1, "local", None) != key(2, "local", None)  # whose words a new model knows
    lost = ProblemArgs(source="gsm8k", path="nowhere")  # not even looked for
    assert key_of(TRAIN_POLICY, TrainPolicyArgs(examples=["local"], policy=str(tmp_path), problems=lost))
