"""New problems: who writes them, what is dropped and why, that no test problem gets in, and where a run stops."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.evolve import EVOLVE, REASONS, EvolveArgs, spread
from refine.lema.fields import Dropped
from refine.lema.questions import QuestionExample, QuestionPromptArgs, ask_question, read_question
from refine.lema.votes import agree
from rollouts.backends.scripted import ScriptedSampler
from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Correction, Evolved, Problem
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.budget import BudgetArgs, BudgetSpent, PriceArgs
from rollouts.sampling.protocol import Sample
from rollouts.world.args import WorldArgs
from rollouts.world.claims import Verdict, parse_question
from rollouts.world.evolve import evolve_question, solve_question
from rollouts.world.generator import split_of
from rollouts.world.oracle import judge_steps
from stages.artifacts import Artifact
from stages.make import make
from tests.refine.lema.made import HARD, make_mistakes, world_mistakes, write_script
from tests.worlds import some_problems, world_args


@settings(max_examples=30, deadline=None)
@given(world_args(), st.integers(0, 10**6))
def test_a_new_problem_of_the_world_is_solved_fits_its_settings_and_is_never_a_test_problem(args, seed) -> None:
    try:
        (problem,) = some_problems(replace(args, max_steps=min(args.max_steps, 4), min_steps=1), 1)
    except ValueError:  # settings that allow nothing
        return
    assert solve_question(problem.question)[1] == problem.answer
    question = evolve_question(problem.question, args, random.Random(seed))
    if question is None:
        return
    world = parse_question(question)
    assert question == evolve_question(problem.question, args, random.Random(seed)) and split_of(world) == "train"
    assert len(world.facts) == len(parse_question(problem.question).facts)
    assert max(world.values().values()) <= args.max_value
    solution, answer = solve_question(question)
    new = Problem("n", question, answer, solution, problem.source, "train")
    assert {*judge_steps(new, solution.split("\n"))} == {Verdict.RIGHT} and grade(solution, answer).correct


QUESTION = "A box has 4 rows of 3 pens and 2 more. How many pens are there?"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (QUESTION, QUESTION),
        (f"**New Problem:** {QUESTION}", QUESTION),
        (f"Problem: {QUESTION}", QUESTION),
        (f"Sure! Here it is.\n\nNew problem:\n```\n{QUESTION}\n```", QUESTION),
        (f"<think>3 or 4?</think>\n{QUESTION}", QUESTION),
        ("A box has 4 rows.\nHow many pens are there?", "A box has 4 rows. How many pens are there?"),
    ],
)
def test_the_question_of_a_reply(text: str, wanted: str) -> None:
    assert read_question(text) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("x" * 9000, "too_long"),
        ("how " * 600 + "?", "too_long"),
        ("How many pens \x1b[31m are there?", "control_characters"),
        (f"New problem: {QUESTION}\nNew problem: {QUESTION}", "repeated"),
        (f"Question: {QUESTION}\nQuestion: {QUESTION}", "repeated"),
        (f"{QUESTION}\nQuestion: {QUESTION}", "repeated"),
        (f"{QUESTION}\nSolution: 4 * 3 = 12", "solved"),
        (f"{QUESTION}\n#### 14", "solved"),
        (f"{QUESTION}\n**Answer:** 14", "solved"),
        ("I am sorry, that is not possible.", "no_question"),
        ("New problem:", "no_question"),
        ("What?", "no_question"),
    ],
)
def test_a_reply_without_one_question_is_dropped_for_its_reason(text: str, reason: str) -> None:
    with pytest.raises(Dropped, match=reason):
        read_question(text)
    assert reason in REASONS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_reply_can_be_read_or_is_dropped_for_a_known_reason(text: str) -> None:
    try:
        assert len(read_question(text)) <= 2000
    except Dropped as reason:
        assert str(reason) in REASONS


def test_what_a_policy_reads() -> None:
    args = QuestionPromptArgs("Write one.", [QuestionExample("p?", "n?")])
    assert ask_question("What now?", args) == (
        "Write one.\n\nProblem: p?\nNew problem:\nn?\n\nProblem: What now?\nNew problem:\n"
    )
    with pytest.raises(ValueError, match=r"ask.system='s' is used with ask.chat=true only"):
        replace(args, system="s").validate()


def samples(*texts: str) -> list[Sample]:
    return [Sample("r", n, text, "stop", 1, 1, 0) for n, text in enumerate(texts)]


def test_equal_answers_are_one_vote_and_what_was_cut_off_has_none() -> None:
    vote = agree(QUESTION, samples("a\n#### 1/2", "b\n#### 3", "c\n#### 0.5", "nothing"))
    assert (vote.answer, vote.solution, vote.answered, vote.agreed, vote.graded) == ("1/2", "a\n#### 1/2", 3, 2, True)
    cut = [replace(one, finish_reason="length") for one in samples("#### 3", "#### 3")]
    assert agree(QUESTION, cut).agreed == 0
    asked = "Where is money kept?\nAnswer choices: (A) sea (B) bank"
    vote = agree(asked, samples("So\n#### B", "So\n#### (B) bank", "So\n#### (C) moon"), choices=True)
    assert (vote.answer, vote.answered, vote.agreed) == ("(B) bank", 2, 2)


def test_replies_are_spread_evenly_over_the_seeds() -> None:
    seeds = [Problem(f"p{n}", f"{n}?", "1", None, "s", "train") for n in range(4)]
    counts = spread(seeds, 10, 0)
    assert sum(counts.values()) == 10 and set(counts.values()) == {2, 3} and counts == spread(seeds, 10, 0)
    assert sum(spread(seeds, 3, 1).values()) == 3 == len(spread(seeds, 3, 1))


@pytest.fixture(scope="module")
def corrections(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Corrections of the embedded world, by its oracle, of some of its problems."""
    root = tmp_path_factory.mktemp("made")
    problems, own = world_mistakes(8, HARD)
    own = [one for one in own if one.problem_id in {problem.id for problem in problems[:3]}]
    source = make_mistakes(root, write_script(root / "student", {"*": ["a"]}), own, problems)
    return make(CORRECT, CorrectArgs(mistakes=str(source.path)), root)[0]


def test_the_world_evolves_what_was_corrected_or_everything(corrections: Artifact, tmp_path: Path) -> None:
    problems = ProblemArgs(world=HARD, limit=8)
    args = EvolveArgs(corrections=str(corrections.path), problems=problems, size=12)
    made = make(EVOLVE, args, tmp_path)[0]
    rows = made.rows(Evolved)
    kept = {row.problem_id for row in corrections.rows(Correction) if row.reason is None}
    assert {row.seed_id for row in rows} <= kept and made.manifest["counts"]["seeds"] == len(kept) < 8
    assert len(rows) == 12 and set(Counter(row.reason for row in rows)) <= {None, "no_fit", "copy"}
    loaded = load_problems(ProblemArgs("artifact", path=str(made.path)))
    assert [one.id for one in loaded] == [row.id for row in rows if row.reason is None] and loaded
    assert {(one.source, one.split) for one in loaded} == {("arithmetic", "train")}
    assert all(grade(one.solution, one.answer).correct for one in loaded)
    control = make(EVOLVE, replace(args, corrections=None, seeds="all"), tmp_path)[0]
    assert {row.seed_id for row in control.rows(Evolved)} == {one.id for one in load_problems(problems)}
    with pytest.raises(ValueError, match="split 'test' is empty"):
        load_problems(ProblemArgs("artifact", path=str(made.path), split="test"))


TRAIN, TEST = (
    "Tom has 3 red pens and 4 blue ones. How many pens has he?",
    ("A train goes 60 miles an hour for 3 hours and then 40 miles an hour for 2 hours. How far does it go in all?"),
)
NEAR = "A train goes 55 miles an hour for 2 hours and then 35 miles an hour for 4 hours. How far does it go in all?"


@pytest.fixture
def file(tmp_path: Path) -> ProblemArgs:
    """A file whose train split has one problem, and whose others have the test problem."""
    rows = [{"question": TRAIN, "answer": 7}]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return ProblemArgs("jsonl", path=str(path), split_shares=[1.0, 0.0, 0.0])


def scripted(folder: Path, replies: list[str], solutions: list[str], problems: ProblemArgs, **more: Any) -> EvolveArgs:
    """A policy that writes these questions, and these solutions of each."""
    script = {load_problems(problems)[0].id: replies, "*": solutions}
    return EvolveArgs(
        problems=problems, seeds="all", policy=write_script(folder, script), size=len(replies), answers=len(solutions),
        sampler=SamplerArgs(backend="scripted", max_tokens=200), **more,
    )  # fmt: skip


NEW = [f"Ann buys {n} big boxes of {n + 2} stamps each. How many stamps does she buy in all?" for n in range(4)]


def test_only_questions_on_which_the_policy_agrees_with_itself_are_kept(file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("refine.lema.evolve.load_untrained", lambda _: [Problem("t", TEST, "260", None, "s", "test")])
    replies = [NEW[0], TRAIN, NEAR, NEW[0], "No.", f"{NEW[1]}\n#### 3", NEW[2]]
    args = scripted(tmp_path / "p", replies, ["So\n#### 6", "#### 6", "#### 7"], file, price=PriceArgs(1.0, 1.0))
    made = make(EVOLVE, args, tmp_path)[0]
    rows = made.rows(Evolved)
    assert [row.reason for row in rows] == [None, "copy", "test_copy", "copy", "no_question", "solved", None]
    assert (rows[0].answer, rows[0].solution, rows[0].agreed, rows[0].answers) == ("6", "So\n#### 6", 2, 3)
    (first, _) = made.rows(Problem, "problems")
    assert (first.question, first.answer, first.source, first.split) == (NEW[0], "6", "jsonl", "train")
    counts = made.manifest["counts"]
    assert counts["dropped_test_copy"] == 1 and counts["kept"] == 2
    assert counts["cost"] == (counts["prompt_tokens"] + counts["completion_tokens"]) / 1e6
    with pytest.raises(ValueError, match=r"not one of 7 new problems is kept: \{.*'disagreement': 2"):
        make(EVOLVE, replace(args, agreement=0.7), tmp_path)
    with pytest.raises(ValueError, match=r"not one of 7 new problems is kept: \{.*'no_answer': 2"):
        make(EVOLVE, scripted(tmp_path / "q", replies, ["a", "b", "c"], file), tmp_path)


def test_a_budget_stops_both_parts_and_a_larger_one_pays_for_nothing_twice(file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("refine.lema.evolve.load_untrained", lambda _: [])
    asked: Counter[tuple[str, int]] = Counter()
    answer = ScriptedSampler.sample

    def sample(self: ScriptedSampler, requests: Any) -> Any:
        for one in answer(self, requests):
            asked[one.request_id, one.index] += 1
            yield one

    monkeypatch.setattr(ScriptedSampler, "sample", sample)
    args = scripted(tmp_path / "p", NEW, ["So\n#### 6"] * 4, file)
    with pytest.raises(BudgetSpent, match=r"write: the budget is spent .*: [123] of 4 samples"):
        make(EVOLVE, replace(args, budget=BudgetArgs(tokens=680)), tmp_path)
    with pytest.raises(BudgetSpent, match=r"solve: the budget is spent"):
        make(EVOLVE, replace(args, budget=BudgetArgs(tokens=900)), tmp_path)
    made = make(EVOLVE, replace(args, budget=BudgetArgs(tokens=100_000)), tmp_path)[0]
    assert made.manifest["counts"]["kept"] == 4
    assert len(asked) == 4 + 4 * 4 and set(asked.values()) == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "some"}, "seeds='some' is none of corrections, all"),
        ({"corrections": None}, "seeds=corrections with corrections=None"),
        ({"policy": "p"}, "problems.source=arithmetic with policy=p: the embedded world writes its own"),
        ({"problems": ProblemArgs("jsonl", path="f")}, "problems.source=jsonl with policy=None"),
        ({"problems": ProblemArgs(split="test")}, "problems.split=test: only problems of the train split"),
        (
            {"problems": ProblemArgs("jsonl", path="f"), "policy": "p", "sampler": SamplerArgs(temperature=0.0)},
            "greedy solutions would all be the same",
        ),
        ({"agreement": 0.0}, r"agreement must be in \(0, 1\]"),
    ],
)
def test_what_cannot_be_evolved_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        args = replace(EvolveArgs(corrections="c"), **changes)
        args.validate()
        args.check_writer()


def test_nothing_is_evolved_from_test_problems(corrections: Artifact, tmp_path: Path) -> None:
    problems, own = world_mistakes(2, WorldArgs())
    odd = [replace(problem, split="test") for problem in problems]
    source = make_mistakes(tmp_path, write_script(tmp_path / "s", {"*": ["a"]}), own, odd)
    made = make(CORRECT, CorrectArgs(mistakes=str(source.path)), tmp_path)[0]
    with pytest.raises(ValueError, match="is of the test split, which is never evolved"):
        make(EVOLVE, EvolveArgs(corrections=str(made.path), problems=ProblemArgs(limit=2)), tmp_path)
