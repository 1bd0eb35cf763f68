"""LeMa as a pipeline: which stages there are and what they read, a run in little, its report, and several seeds."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.claims import run as run_claims
from experiments.commands.config import validate
from experiments.lema import main
from experiments.pipelines.lema import ARMS, GivenArgs, LemaArgs, lema_nodes
from experiments.report.lema import LemaReportArgs, finding
from refine.lema.report import arm_outcomes, arm_pairs, asked_outcomes, build_arms, build_asked, guess_rate
from refine.lema.texts import CorrectionTextArgs, ask_as_trained
from refine.mix import MixArgs
from rollouts.problems.args import ProblemArgs
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.args import SamplerArgs
from rollouts.world.oracle import true_first_error
from stages.artifacts import open_artifact
from stages.files import read_json
from stages.make import make
from stages.pipeline import NodeResult, run_pipeline
from tests.refine.lema.made import HARD, world_mistakes
from tests.tiny import problem, rollout
from tests.worlds import some_problems
from training.args import TrainArgs

WORLD = ProblemArgs(source="arithmetic")


def little(start: str, **changes: Any) -> LemaArgs:
    """The pipeline of the embedded world on a few problems."""
    args = LemaArgs(problems=WORLD, start=start, train_problems=12, test_problems=10, cot="solutions")
    train = TrainArgs(max_steps=2, tokens_per_step=512, tokens_per_batch=512, learning_rate=1e-3, device="cpu", seed=-1)
    return replace(
        args,
        rollouts=replace(args.rollouts, n=2, sampler=SamplerArgs(max_tokens=112)),
        samples=replace(args.samples, sampler=SamplerArgs(max_tokens=112, temperature=0.0)),
        asked=replace(args.asked, sampler=SamplerArgs(max_tokens=64, temperature=0.0)),
        train=replace(args.train, max_length=512, train=train),
        **changes,
    )


def run(args: LemaArgs, root: Path) -> dict[str, str]:
    """Run the stages in this process; returns the path of each."""
    validate(args)
    nodes, given = lema_nodes(args)

    def run_here(node: Any, stage_args: Any) -> NodeResult:
        return NodeResult(*((made := make(node.stage, stage_args, root))[0].path, made[1]))

    return {name: str(result.path) for name, result in run_pipeline(nodes, given, run_here, 1).items()}


def built(args: LemaArgs) -> dict[str, Any]:
    """The arguments of each stage, with names in place of paths."""
    validate(args)
    nodes, given = lema_nodes(args, find=str)
    paths = {name: f"<{name}>" for name in [*given, *(node.name for node in nodes)]}
    return {node.name: node.build(paths) for node in nodes}


ARGS = LemaArgs(problems=WORLD, start="S", error_rates=[0.2], seed=3)


def test_every_arm_begins_with_the_student_and_differs_in_one_thing() -> None:
    own = built(ARGS)
    arms = {name: own[name] for name in ("cot", *ARMS, "errors_20")}
    assert {one.policy for one in arms.values()} == {"<student>"}
    assert arms["cot"].examples == ["rollouts"] and arms["cot"].mix == MixArgs() and not arms["cot"].corrections
    base = arms["equal_examples"]
    assert (base.examples, base.rollouts, base.corrections) == (
        ["rollouts", "corrections"], "<rollouts>", ["<corrections>"],
    )  # fmt: skip
    assert base.mix == MixArgs("examples", corrections=0.25) and base.train.seed == 3
    wanted = {
        "equal_tokens": {"mix": MixArgs("tokens", corrections=0.25)},
        "more_data": {"mix": MixArgs()},
        "no_explanation": {"correction": replace(base.correction, explanation=False)},
        "no_wrong_step": {"correction": replace(base.correction, wrong_step=False)},
        "errors_20": {"corrections": ["<errors_20_corrections>"]},
    }
    for name, changed in wanted.items():
        assert arms[name] == replace(base, **changed)
    oracle = own["errors_20_corrections"].oracle
    assert (oracle.wrong_step, oracle.wrong_explanation, oracle.wrong_correction, oracle.hidden_error) == (
        0.2, 0.2, 0.2, 0.0,
    )  # fmt: skip
    assert own["corrections"] == replace(own["errors_20_corrections"], oracle=type(oracle)())
    assert {own[f"{name}_samples"].policy for name in arms} == {f"<{name}>" for name in arms}
    assert own["student_samples"].policy == "<student>"
    assert {own[f"{name}_samples"].problems.split for name in arms} == {"test"}
    assert own["report"].arms == list(arms) and own["report"].trained_on == ["<rollouts>"]


def test_every_arm_is_asked_to_correct_test_mistakes_in_the_words_that_it_was_trained_on() -> None:
    own = built(ARGS)
    arms = own["report"].arms
    assert own["test_mistakes"].rollouts == ["<student_samples>"] and own["test_mistakes"].allow_empty
    assert own["report"].asked == [f"<{arm}_asked>" for arm in arms] and own["report"].asked_names == arms
    for arm in arms:
        asked = own[f"{arm}_asked"]
        assert (asked.mistakes, asked.policy, asked.n) == ("<test_mistakes>", f"<{arm}>", 1)
        assert asked.ask == ask_as_trained(own[arm].correction, ARGS.prompt) and asked.sampler.temperature == 0
    assert own["no_explanation_asked"].ask.parts == ["step", "solution"]
    left = built(replace(ARGS, ask_policies=False))
    assert set(own) - set(left) == {"test_mistakes", *(f"{arm}_asked" for arm in arms)} and left["report"].asked == []


def test_new_problems_from_corrections_and_from_all_are_an_arm_each() -> None:
    args = replace(ARGS, evolve=["corrections", "all"], error_rates=[], cot="both")
    own = built(args)
    assert own["report"].arms[-3:] == ["no_wrong_step", "evolve_corrections", "evolve_all"]
    first, control = own["new_corrections"], own["new_all"]
    assert (first.corrections, first.seeds, first.policy) == ("<corrections>", "corrections", None)
    assert control == replace(first, corrections=None, seeds="all") and first.problems == own["rollouts"].problems
    for seeds in args.evolve:
        new = f"new_{seeds}"
        problems = ProblemArgs("artifact", path=f"<{new}>")
        assert own[f"{new}_rollouts"] == replace(own["rollouts"], problems=problems)
        assert own[f"{new}_mistakes"] == replace(own["mistakes"], rollouts=[f"<{new}_rollouts>"])
        assert own[f"evolve_{seeds}"] == replace(
            own["more_data"], evolved=[f"<{new}>"], more_rollouts=[f"<{new}_rollouts>"],
            corrections=["<corrections>", f"<{new}_corrections>"],
        )  # fmt: skip
        assert f"<{new}_rollouts>" in own["report"].trained_on and f"<{new}_corrections>" in own["report"].corrections
        assert own[f"evolve_{seeds}_samples"].policy == f"<evolve_{seeds}>"
    assert {f"<{arm}_asked>" for arm in own["report"].arms} & set(own["report"].corrections) == set()


def test_the_strong_policy_writes_and_solves_new_problems_elsewhere() -> None:
    corrections = replace(ARGS.corrections, corrector="policy", policy="C")
    args = replace(
        ARGS, problems=ProblemArgs("gsm8k", path="d"), error_rates=[], corrections=corrections, strong="T",
        evolve=["all"], arms=[],
    )  # fmt: skip
    own = built(args)
    assert own["new_all"].policy == "<strong>" and own["new_all_cot_rollouts"].policy == "<strong>"
    assert own["evolve_all"].more_rollouts == ["<new_all_cot_rollouts>"] and own["evolve_all"].evolved == []
    mine = built(replace(args, evolution=replace(args.evolution, policy="E")))
    assert mine["new_all"].policy == "<new_all.policy>"
    with pytest.raises(ValueError, match=r"evolve=\['all'\] needs evolution.policy or strong"):
        validate(replace(args, strong=None))


@pytest.mark.parametrize("policy", [None, "E"])
def test_one_writer_has_an_arm_for_each_choice_of_seeds_whose_problems_the_strong_policy_solves(policy) -> None:
    corrections = replace(ARGS.corrections, corrector="policy", policy="C")
    args = replace(
        ARGS, problems=ProblemArgs("gsm8k", path="d"), error_rates=[], corrections=corrections, strong="T",
        evolve=["corrections", "all"], evolution=replace(ARGS.evolution, policy=policy),
    )  # fmt: skip
    own = built(args)
    for seeds, parent in (("corrections", "<corrections>"), ("all", None)):
        new = f"new_{seeds}"
        writer = "<strong>" if policy is None else f"<{new}.policy>"
        assert (own[new].seeds, own[new].corrections, own[new].policy) == (seeds, parent, writer)
        problems = ProblemArgs("artifact", path=f"<{new}>")
        assert own[f"{new}_cot_rollouts"] == replace(own["cot_rollouts"], problems=problems)
        assert own[f"evolve_{seeds}"].more_rollouts == [f"<{new}_cot_rollouts>"]
        assert own[f"evolve_{seeds}"].corrections == ["<corrections>", f"<{new}_corrections>"]


def test_mistakes_of_several_sources_and_cot_of_a_strong_policy() -> None:
    own = built(replace(ARGS, sources=["A", "B"], strong="T", cot="both", error_rates=[], train_problems=7))
    assert own["mistakes"].rollouts == ["<rollouts>", "<source_1_rollouts>", "<source_2_rollouts>"]
    assert own["source_2_rollouts"] == replace(own["rollouts"], policy="<source_2>")
    assert own["cot"].examples == ["solutions", "rollouts"] and own["cot"].rollouts == "<cot_rollouts>"
    assert own["cot_rollouts"].policy == "<strong>" and own["cot"].problems == own["cot_rollouts"].problems
    assert own["cot"].problems.limit == 7 and own["cot"].problems.split == "train"
    assert set(own["report"].trained_on) == {f"<{name}>" for name in own if name.endswith("rollouts")}


def test_a_corrector_of_ones_own_is_a_parent_of_corrections() -> None:
    corrections = replace(ARGS.corrections, corrector="policy", policy="C")
    own = built(replace(ARGS, problems=ProblemArgs("gsm8k", path="d"), error_rates=[], corrections=corrections))
    assert own["corrections"].policy == "<corrections.policy>"


def test_what_is_given_stands_in_for_stages() -> None:
    own = built(replace(ARGS, error_rates=[], cot="solutions", given=GivenArgs(corrections="C")))
    assert not {"rollouts", "mistakes", "corrections"} & own.keys()
    assert own["equal_tokens"].corrections == ["<corrections>"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": None}, "choose what to run: experiment=demo_lema"),
        ({"problems": ProblemArgs("gsm8k", path="d")}, "corrector=oracle knows the embedded world only, not gsm8k"),
        ({"sources": ["S"]}, r"sources=\['S'\] must differ, and none is start=S"),
        ({"start": None}, "no student is given: set start"),
        ({"arms": ["equal"]}, r"arms=\['equal'\] must be some of equal_examples"),
        ({"arms": [], "error_rates": []}, "leaves nothing to compare"),
        ({"error_rates": [0.2, 0.2]}, r"error_rates=\[0.2, 0.2\] must be different whole per cents"),
        ({"error_rates": [2.0]}, r"oracle.wrong_step must be in \[0, 1\], not 2.0"),
        ({"error_kinds": ["step"]}, r"error_kinds=\['step'\] must be some of"),
        ({"evolve": ["some"]}, r"evolve=\['some'\] must be some of corrections, all, each once"),
        ({"evolution": replace(ARGS.evolution, corrections="c"), "evolve": ["all"]}, "corrections='c' cannot be set"),
        ({"evolution": replace(ARGS.evolution, policy="p"), "evolve": ["all"]}, "the embedded world writes its own"),
        ({"train": replace(ARGS.train, correction=CorrectionTextArgs(shape="revise"))}, "set ask_policies=false"),
        ({"share": 1.0}, r"share must be in \(0, 1\), not 1.0"),
        ({"cot": "gold"}, "cot='gold' is none of"),
        ({"train": replace(ARGS.train, corrections=["x"])}, r"train.corrections=\['x'\] cannot be set here"),
        ({"train": replace(ARGS.train, mix=MixArgs("tokens"))}, "train.mix.by='tokens' cannot be set here: set arms"),
        ({"problems": ProblemArgs(limit=3)}, "problems.limit=3 cannot be set here"),
        ({"asked": replace(ARGS.asked, policy="p")}, "asked.policy='p' cannot be set here"),
        ({"given": GivenArgs(cot_rollouts="r"), "cot": "solutions"}, "given.cot_rollouts=r has no effect"),
    ],
)
def test_what_the_pipeline_cannot_use_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(replace(ARGS, **changes))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cot_rollouts.n=3"], "cot_rollouts.n=3 has no effect: strong is null"),
        (
            ["error_rates=[]", "error_kinds=[wrong_step]"],
            "error_kinds=[wrong_step] has no effect: error_rates is empty",
        ),
        (["ask_policies=false", "asked.seed=2"], "asked.seed=2 has no effect: ask_policies is false"),
        (["asked.ask.layout=json"], "asked.ask.layout='json' cannot be set here: the policies are asked as they were"),
        (["evolution.size=3"], "evolution.size=3 has no effect: evolve is empty"),
        (["start=nowhere"], "start=nowhere: there is no such folder"),
        (["sources=[nowhere]"], "sources[0]=nowhere: there is no such folder"),
        (["given.corrections=nowhere"], "given.corrections: nowhere: there is no such artifact folder"),
        (["train.policy=d"], "train.policy='d' cannot be set here: set start, which all arms begin with"),
    ],
)
def test_what_is_typed_without_effect_ends_with_one_line(overrides, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lema", "experiment=demo_lema", *overrides])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (tmp_path / "artifacts").exists()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Two seeds of a few arms, each trained for a moment."""
    root = tmp_path_factory.mktemp("lema")
    args = little("shipped", arms=["equal_examples", "no_explanation"], evolve=["all"])
    args = replace(args, evolution=replace(args.evolution, size=8))
    return [run(replace(args, seed=seed), root) for seed in (0, 1)]


def test_a_run_ends_in_a_report(two_runs: list[dict[str, str]]) -> None:
    paths = two_runs[0]
    report = read_json(Path(paths["report"]) / "report.json")
    kept = [one for one in open_artifact(paths["corrections"]).rows(Correction) if one.reason is None]
    assert kept and report["corrections"]["corrections"]["kept"] == len(kept)
    trained = report["trained"]
    assert trained["cot"]["solutions_examples"] == 12
    mixed = trained["equal_examples"]
    assert (mixed["solutions_examples"], mixed["corrections_examples"]) == (9, 3)
    assert trained["no_explanation"]["corrections_tokens"] < mixed["corrections_tokens"]
    assert set(report["accuracy"]) == {"student", "cot", "equal_examples", "no_explanation", "evolve_all"}
    new = open_artifact(paths["new_all"]).rows(Problem, "problems")
    assert trained["evolve_all"]["solutions_examples"] == 12 + len(new) > 12
    of_new = report["corrections"]["new_all_corrections"]["kept"]
    assert len(kept) < trained["evolve_all"]["corrections_examples"] <= len(kept) + of_new
    assert report["problems"] == 10 and report["headline"] == "equal_examples"
    text = (Path(paths["report"]) / "report.md").read_text()
    mistakes = open_artifact(paths["test_mistakes"]).rows(Mistake)
    arms = report["asked"]["arms"]
    assert set(arms) == {"cot", "equal_examples", "no_explanation", "evolve_all"} and 0 < report["asked"]["chance"] < 1
    for own in arms.values():
        assert [own[what]["n"] for what in ("read", "names", "mends")] == [len(mistakes)] * 3
        assert own["names"]["value"] <= own["read"]["value"]
    assert arms["cot"]["read"]["value"] == 0 and "| CoT alone |" in text.partition("## Asked to correct")[2]
    assert "| CoT + corrections, equal examples |" in text and "**Main finding: not shown that corrections help" in text


def test_two_seeds_share_what_no_seed_changes_and_make_one_table(two_runs, tmp_path, capsys) -> None:
    first, second = two_runs
    assert {name for name in first if first[name] == second[name]} == {"student_samples"}
    for seed, paths in enumerate(two_runs):
        folder = tmp_path / "runs" / f"seed={seed}"
        folder.mkdir(parents=True)
        for name in ("report.json", "outcomes.parquet"):
            (folder / name).write_bytes((Path(paths["report"]) / name).read_bytes())
    assert run_claims([str(tmp_path / "runs")]) == 0
    claims = read_json(tmp_path / "runs" / "claims.json")
    assert [one["claim"] for one in claims["claims"]] == [
        "CoT + corrections, equal examples beats CoT alone",
        "equal examples, no explanation beats CoT alone",
        "more data + problems evolved from all beats CoT alone",
        "CoT alone beats the student, not trained",
        "CoT + corrections, equal examples names the wrong step more often than CoT alone",
        "equal examples, no explanation names the wrong step more often than CoT alone",
        "more data + problems evolved from all names the wrong step more often than CoT alone",
    ]
    assert [one["first"] for one in claims["accuracy"]] == [
        [f"right {arm}"] for arm in ("student", "cot", "equal_examples", "no_explanation", "evolve_all")
    ]
    assert claims["accuracy"][1]["runs"] == [
        read_json(Path(paths["report"]) / "report.json")["accuracy"]["cot"]["value"] for paths in two_runs
    ]
    assert "Main finding: " in capsys.readouterr().out
    text = (tmp_path / "runs" / "claims.md").read_text()
    assert "corrections help here: CoT + corrections, equal examples, minus CoT alone is" in text
    assert "## Accuracy\n\n| trained on | right |" in text and "| CoT alone | " in text
    assert "## Claims of LeMa" in text and "GLoRe" not in text


def test_new_problems_are_held_against_more_data_and_against_each_other() -> None:
    arms = ["student", "cot", "more_data", "evolve_corrections", "evolve_all"]
    assert arm_pairs(arms) == [
        ("evolve_corrections", "more_data"), ("evolve_all", "more_data"), ("evolve_corrections", "evolve_all"),
    ]  # fmt: skip
    problems = [problem(f"p{n}", f"{n}?") for n in range(4)]
    right = {arm: n for n, arm in enumerate(arms)}
    own = {arm: [rollout(["a"], n < right[arm], 0, f"p{n}") for n in range(4)] for arm in arms}
    pairs = build_arms(arm_outcomes(problems, own), 0, resamples=100)["pairs"]
    assert [one["value"] for one in pairs.values()] == [0.25, 0.5, -0.25]
    assert "evolve_corrections_minus_evolve_all" in pairs


def arms_of(cot: list[bool | None], equal: list[bool]) -> dict[str, Any]:
    problems = [problem(f"p{n}", f"{n}?") for n in range(len(cot))]
    own = {
        arm: [rollout(["a"], right, 0, f"p{n}") for n, right in enumerate(rights)]
        for arm, rights in (("cot", cot), ("equal_examples", equal))
    }
    found = build_arms(arm_outcomes(problems, own), 0, resamples=500)
    return {"headline": "equal_examples", "seed": 0, **found}


@pytest.mark.parametrize(
    ("cot", "equal", "said"),
    [
        ([False] * 30 + [True] * 10, [True] * 40, "corrections help here"),
        ([True] * 40, [False] * 30 + [True] * 10, "corrections hurt here"),
        ([True, False] * 20, [False, True] * 20, "not shown that corrections help here"),
        ([False] * 5, [True] * 5, "not shown that corrections help here"),  # too few to say
    ],
)
def test_the_first_sentence_says_what_the_interval_allows(cot, equal, said) -> None:
    report = arms_of(cot, equal)
    assert finding(report).startswith(f"**Main finding: {said}**")
    change = sum(equal) / len(equal) - sum(cot) / len(cot)
    assert report["difference"]["equal_examples"]["value"] == pytest.approx(change)


def test_what_could_not_be_graded_is_not_right_and_other_problems_are_refused() -> None:
    assert arms_of([None, True], [True, True])["accuracy"]["cot"]["value"] == 0.5
    with pytest.raises(ValueError, match="arm cot has no solution of q"):
        arm_outcomes([problem("p"), problem("q")], {"cot": [rollout(["a"], True)]})
    with pytest.raises(ValueError, match="arm cot has a solution of p, which is none of the test problems"):
        arm_outcomes([problem("q")], {"cot": [rollout(["a"], True)]})


def replies(*kinds: str) -> list[Correction]:
    """One correction of each mistake of a world: `right` names the true step, `wrong` another one, `unread` none."""
    problems, own = world_mistakes(len(kinds), HARD)
    found = []
    for kind, one in zip(kinds, problems, strict=True):
        mistake = next(row for row in own if row.problem_id == one.id)
        truth = true_first_error(one, mistake.steps) + 1
        step = {"right": truth, "wrong": truth % len(mistake.steps) + 1, "unread": None}[kind]
        reason = None if kind == "right" else "wrong_answer"
        found.append(
            Correction(kind, one.id, mistake.id, "s", "c", 0, mistake.steps, None, step, "", (), None, reason, "", 1, 1)
        )
    return found


def test_what_a_policy_replies_is_held_against_the_oracle() -> None:
    kinds = ["right", "wrong", "unread", "right"]
    problems = some_problems(HARD, len(kinds))
    known = {one.id: one for one in problems}
    rows = replies(*kinds)
    outcomes = asked_outcomes(problems, {"cot": (rows[:0], known), "equal_examples": (rows, known)})
    assert len({one.problem for one in outcomes}) == 4
    own = build_asked(outcomes, guess_rate(rows), 0, resamples=200)["arms"]["equal_examples"]
    assert [own[what]["value"] for what in ("read", "names", "mends")] == [0.75, 0.5, 0.5]
    assert own["names"]["low"] > 0 and own["names"]["n"] == 4  # Wilson's: a bootstrap of so few has 0 in it
    assert guess_rate(rows) == pytest.approx(sum(1 / len(row.mistake) for row in rows) / 4)
    elsewhere = {one.id: replace(one, source="gsm8k") for one in problems}
    assert {one.measure for one in asked_outcomes(problems, {"a": (rows, elsewhere)})} == {"read a", "mends a"}
    with pytest.raises(ValueError, match=r"arm a was asked about .*, which is none of the test problems"):
        asked_outcomes(problems[:1], {"a": (rows, known)})
    assert build_asked([], None, 0) == {}


def test_a_report_needs_cot_alone_and_a_name_for_each_artifact() -> None:
    args = LemaReportArgs(start="s", samples=["a", "b"], policies=["a", "b"], arms=["x", "y"])
    with pytest.raises(ValueError, match="cot and another one are needed"):
        args.validate()
    with pytest.raises(ValueError, match=r"2 artifacts with 1 names: \['cot'\]"):
        replace(args, arms=["cot"]).validate()


def test_defaults_are_plain_values() -> None:
    json.dumps(dataclasses.asdict(LemaArgs()))
