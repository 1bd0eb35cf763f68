"""Corrupted gold solutions: the labelled step is the first wrong one, in the embedded world and in rows of GSM8K's
form; and the stage that makes them."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.labels.corrupt import ALL_KINDS, CORRUPT_SOLUTIONS, CorruptArgs, corrupt
from rewards.labels.corruption import KINDS, Limits, Unfit, draw, parse_line, parse_solution
from rewards.labels.world_corruption import WORLD_KINDS, world_makers
from rewards.scorer import load_scorer
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem, StepLabels
from rollouts.sampling.sample import SampleArgs
from rollouts.solution import cut_solution
from rollouts.steps import join_steps, split_steps
from rollouts.world.args import WorldArgs
from rollouts.world.oracle import true_first_error
from stages.make import make
from stages.stage import Stage
from tests.tiny import rollout, save_policy
from tests.worlds import some_problems, world_args
from training.args import TrainArgs

CLIPS = Problem(
    "gsm8k/train/0",
    "Natalia sold clips to 48 of her friends in April, and half as many in May, for 3 dollars each. How much is that?",
    "216",
    "Natalia sold 48 / 2 = <<48/2=24>>24 clips in May.\nIn both months she sold 48+24 = <<48+24=72>>72 clips.\n"
    "She got 72 x 3 = $<<72*3=216>>216 for the 72 clips.\n#### 216",
    "gsm8k",
    "train",
)
PRICES = Problem(
    "gsm8k/train/1",
    "A car costs $12,000 and is 0.5 off. The tax is $150. What is paid?",
    "6150",
    "The car is 12000*0.5 = $<<12000*0.5=6000>>6,000 now.\n"
    "With tax it is $6,000 + $150 = $<<6000+150=6150>>6,150.\n#### 6150",
    "gsm8k",
    "train",
)


def texts(problem: Problem, kind: str, seeds: int = 60) -> set[tuple[str, ...]]:
    """All corruptions of one kind that some seeds make, with the labelled step in front."""
    args = [CorruptArgs(ProblemArgs("gsm8k", path="x"), [kind], 1, seed) for seed in range(seeds)]
    rows = [row for one in args for row in corrupt(problem, one, Counter()) if not row.correct]
    return {(str(row.labels.index(False)), *row.steps) for row in rows}


def test_a_mistake_and_what_follows_from_it():
    """By hand: what is marked, shown and said changes together, and later lines go on from the new number."""
    may, both, _, _ = CLIPS.solution.split("\n")
    assert texts(CLIPS, "result") >= {
        ("0", "Natalia sold 48 / 2 = <<48/2=25>>25 clips in May.",
         "In both months she sold 48+25 = <<48+25=73>>73 clips.",
         "She got 73 x 3 = $<<73*3=219>>219 for the 73 clips.", "#### 219"),
        ("2", may, both, "She got 72 x 3 = $<<72*3=206>>206 for the 72 clips.", "#### 206"),
    }  # fmt: skip
    assert texts(CLIPS, "operand") >= {
        ("0", "Natalia sold 48 / 3 = <<48/3=16>>16 clips in May.",
         "In both months she sold 48+16 = <<48+16=64>>64 clips.",
         "She got 64 x 3 = $<<64*3=192>>192 for the 64 clips.", "#### 192"),
        ("1", may, "In both months she sold 3+24 = <<3+24=27>>27 clips.",
         "She got 27 x 3 = $<<27*3=81>>81 for the 27 clips.", "#### 81"),
    }  # fmt: skip
    assert texts(CLIPS, "operation") >= {
        ("0", "Natalia sold 48 - 2 = <<48-2=46>>46 clips in May.",
         "In both months she sold 48+46 = <<48+46=94>>94 clips.",
         "She got 94 x 3 = $<<94*3=282>>282 for the 94 clips.", "#### 282"),
    }  # fmt: skip
    assert texts(CLIPS, "early") == {("1", may, "#### 24"), ("2", may, both, "#### 72")}
    assert texts(CLIPS, "left_out") >= {
        ("1", may, "She got 48 x 3 = $<<48*3=144>>144 for the 48 clips.", "#### 144"),
        ("0", "In both months she sold 48+2 = <<48+2=50>>50 clips.",
         "She got 50 x 3 = $<<50*3=150>>150 for the 50 clips.", "#### 150"),
    }  # fmt: skip
    assert texts(PRICES, "swapped") == {
        ("0", "With tax it is $12,000 + $150 = $<<12000+150=12150>>12,150.",
         "The car is 12150*0.5 = $<<12150*0.5=6075>>6,075 now.", "#### 6075"),
        ("0", "With tax it is $0.5 + $150 = $<<0.5+150=150.5>>150.5.",
         "The car is 12000*150.5 = $<<12000*150.5=1806000>>1,806,000 now.", "#### 1806000"),
    }  # fmt: skip


@pytest.mark.parametrize("problem", [CLIPS, PRICES], ids=lambda problem: problem.id)
def test_rows_of_gsm8k_are_wrong_from_the_labelled_step_on(problem):
    gold = split_steps(problem.solution)
    for kind in KINDS:
        for first, *steps in texts(problem, kind):
            assert steps[: int(first)] == [step for step in gold if step in steps[: int(first)]]
            assert steps[int(first)] not in gold
            verdict = grade(cut_solution(join_steps(steps)), problem.answer)
            assert verdict.graded and not verdict.correct
            if kind != "result":  # every equation that is left or changed is true, and the last one is the answer
                parse_solution(problem.question, steps)


@pytest.mark.parametrize(
    "solution",
    [
        "She has 3+4=7.\n#### 7",  # nothing is marked
        "She has 3+4=<<3+4=8>>8.\n#### 8",  # not true
        "She has 3+4=<<3+4=7>>8.\n#### 7",  # shown otherwise
        "She has 3+4=<<3+4=7>>7.\n#### 8",  # another answer
        "She has <<3+4>>7, so 3+4=<<3+4=7>>7.\n#### 7",
        "#### 7",
        "",
    ],
)
def test_solutions_that_cannot_be_worked_out_anew_are_left_out(solution):
    counts: Counter[str] = Counter()
    problem = dataclasses.replace(CLIPS, solution=solution, answer="7")
    assert corrupt(problem, CorruptArgs(ProblemArgs("gsm8k", path="x")), counts) == []
    assert counts == {"unmarked": 1}
    with pytest.raises(Unfit):
        parse_solution("", split_steps(solution))


def test_a_line_of_several_equations_goes_on_within_itself():
    line = parse_line("First <<3+4=7>>7, then <<7*2=14>>14 of 7.")
    assert [(part.words, part.value) for part in line] == [("First ", 7), (", then ", 14), (" of 7.", None)]
    problem = dataclasses.replace(CLIPS, solution="First <<3+4=7>>7, then <<7*2=14>>14 of 7.\n#### 14", answer="14")
    assert ("0", "First <<3+4=8>>8, then <<8*2=16>>16 of 8.", "#### 16") in texts(problem, "result")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world_args(), st.integers(0, 5))
def test_the_labelled_step_is_the_first_wrong_one_in_truth(world, seed):
    args = CorruptArgs(ProblemArgs(world=world), per_problem=4, seed=seed)
    for problem in some_problems(world, 5):
        gold, *wrong = corrupt(problem, args, Counter()) or [None]
        for row in wrong:
            first = true_first_error(problem, row.steps)
            assert row.labels == tuple(i < first for i in range(len(row.steps)))
            assert not row.correct and row.steps[-1] != f"#### {problem.answer}"
            assert all(int(number) <= world.max_value for number in row.steps[-1].split()[1:])
        if gold is not None:
            assert gold.correct and list(gold.steps) == split_steps(problem.solution) and set(gold.labels) == {True}
            assert len({row.steps for row in wrong}) == len(wrong) <= 4


def test_mistakes_are_where_they_are_made_also_before_the_oracle_looks():
    """It refuses what is right by chance: few of them, and never anything that is wrong earlier."""
    world, made, agreed = WorldArgs(max_steps=4, rivals=1), Counter(), Counter()
    for problem in some_problems(world, 150):
        worked = parse_solution(problem.question, split_steps(problem.solution))
        makers = KINDS | world_makers(problem)
        for one in draw(makers, worked, Limits(world.max_value, 0), random.Random(problem.id)):
            if one.steps[-1] == f"#### {problem.answer}":
                continue
            first = true_first_error(problem, one.steps)
            assert first is not None and first >= one.step, (one, problem)
            made[one.kind] += 1
            agreed[one.kind] += first == one.step
    assert set(made) == set(ALL_KINDS) and min(made.values()) > 50
    assert all(agreed[kind] > 0.9 * made[kind] for kind in ALL_KINDS), (agreed, made)


def test_what_only_the_embedded_world_has():
    """Somebody else's quantity, somebody else's relation, a step too many, and somebody else's way."""
    problem = Problem(
        "w",
        "Tom has 7 pens. Eva has 9 pens. Ann has 5 more pens than Tom. Bob has 2 times as many pens as Eva. "
        "How many pens does Ann have?",
        "12",
        "As Tom has 7 pens and Ann has 5 more pens than Tom, <<7+5=12>>12\n#### 12",
        "arithmetic",
        "train",
    )

    def made(kind: str) -> set[tuple[str, ...]]:
        args = [CorruptArgs(ProblemArgs(), [kind], 1, seed) for seed in range(20)]
        return {row.steps for one in args for row in corrupt(problem, one, Counter()) if not row.correct}

    gold = problem.solution.split("\n")[0]
    assert made("person") == {("As Eva has 9 pens and Ann has 5 more pens than Eva, <<9+5=14>>14", "#### 14")}
    assert made("link") == {("As Tom has 7 pens and Ann has 2 times as many pens as Tom, <<7*2=14>>14", "#### 14")}
    past = "As Eva has 9 pens and Bob has 2 times as many pens as Eva, <<9*2=18>>18"
    assert made("past") == {(gold, past, "#### 18")}
    assert made("branch") == set()  # nobody else builds on Tom
    told = problem.question.replace("How", "Zoe has 3 fewer pens than Tom. Kim has 2 more pens than Zoe. How")
    problem = replace(problem, question=told)
    zoe = "As Tom has 7 pens and Zoe has 3 fewer pens than Tom, <<7-3=4>>4"
    kim = "As Zoe has 4 pens and Kim has 2 more pens than Zoe, <<4+2=6>>6"
    assert made("branch") == {(zoe, "#### 4"), (zoe, kim, "#### 6")}


WORLD = ProblemArgs(limit=60, world=WorldArgs(min_steps=2, max_steps=3, max_distractors=2))


def test_the_stage_writes_step_labels_and_says_what_it_made(tmp_path):
    found, _ = make(CORRUPT_SOLUTIONS, CorruptArgs(WORLD, per_problem=2), tmp_path)
    rows, problems, counts = found.rows(StepLabels), found.rows(Problem, "problems"), found.manifest["counts"]
    assert len({row.rollout_id for row in rows}) == len(rows) == counts["solutions"] + counts["corruptions"]
    assert {row.problem_id for row in rows} == {problem.id for problem in problems}
    kinds = Counter(row.rule.removeprefix("corruption: ") for row in rows)
    assert kinds.pop("gold") == counts["solutions"] == 60 and sum(kinds.values()) == counts["corruptions"] == 120
    assert kinds == {kind: counts[f"kind_{kind}"] for kind in kinds} and len(kinds) > 6
    assert {"refused", "duplicates", "unmarked"} <= counts.keys()
    again, other = (make(CORRUPT_SOLUTIONS, CorruptArgs(WORLD, [], 2, n), tmp_path / str(n))[0] for n in (0, 1))
    assert again.rows(StepLabels) == rows != other.rows(StepLabels)
    few, _ = make(CORRUPT_SOLUTIONS, CorruptArgs(WORLD, ["early"], 5), tmp_path)
    assert {row.rule for row in few.rows(StepLabels)} == {"corruption: gold", "corruption: early"}


def test_settings_that_do_not_fit_are_refused(tmp_path):
    for kinds in (["early", "typo"], ["past"]):
        with pytest.raises(ValueError, match=f"kinds=\\['{kinds[-1]}'\\]: solutions of gsm8k have result"):
            CorruptArgs(ProblemArgs("gsm8k", path="x"), kinds).validate()
    with pytest.raises(ValueError, match="per_problem must be at least 1, not 0"):
        CorruptArgs(per_problem=0).validate()
    CorruptArgs(kinds=list(WORLD_KINDS)).validate()
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Ann has 3 and 4.", "answer": "7", "solution": "3+4=7\\n#### 7"}\n')
    source = ProblemArgs("jsonl", path=str(file), split_shares=[1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="source=jsonl: of 1 gold solutions not one can be corrupted"):
        make(CORRUPT_SOLUTIONS, CorruptArgs(source), tmp_path)


def test_a_judge_is_warmed_up_on_them_and_an_orm_goes_on_from_it(tmp_path):
    """The warm start of docs/labelling.md: a SORM of corruptions, and from its weights an ORM of rollouts."""
    labels, _ = make(CORRUPT_SOLUTIONS, CorruptArgs(WORLD), tmp_path)
    policy = save_policy(tmp_path / "policy", layers=2, context=192)
    how = TrainArgs(device="cpu", tokens_per_step=4000, learning_rate=3e-3, epochs=3)
    warm_args = TrainRewardArgs("sorm", policy, labels=str(labels.path), validation_share=0.2, train=how)
    warm, _ = make(TRAIN_REWARD, warm_args, tmp_path)
    assert warm.manifest["counts"]["labels"] > 100

    def write(_args, work) -> None:
        problems = labels.rows(Problem, "problems")
        rows = [rollout(row.steps, row.correct, n, row.problem_id) for n, row in enumerate(labels.rows(StepLabels))]
        work.write_rows("problems", problems)
        work.write_rows("rows", rows)

    rollouts, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy), tmp_path)
    on = TrainRewardArgs(
        "orm", str(warm.path), str(rollouts.path), validation_share=0.2, max_length=8, allow_empty=True
    )
    same, _ = make(TRAIN_REWARD, on, tmp_path)  # without one example: what training starts from
    problem, steps = some_problems(WORLD.world, 1)[0], ["As Tom has 7 pens, <<7+5=12>>12", "#### 12"]
    before, after = (load_scorer(one.path, device="cpu").score([problem], [steps])[0] for one in (warm, same))
    assert load_scorer(same.path, device="cpu").kind == "orm" and same.manifest["parents"]["policy"]["key"] == warm.key
    assert after == pytest.approx(before, abs=1e-6) and abs(before[0] - 0.5) > 1e-3
