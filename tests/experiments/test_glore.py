"""The whole pipeline with a scripted policy: every stage for real but the sampling, in this process."""

import dataclasses
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands.config import validate
from experiments.commands.yaml_files import ConfigError
from experiments.glore import main
from experiments.pipelines.glore import GivenArgs, GloreArgs, glore_nodes
from experiments.pipelines.running import check_nodes
from experiments.pipelines.sections import PIPELINE_SEED
from experiments.pipelines.students import StudentArgs
from refine.prompts import render_refinement
from refine.report.truth import check_apart
from refine.rerank import RERANK, RerankArgs
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Candidate, Choice, Judgement, StepLabels
from rollouts.sampling.args import SamplerArgs
from rollouts.steps import join_steps, split_steps
from rollouts.world.args import WorldArgs
from stages.artifacts import open_artifact
from stages.files import read_json
from stages.make import make
from stages.pipeline import PENDING, Node, NodeResult, run_pipeline
from training.loop import TrainArgs

WORLD = ProblemArgs(world=WorldArgs(min_steps=3, max_steps=3, max_distractors=0, operations=["more", "fewer"]))
TRAIN, TEST = 8, 6
REFINERS = tuple(f"{kind}_refiner" for kind in ("global", "local", "control", "shuffled"))


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


def with_implicit(args: GloreArgs) -> GloreArgs:
    own = replace(args.train_implicit, train=args.orm.train, validation_share=0.25)
    return replace(args, implicit=True, train_implicit=own)


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
    page = (Path(made["report"]) / "report.html").read_text(encoding="utf-8")
    assert page.count('"summary":') == report["problems"]  # all of them can be looked through
    accuracy = {name: found["value"] for name, found in report["accuracy"].items() if found}
    assert accuracy["draft"] == 0.0
    assert accuracy["global"] == 0.0
    assert accuracy["local"] == 1.0
    assert accuracy["oracle"] == 1.0
    assert report["accuracy"]["draft"]["n"] == TEST
    assert report["fixed"]["local"]["value"] == 1.0
    assert report["fixed"]["global"]["value"] == 0.0
    assert report["label_accuracy"]["value"] == report["label_accuracy_strict"]["value"] == 1.0
    assert sum(found["value"] for found in report["errors"].values()) == 1.0
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
    args, other = arguments(policy), made["control_refiner"]
    args = replace(args, orm=replace(args.orm, policy=other), sorm=replace(args.sorm, policy=other))
    again = run(*nodes_with_script(args, policy), root)
    changed = {name for name in made if again[name] != made[name]}
    assert changed == {"orm", "sorm", "revise", "rerank", "report"}


def test_reward_models_warm_up_on_corrupted_gold_solutions(policy, made):
    root = Path(made["rollouts"]).parent.parent
    args = arguments(policy)
    start = replace(args.reward_start, train=TrainArgs(max_steps=2, device="cpu"), validation_share=0.25)
    args = replace(args, warm_up=True, warm_up_problems=TRAIN, reward_start=start)
    again = run(*nodes_with_script(args, policy), root)
    assert {name for name in made if again[name] != made[name]} == {"orm", "sorm", "revise", "rerank", "report"}
    parents = {name: open_artifact(again[name]).manifest["parents"] for name in ("reward_start", "orm", "sorm")}
    assert parents["reward_start"]["labels"]["key"] == Path(again["corrupted"]).name
    assert all(parents[name]["policy"]["key"] == Path(again["reward_start"]).name for name in ("orm", "sorm"))
    assert {"corrupted", "reward_start"} <= set(read_json(Path(again["report"]) / "report.json")["stages"])
    given = replace(arguments(policy), given=GivenArgs(reward_start=again["reward_start"]))
    nodes, paths = glore_nodes(given)
    assert not {"corrupted", "reward_start"} & {node.name for node in nodes}
    assert run(nodes, paths, root)["orm"] == again["orm"]


def test_searches_stand_beside_the_others_at_their_price(policy, made):
    assert not {"beam_search", "refine_until"} & set(made)
    root, args = Path(made["rollouts"]).parent.parent, arguments(policy)
    scripted = args.rollouts.sampler
    args = replace(
        args,
        beam=True,
        beam_search=replace(args.beam_search, beams=2, expand=1, sampler=scripted),
        until=True,
        refine_until=replace(args.refine_until, rounds=1, where="orm", sampler=args.drafts.sampler),
    )
    again = run(*nodes_with_script(args, policy), root)
    assert {name for name in made if again[name] != made[name]} == {"rerank", "report"}
    parents = {name: open_artifact(again[name]).manifest["parents"] for name in ("beam_search", "refine_until")}
    assert parents["beam_search"]["scorer"]["key"] == Path(made["sorm"]).name
    assert parents["refine_until"]["drafts"]["key"] == Path(made["drafts"]).name
    report, before = (read_json(Path(one["report"]) / "report.json") for one in (again, made))
    assert before["accuracy"]["beam"] is before["accuracy"]["until"] is None
    assert "beam" not in " ".join(before["notes"]) and "beam" not in (Path(made["report"]) / "report.md").read_text()
    for name, search in (("beam", "beam_search"), ("until", "refine_until")):
        counts = open_artifact(again[search]).manifest["counts"]
        assert report["accuracy"][name]["n"] == TEST
        assert report["tokens"][name] == pytest.approx(counts["sampled_tokens"] / TEST, abs=1e-5)
        assert report["tokens_read"][name] >= counts["read_tokens"] / TEST - 1e-5
    assert report["accuracy"]["reranked"] == before["accuracy"]["reranked"]
    text = (Path(again["report"]) / "report.md").read_text()
    assert "| step beam search, ORM picks |" in text and "| refined until accepted |" in text
    # artifacts of one's own stand beside the others just so
    own = replace(arguments(policy), rerank=replace(args.rerank, more=[again["beam_search"], again["refine_until"]]))
    assert run(*nodes_with_script(own, policy), root)["rerank"] == again["rerank"]
    with pytest.raises(ValueError, match=r"rerank.more=\['x'\] stands in place of beam=true and until=true"):
        validate(replace(args, rerank=replace(args.rerank, more=["x"])))


def test_an_implicit_reward_model_judges_and_ranks_beside_the_two(policy, made):
    assert "implicit" not in made
    root, args = Path(made["rollouts"]).parent.parent, with_implicit(arguments(policy))
    again = run(*nodes_with_script(args, policy), root)
    assert {name for name in made if again[name] != made[name]} == {"rerank", "report"}
    parents = open_artifact(again["rerank"]).manifest["parents"]
    reference = open_artifact(again["implicit"]).manifest["parents"]["policy"]["key"]
    assert parents["implicit"]["key"] == Path(again["implicit"]).name and parents["reference"]["key"] == reference
    report, before = (read_json(Path(one["report"]) / "report.json") for one in (again, made))
    for name in ("step_accuracy", "first_error_f1", "step_auroc", "auroc"):
        assert report[name]["implicit"]["n"] == report[name]["orm"]["n"]
        assert "implicit" not in before[name] and report[name]["sorm"] == before[name]["sorm"]
    assert report["difference"]["sorm_minus_implicit_step_accuracy"]["n"] == TEST
    assert report["ablation"]["oracle"]["implicit"]["reranked"]["n"] == TEST
    assert "implicit" not in before["ablation"]["oracle"]
    rows = open_artifact(again["rerank"]).rows(Judgement, "judgements")
    read = {(one.scorer, one.problem_id, one.kind, one.where, one.sample): one.tokens for one in rows}
    assert all(tokens == 2 * read["orm", *key] for (name, *key), tokens in read.items() if name == "implicit")
    assert {name for name in report["curves"] if "implicit" in name} == {"implicit", "weighted_implicit"}
    assert set(report["example"]["solutions"]["draft"]) == {*before["example"]["solutions"]["draft"], "implicit"}
    text, old = ((Path(one["report"]) / "report.md").read_text() for one in (again, made))
    for words in (
        "| reranked, implicit |",
        "| on drafts and samples | ORM | SORM | implicit |",
        "| vote, implicit weighs |",
        "The implicit reward model, which saw no step labels, judges",
    ):
        assert words in text
    assert "implicit" not in old
    with pytest.raises(ValueError, match=r"rerank.implicit=x stands in place of implicit=true"):
        validate(replace(args, rerank=replace(args.rerank, implicit="x", reference="y")))
    with pytest.raises(ValueError, match=r"implicit=x with reference=None: give both or neither"):
        replace(args.rerank, implicit="x").validate()


def test_an_implicit_reward_model_can_have_the_headline_and_a_gate(policy, made):
    root, args = Path(made["rollouts"]).parent.parent, with_implicit(arguments(policy))
    args = replace(args, headline_scorer="implicit", headline_when="implicit")
    args = replace(args, rerank=replace(args.rerank, when=["always", "implicit"]))
    validate(args)
    again = run(*nodes_with_script(args, policy), root)
    report = read_json(Path(again["report"]) / "report.json")
    assert report["accuracy"]["reranked"] == report["ablation_when"]["implicit"]["oracle"]["implicit"]["reranked"]
    judged = open_artifact(again["rerank"]).rows(Judgement, "judgements")
    least = report["thresholds"]["implicit"]["when"]
    kept = [one.probabilities[-1] >= least for one in judged if (one.scorer, one.kind) == ("implicit", "draft")]
    assert len(kept) == TEST and report["kept"]["implicit"]["all"]["value"] == pytest.approx(sum(kept) / TEST)
    text = (Path(again["report"]) / "report.md").read_text()
    assert "| best of 3 samples, implicit picks |" in text
    assert "rewrote the drafts that the implicit reward model calls wrong, and the implicit reward model picked" in text
    for setting, value, message in (
        ("headline_scorer", "implicit", "needs a scorer orm or sorm and a place"),
        ("rerank.when", ["always", "implicit"], r"rerank.when=\['always', 'implicit'\] needs implicit=true"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(changed(arguments(policy), setting, value))
    alone = open_artifact(again["rerank"]).manifest["args"] | {"implicit": None, "reference": None}
    with pytest.raises(ValueError, match="needs implicit, an artifact of train_implicit, and its reference"):
        make(RERANK, RerankArgs(**alone), root)


def test_an_implicit_reward_model_of_ones_own_stands_in_for_the_stage(policy, made, tmp_path, monkeypatch, capsys):
    root, args = Path(made["rollouts"]).parent.parent, with_implicit(arguments(policy))
    first = run(*nodes_with_script(args, policy), root)
    own = replace(arguments(policy), given=GivenArgs(implicit=first["implicit"]))
    nodes, given = nodes_with_script(own, policy)
    assert "implicit" not in {node.name for node in nodes}
    again = run(nodes, given, root)
    assert again["rerank"] == first["rerank"]
    report, before = (read_json(Path(one["report"]) / "report.json") for one in (again, first))
    assert report["given"] == {"implicit": f"train_implicit/{Path(first['implicit']).name}"}
    assert "implicit" not in report["stages"] and report["step_accuracy"] == before["step_accuracy"]
    # another student: what it was trained from is given too, or it is refused at once
    other = replace(own, given=GivenArgs(implicit=first["implicit"], student=made["control_refiner"]))
    with pytest.raises(ConfigError, match=r"was trained from sha256:\w+, and reference=.* set given.reference"):
        check_nodes(other, glore_nodes, {})
    beside = replace(other, given=replace(other.given, reference=str(policy)))
    nodes, given = check_nodes(beside, glore_nodes, {})
    paths = {node.name: PENDING for node in nodes} | given
    (rerank,) = [node.build(paths) for node in nodes if node.name == "rerank"]
    assert (rerank.implicit, rerank.reference) == (first["implicit"], str(policy))
    with pytest.raises(ValueError, match=r"given.reference=.* has no effect: no stage that is left uses it"):
        validate(replace(arguments(policy), given=GivenArgs(reference=str(policy))))


def test_the_steps_of_test_drafts_are_labelled_where_that_is_asked_for(policy, made):
    assert "test_labels" not in made
    root, args = Path(made["rollouts"]).parent.parent, arguments(policy)
    own = replace(args.test_labels, continuations=4, sampler=args.labels.sampler)
    args = replace(args, label_test=True, test_labels=own)
    again = run(*nodes_with_script(args, policy), root)
    assert {name for name in made if again[name] != made[name]} == {"report"}
    artifact = open_artifact(again["test_labels"])
    assert artifact.manifest["parents"]["rollouts"]["key"] == Path(made["drafts"]).name
    assert artifact.manifest["args"]["search"] == "exhaustive" and len(artifact.rows(StepLabels)) == TEST
    report = read_json(Path(again["report"]) / "report.json")
    assert report["test_labels"]["solutions"] == TEST and report["test_labels"]["continuations"] == 4
    # every draft is wrong at its second step, from which no continuation is right; the first steps are all right
    assert (report["test_labels"]["positive"], report["test_labels"]["accuracy"]["value"]) == (TEST, 1.0)
    assert report["stages"]["test_labels"]["tokens"] > 0
    given = replace(arguments(policy), given=GivenArgs(test_labels=again["test_labels"]))
    nodes, paths = glore_nodes(given)
    assert "test_labels" not in {node.name for node in nodes} and "test_labels" in paths


def test_artifacts_of_ones_own_stand_in_for_stages(policy, made):
    root = Path(made["rollouts"]).parent.parent
    args = replace(arguments(policy), given=GivenArgs(sorm=made["sorm"], **{
        name: made[name] for name in REFINERS
    }))  # fmt: skip
    nodes, given = glore_nodes(args)
    # nobody needs labels or pairs any more
    assert [node.name for node in nodes] == ["rollouts", "orm", "drafts", "samples", "revise", "rerank", "report"]
    again = run(nodes, given, root)
    assert again["rerank"] == made["rerank"] and again["report"] != made["report"]
    report = read_json(Path(again["report"]) / "report.json")
    assert report["given"] == {
        name: f"{Path(made[name]).parent.name}/{Path(made[name]).name}" for name in ("sorm", *REFINERS)
    }
    text = (Path(again["report"]) / "report.md").read_text()
    assert f"Given, not made in this run: sorm train_reward/{Path(made['sorm']).name}" in text
    assert "sorm" not in report["stages"] and report["label_accuracy"] is None


def test_a_parent_given_to_one_stage_is_used_by_that_stage_alone(policy, made):
    root = Path(made["rollouts"]).parent.parent
    args = arguments(policy)
    half = replace(args, orm=replace(args.orm, validation_share=0.5))
    other = run(*nodes_with_script(half, policy), root)["orm"]
    args = replace(args, rerank=replace(args.rerank, orm=other))
    again = run(*nodes_with_script(args, policy), root)
    assert {name for name in made if again[name] != made[name]} == {"rerank", "report"}
    report = read_json(Path(again["report"]) / "report.json")
    assert report["given"] == {"rerank.orm": f"train_reward/{Path(other).name}"}
    own, swapped = (open_artifact(paths["report"]).manifest["parents"]["orm"]["key"] for paths in (made, again))
    assert (own, swapped) == (Path(made["orm"]).name, Path(other).name)


def test_with_everything_given_only_the_test_problems_are_sampled(policy, made):
    names = ("orm", "sorm", *REFINERS, "drafts", "samples")
    args = replace(arguments(policy), student=StudentArgs(), given=GivenArgs(**{name: made[name] for name in names}))
    nodes, given = glore_nodes(args)  # not even a student is needed
    assert [node.name for node in nodes] == ["revise", "rerank", "report"] and set(given) == set(names)
    again = run(nodes, given, Path(made["rollouts"]).parent.parent)
    notes = read_json(Path(again["report"]) / "report.json")["notes"]
    assert any("were not compared with those trained on" in note for note in notes)


def test_controls_that_are_not_wanted_are_not_trained(policy, made):
    args = arguments(policy)
    args = replace(args, revise=replace(args.revise, shuffled=None, control=None))
    nodes, _ = glore_nodes(args)
    assert not {"control_refiner", "shuffled_refiner"} & {node.name for node in nodes}
    again = run(*nodes_with_script(args, policy), Path(made["rollouts"]).parent.parent)
    report = read_json(Path(again["report"]) / "report.json")
    full = read_json(Path(made["report"]) / "report.json")
    assert report["accuracy"]["shuffled"] is report["accuracy"]["draft_control"] is None
    assert None not in (full["accuracy"]["shuffled"], full["accuracy"]["draft_shuffled"])
    assert report["accuracy"]["reranked"] == full["accuracy"]["reranked"]


def contents(args: GloreArgs) -> dict[str, str]:
    """What each node's artifact depends on: its stage, its arguments, and the same of its parents."""
    nodes, given = glore_nodes(args)
    found = dict(given)
    for node in nodes:
        found[node.name] = json.dumps([node.stage.name, dataclasses.asdict(node.build(found))])
    return {name: found[name] for name in found if name not in given}


def equal_nodes(args: GloreArgs) -> set[str]:
    one, two = (contents(replace(args, seed=seed)) for seed in (0, 1))
    assert one.keys() == two.keys()
    return {name for name in one if one[name] == two[name]}


def test_two_seeds_share_only_the_greedy_drafts_of_a_student_that_comes_from_outside(policy):
    args = GloreArgs(problems=WORLD, student=StudentArgs(start=str(policy)))
    assert equal_nodes(args) == {"drafts"}
    sampled = replace(args, drafts=replace(args.drafts, sampler=SamplerArgs(temperature=0.7)))
    assert equal_nodes(sampled) == set()
    # a student that is trained here has a seed, and with it everything
    assert equal_nodes(replace(args, student=StudentArgs(start=str(policy), fine_tune=True, rounds=2))) == set()
    # without any difference in their parents, every stage still has a seed of its own
    args = replace(args, given=GivenArgs(rollouts="r", labels="l", orm="o", sorm="s", pairs="p"))
    assert equal_nodes(args) == {"drafts"}


def test_every_stage_gets_the_seed_of_the_pipeline_or_its_own(policy):
    args = GloreArgs(problems=WORLD, seed=3, student=StudentArgs(start=str(policy), fine_tune=True, rounds=2))
    built = {name: json.loads(text)[1] for name, text in contents(args).items()}
    seeds = {name: one["train"]["seed"] if "train" in one else one.get("seed") for name, one in built.items()}
    greedy = ("drafts", "revise", *(f"round_{number}_drafts" for number in range(3)))
    assert {seeds.pop(name) for name in greedy} == {0}
    assert (seeds.pop("round_1_rollouts"), seeds.pop("round_2_rollouts")) == (1003, 2003)
    assert set(seeds.values()) == {3} and str(PIPELINE_SEED) not in map(str, seeds.values())
    own = replace(args, rollouts=replace(args.rollouts, seed=5), orm=replace(args.orm, train=TrainArgs(seed=0)))
    built = {name: json.loads(text)[1] for name, text in contents(own).items()}
    assert built["rollouts"]["seed"] == 5 and built["orm"]["train"]["seed"] == 0 and built["samples"]["seed"] == 3


def changed(args: GloreArgs, dotted: str, value: object) -> GloreArgs:
    name, _, rest = dotted.partition(".")
    return replace(args, **{name: changed(getattr(args, name), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("problems.limit", 5, "problems.limit=5 cannot be set here: set train_problems and test_problems"),
        ("problems.offset", 5, "problems.offset=5 cannot be set here: set train_offset"),
        ("problems.split", "test", "problems.split='test' cannot be set here: the pipeline takes the train split"),
        ("rollouts.problems.limit", 5, "rollouts.problems.limit=5 cannot be set here: set problems, train_problems"),
        ("drafts.problems.world.size", 9, "drafts.problems.world.size=9 cannot be set here"),
        ("refiner.examples", ["local"], r"refiner.examples=\['local'\] cannot be set here"),
        ("refiner.problems.limit", 1, "refiner.problems.limit=1 cannot be set here"),
        ("orm.kind", "sorm", "kind=sorm"),
        ("rerank.samples", 7, "rerank.samples=7 cannot be chosen from samples.n=6"),
        ("given.pairs", "p", "given.pairs=p has no effect: no stage that is left uses it"),
        ("student.start", None, "no student is given: set student.start"),
        ("student.fine_tune", True, None),
        ("problems", None, "choose what to run: experiment=demo"),
        ("problems.source", "gsm8k", "student.start=shipped knows the words of the embedded world only, not gsm8k's"),
        ("headline_when", "orm", r"headline_when=orm is not among rerank.when=\['always'\]"),
        ("rerank.when", ["orm"], r"headline_when=always is not among rerank.when=\['orm'\]"),
        ("rerank.when", ["sometimes"], r"when=\['sometimes'\] must be some of always"),
    ],
)
def test_what_the_pipeline_cannot_use_is_refused(setting, value, message):
    args = GloreArgs(problems=ProblemArgs(), student=StudentArgs(start="shipped"))
    if setting == "given.pairs":
        args = replace(args, given=GivenArgs(**dict.fromkeys(REFINERS, "g")))
    args = changed(args, setting, value)
    if setting == "problems.source":
        args = changed(args, "problems.path", "folder")
    if message is None:
        return validate(args)
    with pytest.raises(ValueError, match=message):
        validate(args)


def test_sft_problems_and_policy_of_a_trained_student_are_the_pipelines():
    args = GloreArgs(problems=ProblemArgs(), student=StudentArgs(start="shipped", fine_tune=True, rounds=1))
    for setting, value in (
        ("student.sft.policy", "p"),
        ("student.sft.problems.limit", 3),
        ("student.round.policy", "p"),
    ):
        with pytest.raises(ValueError, match=f"{setting}={value!r} cannot be set here"):
            validate(changed(args, setting, value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.sft.train.epochs=2"], "student.sft.train.epochs=2 has no effect: student.fine_tune is false"),
        (["student.round_samples=4"], "student.round_samples=4 has no effect: student.rounds is 0"),
        (["given.orm=o", "orm.train.epochs=3"], "orm.train.epochs=3 has no effect: what is given stands in place"),
        (["corrupt.per_problem=2"], "corrupt.per_problem=2 has no effect: warm_up is false"),
        (
            ["given.reward_start=null", "given.orm=o", "given.sorm=s", "warm_up=true"],
            "warm_up=true has no effect: what is given stands in place",
        ),
        (["given.reward_start=r", "warm_up=true"], "warm_up=true has no effect: what is given stands in place"),
        (["given.implicit=nowhere"], "nowhere: there is no such artifact folder"),
        (["train_implicit.beta=1"], "train_implicit.beta=1 has no effect: implicit is false"),
        (
            ["implicit=true", "given.implicit=i", "train_implicit.beta=1"],
            "train_implicit.beta=1 has no effect: what is",
        ),
        (["beam_search.beams=9"], "beam_search.beams=9 has no effect: beam is false"),
        (["refine_until.rounds=9"], "refine_until.rounds=9 has no effect: until is false"),
        (["test_labels.continuations=9"], "test_labels.continuations=9 has no effect: label_test is false"),
        (["given.test_labels=t", "label_test=true"], "label_test=true has no effect: what is given stands in place"),
        (["given.student=s", "student.rounds=2"], "student.rounds=2 has no effect: given.student=s is used"),
        (["given.drafts=d", "given.samples=s", "test_problems=9"], "test_problems=9 has no effect"),
        (["~problems"], "~problems: a setting cannot be taken away; problems=VALUE gives it another value"),
        (["refiner.examples=[global]"], "refiner.examples=[global] has no effect: student.sft learns from solutions"),
        (["orm.policy=nowhere"], "orm.policy: nowhere: there is no such file or folder"),
        (["rerank.sorm=nowhere"], "rerank.sorm: nowhere: there is no such artifact folder"),
        (["problems=gsm8k", "problems.path=d"], "nobody knows the first error of a gsm8k solution; leave oracle out"),
        (["given.orm=nowhere"], "nowhere: there is no such artifact folder"),
        (["given.orm=nowhere", "dry_run=true"], "nowhere: there is no such artifact folder"),
        (
            ["given.student=nowhere"],
            "given.student=nowhere: there is no such folder; a model of the hub is",
        ),
        (["student.start=org/model"], "student.start=org/model: there is no such folder"),
        (["given.reward_start=nowhere"], "given.reward_start=nowhere: there is no such folder"),
        (
            ["problems=gsm8k", "problems.path=d", "student.start=s", "revise.where=[none,orm,sorm]"],
            "given.reward_start=shipped/judge knows the words of the embedded world only, not gsm8k's",
        ),
        (["rollouts.n=0"], "error: rollouts.n must be at least 1, not 0"),
        (["orm.train.learning_rate=-1"], "error: orm.train.learning_rate must be in (0, inf), not -1.0"),
    ],
)
def test_what_is_typed_without_effect_ends_with_one_line(overrides, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glore", "experiment=demo", *overrides])
    with pytest.raises(SystemExit) as raised:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert raised.value.code == 2 and message in line
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("name", ["given.orm", "rerank.orm"])
def test_a_reward_model_of_the_other_kind_is_refused_at_once(made, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glore", "experiment=demo", f"{name}={made['sorm']}", "dry_run=true"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"error: {name}={made['sorm']}: is a reward model of kind=sorm\n" == capsys.readouterr().err


def test_without_arguments_the_command_says_what_to_choose(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["glore"])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "experiment=demo is the embedded world" in line and not list(tmp_path.iterdir())


def test_defaults_are_plain_values():
    assert dataclasses.asdict(GloreArgs())["rollouts"]["n"] == 8


def test_every_stage_asks_with_the_one_prompt(policy):
    chat = PromptArgs("chat", instruction="Solve it.")
    args = replace(arguments(policy), prompt=chat)
    args = replace(args, student=replace(args.student, fine_tune=True, rounds=1))
    validate(args)
    nodes, given = glore_nodes(args)
    paths = {node.name: f"artifact of {node.name}" for node in nodes} | given
    asked = {node.name: own.prompt for node in nodes if hasattr(own := node.build(paths), "prompt")}
    assert set(asked) == {
        *("round_0_drafts", "round_1", "round_1_drafts"),
        *("sft", "round_1_rollouts", "student", "rollouts", "labels", "orm", "drafts", "samples", "sorm"),
        *(*REFINERS, "revise"),
    }
    assert all(prompt == chat for prompt in asked.values())
    for other in (
        replace(args, rollouts=replace(args.rollouts, prompt=PromptArgs("chat"))),
        replace(args, student=replace(args.student, sft=replace(args.student.sft, prompt=PromptArgs("chat")))),
    ):
        with pytest.raises(
            ValueError, match=r"^(rollouts|student\.sft)\.prompt\.kind='chat' cannot be set here: set prompt, which"
        ):
            other.validate()
