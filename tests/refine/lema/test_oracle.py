"""The embedded world's corrector: right unless it is told to err, and then as often as it is told to."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings

from refine.lema.judge import judge_reply
from refine.lema.oracle import NO_STEP, OracleArgs, OracleSampler, find_mistake, write_correction
from refine.lema.reply import parse_correction
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.protocol import Request, Sample
from rollouts.world.args import WorldArgs
from rollouts.world.oracle import true_first_error
from tests.refine.lema.made import HARD, world_mistakes
from tests.worlds import world_args

PROBLEMS, MISTAKES = world_mistakes(40, HARD)
BY_ID = {problem.id: problem for problem in PROBLEMS}


def judged(problem: Problem, mistake: Mistake, args: OracleArgs, seed: int = 0) -> Correction:
    text = write_correction(problem, mistake, args, random.Random(seed))
    return judge_reply(problem, mistake, Sample(mistake.id, 0, text, "stop", 1, 1, 0), "oracle", None)


def all_judged(**shares: float) -> list[Correction]:
    args = OracleArgs(**shares)
    args.validate()
    return [judged(BY_ID[one.problem_id], one, args, n) for n, one in enumerate(MISTAKES)]


@settings(max_examples=25, deadline=None)
@given(world_args())
def test_it_names_the_first_wrong_step_and_corrects_it_in_any_world(world: WorldArgs) -> None:
    problems, mistakes = world_mistakes(3, world)
    by_id = {problem.id: problem for problem in problems}
    for mistake in mistakes:
        problem = by_id[mistake.problem_id]
        found = judged(problem, mistake, OracleArgs())
        assert found.reason is None, found.text
        assert found.wrong_step == true_first_error(problem, mistake.steps) + 1
        assert true_first_error(problem, found.steps) is None and found.answer == problem.answer


def test_it_finds_no_mistake_in_a_right_solution() -> None:
    right = Mistake("m", PROBLEMS[0].id, "a", "k", "r", tuple(PROBLEMS[0].solution.split("\n")), "0")
    assert write_correction(PROBLEMS[0], right, OracleArgs(), random.Random(0)) == NO_STEP
    assert judged(PROBLEMS[0], right, OracleArgs()).reason == "no_step"


def test_a_wrong_step_is_another_one_that_is_there_and_the_mistake_stays() -> None:
    rows = all_judged(wrong_step=1.0)
    kept = [row for row in rows if row.reason is None]
    assert len(kept) > len(rows) / 2 and {row.reason for row in rows} == {None, "unchanged"}
    for row in kept:
        problem = BY_ID[row.problem_id]
        true = true_first_error(problem, row.mistake) + 1
        assert row.wrong_step != true and row.answer == problem.answer
        assert f"step {row.wrong_step} " in row.explanation.lower()  # it is that step that it explains
        assert (true_first_error(problem, row.steps) is None) == (row.wrong_step < true)


def test_a_wrong_explanation_is_that_of_another_mistake() -> None:
    for right, odd in zip(all_judged(), all_judged(wrong_explanation=1.0), strict=True):
        assert odd.reason is None and odd.explanation != right.explanation
        assert (odd.wrong_step, odd.steps) == (right.wrong_step, right.steps)


def test_a_wrong_correction_has_another_answer() -> None:
    rows = all_judged(wrong_correction=1.0)
    dropped = [row for row in rows if row.reason in ("wrong_answer", "unchanged")]
    assert len(dropped) > 0.98 * len(rows)  # some mistakes come to the right answer by chance


def test_a_hidden_error_passes_the_filter() -> None:
    rows = [row for row in all_judged(hidden_error=1.0) if len(row.steps) > row.wrong_step]
    seen = [true_first_error(BY_ID[row.problem_id], row.steps) is not None for row in rows if row.reason is None]
    assert sum(seen) > 0.9 * len(rows) and all(row.answer == BY_ID[row.problem_id].answer for row in rows)


@pytest.mark.parametrize("share", ["wrong_step", "wrong_explanation", "wrong_correction", "hidden_error"])
def test_shares_are_kept(share: str) -> None:
    mistake = next(one for one in MISTAKES if len(one.steps) > 4 and find_mistake(BY_ID[one.problem_id], one).step == 2)
    problem = BY_ID[mistake.problem_id]
    right = parse_correction(write_correction(problem, mistake, OracleArgs(), random.Random(0)))
    others = 0
    for seed in range(400):
        text = write_correction(problem, mistake, OracleArgs(**{share: 0.25}), random.Random(seed))
        others += parse_correction(text) != right
    assert 60 < others < 140  # 100 expected, 4.6 standard deviations


def test_replies_depend_on_their_own_seeds_only() -> None:
    args = OracleArgs(wrong_step=0.5, wrong_explanation=0.5)
    sampler = OracleSampler(BY_ID, {one.id: one for one in MISTAKES}, args)
    asked = [Request(one.id, "x", n=3, seed=5) for one in MISTAKES[:20]]
    whole = {(one.request_id, one.index): one for one in sampler.sample(asked)}
    part = list(sampler.sample([Request(MISTAKES[7].id, "x", n=9, seed=5, wanted=(2,))]))
    assert part == [whole[MISTAKES[7].id, 2]] and len({one.text for one in whole.values()}) > 20
    assert next(sampler.sample([Request(MISTAKES[7].id, "x", seed=6)])).seed != whole[MISTAKES[7].id, 0].seed


@pytest.mark.parametrize("shares", [{"wrong_step": 1.5}, {"hidden_error": -1}, {"wrong_explanation": float("nan")}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"oracle\.\w+ must be in \[0, 1\]"):
        OracleArgs(**shares).validate()
    with pytest.raises(ValueError, match="together they must not be over 1"):
        OracleArgs(wrong_correction=0.6, hidden_error=0.6).validate()
