"""The whole pipeline with a scripted policy: every stage for real but the sampling, in this process."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.glore import GloreArgs, StudentArgs, glore_nodes
from experiments.report.stage import check_apart
from refine.prompts import render_refinement
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Candidate, Choice, StepLabels
from rollouts.sampling.args import SamplerArgs
from rollouts.steps import join_steps, split_steps
from rollouts.world.args import WorldArgs
from stages.artifacts import open_artifact
from stages.files import read_json
from stages.make import make
from stages.pipeline import Node, NodeResult, run_pipeline
from training.loop import TrainArgs

WORLD = ProblemArgs(world=WorldArgs(min_steps=3, max_steps=3, max_distractors=0, operations=["more", "fewer"]))
TRAIN, TEST = 8, 6


def spoil(steps: list[str], at: int) -> list[str]:
    """A solution whose step `at` states a wrong result, with everything after it as it was but the answer."""
    wrong = list(steps)
    head, result = wrong[at].rsplit(">>", 1)
    number = str(int(result) + 1)
    wrong[at] = head.replace(f"={result}", f"={number}") + ">>" + number
    wrong[-1] = f"#### {int(steps[-1].split()[-1]) + 1}"
    return wrong


def scripted_policy(folder: Path) -> Path:
    """A tiny model's folder with a script: of every problem's samples half are right, half wrong at the second step;
    the draft is wrong, the local refiner mends it, the global one does not."""
    from rollouts.world.tokenizer import make_tokenizer
    from training.models import ModelArgs, make_policy, save_model

    tokenizer = make_tokenizer(WORLD.world.max_value)
    save_model(make_policy(ModelArgs(32, 1, 1, 32), tokenizer, 0), tokenizer, folder)
    script = {"*": ["#### 0"]}
    for split, size in (("train", TRAIN), ("test", TEST)):
        for problem in load_problems(replace(WORLD, split=split, limit=size)):
            gold = split_steps(problem.solution)
            wrong = spoil(gold, 1)
            right_text, wrong_text = join_steps(gold), join_steps(wrong)
            prompt = render_prompt(problem.question)
            script[prompt] = [wrong_text, right_text] if split == "test" else [right_text, wrong_text]
            for length in range(1, len(wrong)):
                # from the first step half of the continuations are right; after the wrong one none is
                rest = [join_steps(wrong[length:]), join_steps(gold[length:])] if length == 1 else ["#### 999"]
                script[prompt + join_steps(wrong[:length])] = rest
            script[render_refinement("global", problem.question, wrong, None)] = [wrong_text]
            script[render_refinement("local", problem.question, wrong, 1)] = [join_steps(gold[1:])]
    (folder / "script.json").write_text(json.dumps(script))
    return folder


def arguments(policy: Path) -> GloreArgs:
    scripted = SamplerArgs(backend="scripted")
    greedy = replace(scripted, temperature=0.0)
    train = TrainArgs(max_steps=2, device="cpu")
    args = GloreArgs(problems=WORLD, train_problems=TRAIN, test_problems=TEST, student=StudentArgs(start=str(policy)))
    return replace(
        args,
        rollouts=replace(args.rollouts, n=4, sampler=scripted),
        drafts=replace(args.drafts, sampler=greedy),
        samples=replace(args.samples, sampler=scripted),
        labels=replace(args.labels, search="exhaustive", rule="any", continuations=2, sampler=scripted),
        orm=replace(args.orm, train=train, validation_share=0.25),
        sorm=replace(args.sorm, train=train, validation_share=0.25),
        refiner=replace(args.refiner, train=train),
        revise=replace(args.revise, where=["oracle", "sorm"], sampler=greedy),
        headline_where="oracle",
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_policy(tmp_path_factory.mktemp("policy"))


def nodes_with_script(args: GloreArgs, policy: Path) -> tuple[list[Node], dict[str, str]]:
    """The pipeline's nodes; trained refiners get the script too, so that they answer from it."""
    import shutil

    nodes, given = glore_nodes(args)

    def keep_script(run):
        def ran(stage_args, work):
            run(stage_args, work)
            shutil.copy(policy / "script.json", work.folder)

        return ran

    return [
        replace(node, stage=replace(node.stage, run=keep_script(node.stage.run)))
        if node.stage.name == "train_policy"
        else node
        for node in nodes
    ], given


def run(nodes: list[Node], given: dict[str, str], root: Path) -> dict[str, str]:
    """Run the stages in this process, which takes less time than starting twenty; returns the paths."""

    def run_here(node: Node, args) -> NodeResult:
        artifact, reused = make(node.stage, args, root)
        return NodeResult(artifact.path, reused)

    return {name: str(result.path) for name, result in run_pipeline(nodes, given, run_here, 1).items()}


@pytest.fixture(scope="module")
def made(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("artifacts")
    return run(*nodes_with_script(arguments(policy), policy), root)


def test_the_report_says_what_the_script_did(made):
    report = read_json(Path(made["report"]) / "report.json")
    accuracy = {name: found["value"] for name, found in report["accuracy"].items() if found}
    assert accuracy["draft"] == 0.0
    assert accuracy["global"] == 0.0
    assert accuracy["local"] == 1.0
    assert accuracy["oracle"] == 1.0
    assert report["accuracy"]["draft"]["n"] == TEST
    assert report["fixed"]["local"]["value"] == 1.0
    assert report["fixed"]["global"]["value"] == 0.0
    assert report["label_accuracy"]["value"] == 1.0
    assert set(report["stages"]) >= {"rollouts", "labels", "orm", "sorm", "global_refiner", "revise", "rerank"}


def test_labels_are_positive_up_to_the_wrong_step(made):
    rows = open_artifact(made["labels"], "label_steps").rows(StepLabels)
    wrong = [row for row in rows if not row.correct]
    assert len(wrong) == TRAIN and len(rows) == 2 * TRAIN  # duplicates are labelled once
    for row in wrong:
        assert row.labels == (True, False, False, False)
        assert row.trials == (2, 2, 2, 0)
        assert row.fix_length == 1 and row.fix_steps[-1].startswith("####")


def test_local_candidates_keep_the_steps_before_the_error(made):
    candidates = open_artifact(made["revise"], "revise").rows(Candidate)
    drafts = {c.problem_id: c for c in candidates if c.kind == "draft"}
    for local in (c for c in candidates if c.kind == "local" and c.where == "oracle"):
        assert local.error_step == 1
        assert local.steps[0] == drafts[local.problem_id].steps[0]
        assert local.correct is True


def test_every_selector_chooses_once_for_every_problem(made):
    rows = open_artifact(made["rerank"], "rerank").rows(Choice)
    seen = [(row.problem_id, row.selector, row.scorer, row.where) for row in rows if row.scorer != "none"]
    assert len(seen) == len(set(seen))


def test_the_same_seed_gives_the_same_report(policy, made, tmp_path):
    again = run(*nodes_with_script(arguments(policy), policy), tmp_path)
    first, second = (read_json(Path(paths["report"]) / "report.json") for paths in (made, again))
    for report in (first, second):
        for stage in report["stages"].values():
            stage.pop("seconds")
    assert first == second


def test_a_second_run_makes_nothing(policy, made):
    root = Path(made["rollouts"]).parent.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    again = run(*nodes_with_script(arguments(policy), policy), root)
    assert again == made
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_a_failed_stage_stops_the_pipeline_and_leaves_what_was_made(policy, tmp_path):
    nodes, given = nodes_with_script(arguments(policy), policy)

    def fail(args, work):
        (work.folder / "half").write_text("half")
        raise RuntimeError("the disk is gone")

    broken = [replace(n, stage=replace(n.stage, run=fail)) if n.name == "labels" else n for n in nodes]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        run(broken, given, tmp_path)
    assert len(list((tmp_path / "sample").glob("[0-9a-f]*[0-9a-f]/manifest.json"))) >= 1
    assert not list(tmp_path.rglob("half"))
    paths = run(nodes, given, tmp_path)
    assert (Path(paths["report"]) / "report.json").is_file()


def test_changed_arguments_change_only_what_depends_on_them(policy, made):
    root = Path(made["rollouts"]).parent.parent
    args = arguments(policy)
    args = replace(args, sorm=replace(args.sorm, balance_lengths=False))
    again = run(*nodes_with_script(args, policy), root)
    changed = {name for name in made if again[name] != made[name]}
    assert changed == {"sorm", "revise", "rerank", "report"}


def test_a_test_problem_that_was_trained_on_is_refused():
    train = load_problems(replace(WORLD, limit=3))
    leaked = dataclasses.replace(train[1], id="arithmetic/test/9", question=train[1].question.upper())
    check_apart(train, load_problems(replace(WORLD, split="test", limit=3)))
    with pytest.raises(ValueError, match=r"arithmetic/test/9 was trained on, as arithmetic/train/1"):
        check_apart(train, [leaked])


def test_reward_models_can_start_from_another_model(policy, made):
    root = Path(made["rollouts"]).parent.parent
    args = replace(arguments(policy), reward_start=made["control_refiner"])
    again = run(*nodes_with_script(args, policy), root)
    changed = {name for name in made if again[name] != made[name]}
    assert changed == {"orm", "sorm", "revise", "rerank", "report"}


def test_defaults_are_plain_values():
    assert dataclasses.asdict(GloreArgs())["rollouts"]["n"] == 8


def test_every_stage_asks_with_the_one_prompt(policy):
    chat = PromptArgs("chat", instruction="Solve it.")
    args = replace(arguments(policy), prompt=chat)
    args = replace(args, student=replace(args.student, fine_tune=True, rounds=1))
    args.validate()
    nodes, given = glore_nodes(args)
    paths = {node.name: f"artifact of {node.name}" for node in nodes} | given
    asked = {node.name: own.prompt for node in nodes if hasattr(own := node.build(paths), "prompt")}
    assert set(asked) == {
        *("sft", "round_1_rollouts", "student", "rollouts", "labels", "orm", "drafts", "samples", "sorm"),
        *("global_refiner", "local_refiner", "control_refiner", "revise"),
    }
    assert all(prompt == chat for prompt in asked.values())
    for changed in (
        replace(args, rollouts=replace(args.rollouts, prompt=PromptArgs("chat"))),
        replace(args, student=replace(args.student, sft=replace(args.student.sft, prompt=PromptArgs("chat")))),
    ):
        with pytest.raises(ValueError, match=r"^(rollouts|student\.sft)\.prompt must not differ from prompt"):
            changed.validate()
