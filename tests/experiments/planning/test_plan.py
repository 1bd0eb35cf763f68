"""The plan: its tokens beside those of a small pipeline that is really run; hours, money, refusals."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.bench.plan_times import compare
from experiments.pipelines.glore import glore_nodes
from experiments.plan import make_plan, read_words, run
from experiments.planning.args import PlanArgs, behaviour
from experiments.planning.known import Drawn, Planner
from experiments.planning.texts import Texts, estimate_tokens, read_texts
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PLAIN
from stages.make import make
from stages.pipeline import Node, NodeResult, run_pipeline

SMALL = ["experiment=slips", "train_problems=80", "test_problems=30", *(f"{n}.train.epochs=1" for n in ("orm", "sorm"))]
SMALL += ["refiner.train.epochs=1", "plan.accuracy=0.4"]  # of the shipped student: docs/labelling.md
LARGE = ["glore", "problems=gsm8k", "student.start=meta-llama/Llama-2-7b-hf", "student.rounds=1"]
LARGE += ["rollouts.sampler.backend=vllm", "labels.search=exhaustive", "labels.rule=any", "labels.continuations=8"]
WIDE = Texts(100, 50.0, 120.0, 4.0, 18.0, 6.0, True, "gsm8k")


def test_tokens_are_those_that_a_pipeline_then_needs(tmp_path: Path) -> None:
    words = [*SMALL, f"run.artifacts={tmp_path}"]
    _, job = read_words(words)
    nodes, given = glore_nodes(job.args)

    def run_here(node: Node, args) -> NodeResult:
        artifact, reused = make(node.stage, args, tmp_path)
        return NodeResult(artifact.path, reused)

    run_pipeline(nodes[:-1], given, run_here, 1)
    plan, _, costs, made = make_plan(words)
    planned = {cost.work.name: cost.work.tokens for cost in costs}
    needed = {name: manifest["tokens"] for name, manifest in made.items() if manifest["tokens"]}
    assert set(needed) == {name for name, tokens in planned.items() if tokens} and len(needed) == 12
    assert sum(planned.values()) == pytest.approx(sum(needed.values()), rel=0.1)
    for name, tokens in needed.items():
        assert planned[name] == pytest.approx(tokens, rel=0.25), name
    *_, total = compare(plan, costs, made)
    assert total[0] == "all" and float(total[3]) > 0


def test_a_start_of_judges_has_layers_that_the_student_has_not() -> None:
    words = ["experiment=slips", "warm_up=true", "train_problems=80", "plan.accuracy=0.4"]
    plain, deeper = (
        {cost.work.name: cost.work for cost in make_plan([*words, *more])[2]}
        for more in ([], ["reward_start.names=true", "reward_start.added_layers=1"])
    )
    for name in ("reward_start", "orm", "sorm"):
        assert (plain[name].shape.layers, deeper[name].shape.layers) == (3, 6)
    shape = deeper["orm"].shape
    assert shape.weights - plain["orm"].shape.weights == 3 * shape.layer
    assert deeper["rollouts"].shape.layers == 3


def shared(words: list[str]) -> tuple[PlanArgs, dict]:
    plan, _, costs, _ = make_plan([*LARGE, "plan.load_seconds=0", *words])
    return plan, {cost.work.name: cost for cost in costs}


def test_a_run_with_a_model_that_is_not_here() -> None:
    _, costs = shared(["plan.accelerator=H200", "plan.completion=100", "rollouts.n=4", "train_problems=1000"])
    rollouts = costs["rollouts"].work
    assert (rollouts.samples, rollouts.sampled) == (4000, 400_000)
    rounds, student = costs["round_1"], costs["student"]
    assert rounds.work.trained > 0 and student.work.trained == student.hours == 0  # the same artifact
    # 6 operations a weight and token, 8 with checkpointing; attention adds little
    sft = costs["sft"]
    assert sft.work.trained == pytest.approx(3 * 6726 * (64.4 + 131.7), rel=0.01)  # gold ones
    assert 1.0 < sft.operations / (8 * sft.work.shape.body * sft.work.trained) < 1.1
    assert sft.hours == pytest.approx(sft.operations / (0.35 * 989e12) / 3600)
    assert sft.disk == 4 * 6_738_415_616
    twice = shared(["plan.accelerator=H200", "plan.completion=100", "plan.training=0.7"])[1]["sft"]
    assert twice.hours == pytest.approx(sft.hours / 2)


def test_measured_speeds_and_prices_count() -> None:
    speeds = ["plan.trained_per_second=1000", "plan.sampled_per_second=2000", "plan.scored_per_second=1e12"]
    plan, costs = shared(["plan.accelerator=H200", "plan.price=3", *speeds])
    assert costs["sft"].hours == pytest.approx(costs["sft"].work.computed / 1000 / 3600)
    assert costs["drafts"].hours == pytest.approx(costs["drafts"].work.sampled / 2000 / 3600, rel=0.01)
    eight = shared(["plan.accelerator=H200", "launch.num_processes=8", "launch.config_file=fsdp2", *speeds])[1]
    assert eight["sft"].hours == pytest.approx(costs["sft"].hours / 8) and eight["sft"].accelerators == 8
    assert plan.price == 3


def test_what_does_not_fit_is_refused_in_one_line(capsys: pytest.CaptureFixture) -> None:
    assert run([*LARGE, "plan.accelerator=L4"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sft does not fit: ") and error.count("\n") == 1
    assert "GiB on each L4 (" in error and "0.95 of 22 GiB can be used" in error
    assert run([*LARGE, "plan.accelerator=L4", "plan.refuse=false"]) == 0
    printed = capsys.readouterr().out
    assert "| sft | " in printed and " ! |" in printed
    for name in PlanArgs.__dataclass_fields__:  # every assumption is said
        assert f"plan.{name}=" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan.acelerator=H100"], "Key 'acelerator' not in 'PlanArgs'"),
        (["plan.accelerator=TPU"], "plan.accelerator='TPU' is none of H200, H100"),
        (["plan.accuracy=1"], "plan.accuracy must be in (0, 1), not 1"),
        (["rolouts.n=4"], "did you mean rollouts"),
        (["student.start=hub:nobody/nothing"], "hub:nobody/nothing has no config.json here"),
        (["problems=commonsenseqa"], "plan.completion is needed"),
        (["given.orm=nowhere"], "nowhere has no config.json"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    kept = [one for one in LARGE[1:] if one.partition("=")[0] not in {word.partition("=")[0] for word in words}]
    assert run(["glore", *kept, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_lema_is_told_by_its_experiment_and_its_servers_are_paid_for() -> None:
    words = ["experiment=lema/gsm8k_llama2_7b", "start=meta-llama/Llama-2-7b-hf", "strong=W", "corrections.policy=C"]
    words += ["plan.input_price=1", "plan.output_price=10", "plan.kept=0.5"]
    _, _, costs, _ = make_plan(words)
    found = {cost.work.name: cost for cost in costs}
    written = found["cot_rollouts"]
    assert written.accelerators == 0 and written.work.samples == 4 * 6726
    assert found["cot"].work.samples > 3 * 6726  # served_accuracy
    assert found["cot"].work.computed == found["cot"].work.trained  # its adapter has dropout
    assert written.served == pytest.approx((written.work.read + 10 * written.work.sampled) / 1e6)
    # CoT alone and with corrections at equal examples: as many, and other lengths
    assert found["equal_examples"].work.samples == pytest.approx(found["cot"].work.samples)
    assert found["more_data"].work.samples == pytest.approx(
        found["cot"].work.samples + 0.5 * found["corrections"].work.samples
    )
    equal = found["equal_tokens"].work
    assert equal.trained == pytest.approx(found["cot"].work.trained, rel=0.05) != found["equal_examples"].work.trained
    assert found["cot"].memory.gradients == 4 * found["cot"].work.shape.adapter(64, [])


def test_expected_numbers_of_different_solutions_are_those_of_draws() -> None:
    planner = Planner(PlanArgs())
    drawn = Drawn(WIDE, 100, 8, 110.0, 120.0, 105.0, 0.3)
    own, rng = behaviour("gsm8k"), random.Random(0)
    total = 0.0
    for _ in range(20000):
        share = rng.betavariate(0.3 * own.concentration, 0.7 * own.concentration)
        right = sum(rng.random() < share for _ in range(8))
        total += min(right**own.right_variety, (8 - right) ** own.wrong_variety) if 0 < right < 8 else 0
    assert planner.different(drawn, min) == pytest.approx(total / 20000, rel=0.05)


def test_lengths_come_from_the_tokenizer_or_from_the_text(tmp_path: Path) -> None:
    assert [estimate_tokens(text) for text in ("", "12", "ab c.", "abcdefg\n")] == [1, 3, 4, 4]
    rows = ['{"question": "Two and 2?", "answer": "4", "solution": "2 + 2 = 4\\n#### 4"}'] * 2
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    args = ProblemArgs(source="jsonl", path=str(tmp_path / "mine.jsonl"), split_shares=[1, 0, 0])
    texts = read_texts(args, PLAIN, "a name")
    assert (texts.count, texts.open, texts.exact) == (2, 1, False)
    # `Q: Two and 2?` and a line feed; `2 + 2 = 4`, `#### 4` and their line feeds
    assert (texts.prompt, texts.solution, texts.answer) == (7 + 1, 5 + 1 + 5 + 1 + 1, 5 + 1 + 1)
    own = read_texts(ProblemArgs(limit=5), PLAIN, "shipped")
    assert own.exact and own.count == 5 and own.solution > own.answer > 0


def test_what_is_given_is_asked_how_much_it_has(tmp_path: Path) -> None:
    words = ["experiment=demo", "train_problems=3", "rollouts.n=2", "rollouts.sampler.max_tokens=8"]
    _, job = read_words(words)
    nodes, given = glore_nodes(job.args)
    rollouts = next(node for node in nodes if node.name == "rollouts")
    artifact, _ = make(rollouts.stage, rollouts.build(given), tmp_path)
    _, _, costs, _ = make_plan(["experiment=demo", f"given.rollouts={artifact.path}"])
    works = {cost.work.name: cost.work for cost in costs}
    assert "rollouts" not in works and 0 < works["orm"].samples <= 6
    known = Planner(PlanArgs()).of(str(artifact.path), Drawn)
    assert (known.problems, known.n) == (3, 2) and known.tokens == artifact.manifest["tokens"] / 6
    with pytest.raises(ValueError, match="the plan knows nothing of it"):
        Planner(PlanArgs()).of(str(artifact.path), SimpleNamespace)
