"""The report's numbers on a run of four problems worked out by hand, and what does not belong together."""

from __future__ import annotations

import dataclasses

import pytest

from refine.report.build import build_report
from refine.report.inputs import ReportInputs
from rollouts.records import Candidate, Choice, Judgement, Problem, StepLabels

STEPS = ("a", "b", "#### 1")
# problem: right or wrong of (draft, global, local); p3 has no local refinement
OUTCOMES = {
    "p0": (True, True, False),
    "p1": (False, True, False),
    "p2": (False, False, True),
    "p3": (False, False, None),
}
TRUTH = {"p0": [True, True, True], "p1": [True, False, True], "p2": [False, False, False], "p3": [True, True, False]}
ORM = {"p0": (0.4, 0.6, 0.9), "p1": (0.6, 0.6, 0.1), "p2": (0.2, 0.2, 0.2), "p3": (0.4, 0.4, 0.8)}
SORM = {"p0": (0.9, 0.9, 0.9), "p1": (0.9, 0.1, 0.1), "p2": (0.9, 0.1, 0.1), "p3": (0.9, 0.9, 0.9)}


def make_inputs(**changes) -> ReportInputs:
    problems, candidates, judgements, choices, truth = [], [], [], [], {}
    for name, outcomes in OUTCOMES.items():
        problems.append(Problem(name, "how many?", "1", None, "hand", "test"))
        for kind, correct in zip(("draft", "global", "local"), outcomes, strict=True):
            if correct is None:
                continue
            key = (name, kind, "sorm" if kind == "local" else "none", 0)
            candidates.append(Candidate(*key[:3], 1 if kind == "local" else None, 0, "text", STEPS, "1", correct, 10))
            judgements.append(Judgement(*key, "orm", ORM[name]))
            judgements.append(Judgement(*key, "sorm", SORM[name]))
        truth[name, "draft", "none", 0] = TRUTH[name]
        choices.append(Choice(name, "draft", "none", "none", "draft", 0, "1", outcomes[0], 10))
        choices.append(Choice(name, "reranked", "orm", "sorm", "global", 0, "1", any(outcomes), 30))
    given = {
        "title": "by hand",
        "model": "nobody",
        "source": "hand",
        "seed": 0,
        "problems": problems,
        "candidates": candidates,
        "judgements": judgements,
        "choices": choices,
        "thresholds": {"orm": 0.5, "sorm": 0.5},
        "step_truth": truth,
        "label_truth": {"t0": (1, 2), "t1": (2, 2)},
        "resamples": 300,
    }
    return ReportInputs(**(given | changes))


@pytest.fixture(scope="module")
def report() -> dict:
    return build_report(make_inputs())


def value(found: dict) -> tuple[float, int]:
    return found["value"], found["n"]


def test_accuracy_tokens_and_differences(report):
    assert value(report["accuracy"]["draft"]) == (0.25, 4) and value(report["accuracy"]["reranked"]) == (0.75, 4)
    assert report["accuracy"]["control"] is None
    assert report["tokens"]["draft"] == 10 and report["tokens"]["reranked"] == 30 and report["tokens"]["random"] is None
    change = report["difference"]["reranked_minus_draft"]
    assert change["value"] == 0.5 and change["mcnemar_p"] == 0.5 and change["low"] >= 0
    assert report["difference"]["reranked_minus_control"] is None


def test_none_of_a_few_problems_is_no_certainty():
    """Every row is another problem, so that an interval has a width however few they are."""
    choices = [dataclasses.replace(c, correct=False) for c in make_inputs().choices]
    report = build_report(make_inputs(choices=choices))
    none = report["accuracy"]["reranked"]
    assert (none["value"], none["low"], none["n"]) == (0.0, 0.0, 4) and 0.48 < none["high"] < 0.50  # Wilson, 0 of 4
    assert report["ablation"]["sorm"]["orm"]["reranked"] == none
    assert report["fixed"]["both"]["high"] > 0.5 and report["broken"]["local"]["low"] < 0.3  # 0 of 3, 1 of 1


def test_fixed_and_broken(report):
    assert report["fixed"]["control"] is None and report["difference"]["fixed_global_minus_control"] is None
    fixed = {name: value(found) for name, found in report["fixed"].items() if found is not None}
    assert report["fixed"].keys() - fixed.keys() == {"control", "shuffled"}
    assert fixed["global"] == fixed["local"] == fixed["only_global"] == fixed["only_local"] == (0.333333, 3)
    assert fixed["either"] == (0.666667, 3) and fixed["both"] == (0.0, 3)
    assert value(report["broken"]["global"]) == (0.0, 1) and value(report["broken"]["local"]) == (1.0, 1)
    assert report["difference"]["fixed_either_minus_global"]["value"] == 0.333333
    assert value(report["by_where"]["sorm"]["located"]) == (0.75, 4) and list(report["by_where"]) == ["sorm"]


def test_what_more_a_refiner_fixes_than_a_control_that_saw_no_draft():
    control = {"p0": False, "p1": True, "p2": True, "p3": False}
    more = [Candidate(p, "control", "none", None, 0, "text", STEPS, "1", right, 10) for p, right in control.items()]
    report = build_report(make_inputs(candidates=[*make_inputs().candidates, *more]))
    assert value(report["fixed"]["control"]) == (0.666667, 3) and value(report["broken"]["control"]) == (1.0, 1)
    assert value(report["difference"]["fixed_global_minus_control"])[0] == -0.333333


def test_wrong_drafts_by_what_went_wrong_first(report):
    assert set(report["errors"].values()) == {None}  # nobody knows
    kinds = {(name, "draft", "none", 0): kind for name, kind in (("p1", "late"), ("p2", "lookup"), ("p3", "late"))}
    found = build_report(make_inputs(error_kinds=kinds))["errors"]
    assert {name: value(one) for name, one in found.items()} == {
        "side": (0.0, 3),
        "late": (0.666667, 3),
        "arithmetic": (0.0, 3),
        "lookup": (0.333333, 3),
        "early": (0.0, 3),
        "unread": (0.0, 3),
    }
    assert 0 <= found["late"]["low"] < found["late"]["value"] < found["late"]["high"] <= 1
    assert set(build_report(make_inputs(error_kinds={}))["errors"].values()) == {None}  # no draft is wrong


def test_labels_are_counted_both_ways():
    report = build_report(make_inputs(strict_label_truth={"t0": (2, 2), "t1": (2, 2)}))
    assert value(report["label_accuracy"]) == (0.75, 4) and value(report["label_accuracy_strict"]) == (1.0, 4)


def test_what_is_sampled_and_read_is_a_mean_and_best_of_n_at_equal_tokens_has_its_n():
    more = []
    for at, name in enumerate(OUTCOMES):
        more.append(
            Choice(name, "best_of_n_equal_tokens", "orm", "sorm", "sample", 0, "1", True, 40 + at, "always", 5, at)
        )
        # of another place, another gate
        more.append(Choice(name, "best_of_n_equal_tokens", "orm", "none", "sample", 0, "1", False, 9, "always", 2))
        more.append(Choice(name, "best_of_n_equal_tokens", "orm", "sorm", "sample", 0, "1", False, 9, "orm", 3))
    report = build_report(make_inputs(choices=[*make_inputs().choices, *more]))
    assert report["samples_equal_tokens"] == 5 and value(report["accuracy"]["best_of_n_equal_tokens"]) == (1.0, 4)
    assert (report["tokens"]["best_of_n_equal_tokens"], report["tokens_read"]["best_of_n_equal_tokens"]) == (41.5, 1.5)
    assert report["difference"]["reranked_minus_best_of_n_equal_tokens"]["value"] == -0.25
    sample = Candidate("p0", "sample", "none", None, 3, "text", STEPS, "1", True, 10)
    judged = [Judgement("p0", "sample", "none", 3, s, (0.5,) * 3) for s in ("orm", "sorm")]
    truth = make_inputs().step_truth | {("p0", "sample", "none", 3): [True] * 3}
    few = build_report(
        make_inputs(
            candidates=[*make_inputs().candidates, sample],
            judgements=[*make_inputs().judgements, *judged],
            step_truth=truth,
        )
    )
    assert few["samples_equal_tokens"] is None
    assert any("The best of all 4 samples costs less than reranking" in note for note in few["notes"])


def test_the_controls_fix_what_they_fix_without_the_draft():
    outcomes = {"p0": False, "p1": True, "p2": False, "p3": False}
    more = [Candidate(p, "shuffled", "none", None, 0, "text", STEPS, "1", right, 10) for p, right in outcomes.items()]
    report = build_report(make_inputs(candidates=[*make_inputs().candidates, *more]))
    assert value(report["fixed"]["shuffled"]) == (0.333333, 3) and value(report["broken"]["shuffled"]) == (1.0, 1)
    assert report["difference"]["fixed_global_minus_shuffled"]["value"] == 0.0


def test_steps_against_the_oracle(report):
    # intermediate truths, a wrong step spoiling those after it: TT TF FF TT
    # ORM at 0.5: FT TT FF FF: wrong, ok, ok, wrong, ok, ok, wrong, wrong; SORM: TT TF TF TT: all but one ok
    assert value(report["step_accuracy"]["orm"]) == (0.5, 8)
    assert value(report["step_accuracy"]["sorm"]) == (0.875, 8)
    assert report["difference"]["sorm_minus_orm_step_accuracy"]["value"] == 0.375
    assert value(report["step_balanced_accuracy"]["sorm"]) == (pytest.approx((1 + 2 / 3) / 2, abs=1e-6), 8)
    assert value(report["step_auroc"]["orm"]) == (0.733333, 8) and value(report["step_auroc"]["sorm"]) == (0.833333, 8)
    assert value(report["steps_right"]) == (0.625, 8)
    by_position = report["step_accuracy_by_position"]["sorm"]
    assert [(row["position"], *value(row)) for row in by_position] == [(1, 0.75, 4), (2, 1.0, 4)]
    # first errors: none, 1, 0, 2; ORM: 0, 2, 0, 0; SORM: none, 1, 1, none
    assert value(report["first_error_accuracy"]["orm"]) == (0.25, 4)
    assert value(report["first_error_accuracy"]["sorm"]) == (0.5, 4)
    assert value(report["first_error_located"]["sorm"]) == (0.333333, 3)
    assert value(report["first_error_passed"]["sorm"]) == (1.0, 1)
    assert value(report["first_error_f1"]["sorm"]) == (0.5, 4)


def test_whole_solutions_against_the_answer(report):
    # last ORM scores 0.9 | 0.1 0.2 0.8 of one right and three wrong drafts
    assert value(report["final_accuracy"]["orm"]) == (0.75, 4) and value(report["auroc"]["orm"]) == (1.0, 4)
    assert report["pairwise_accuracy"]["orm"] is None  # one solution a problem among drafts and samples
    # offered: p0 T T F, p1 F T F, p2 F F T, all with equal scores within a problem
    assert value(report["pairwise_accuracy_offered"]["orm"]) == (0.5, 3)
    assert value(report["label_accuracy"]) == (0.75, 4)


def test_steps_and_whole_solutions_have_thresholds_of_their_own(report):
    """The first position at 0.5, all that follow at 0.15; a solution is right from 0.85 on."""
    own = build_report(make_inputs(thresholds={"orm": [0.5, 0.15], "sorm": 0.5}, final_thresholds={"orm": 0.85}))
    assert own["thresholds"]["orm"] == {"where": [0.5, 0.15], "when": 0.85}
    assert own["thresholds"]["sorm"] == report["thresholds"]["sorm"] == {"where": 0.5, "when": 0.5}
    assert value(own["final_accuracy"]["orm"]) == (1.0, 4)  # the 0.8 of a wrong one is below
    # first steps as before (wrong, ok, ok, wrong); of the second ones 0.6, 0.6, 0.2, 0.4 all are right now
    assert [row["value"] for row in own["step_accuracy_by_position"]["orm"]] == [0.5, 0.5]
    assert value(own["first_error_accuracy"]["orm"]) == (0.25, 4) and own["step_accuracy"]["sorm"]["n"] == 8
    assert own["final_accuracy"]["sorm"] == report["final_accuracy"]["sorm"]


def test_no_wrong_drafts_and_no_right_ones():
    for answer in (True, False):
        candidates = [dataclasses.replace(c, correct=answer) for c in make_inputs().candidates]
        report = build_report(make_inputs(candidates=candidates))
        assert (report["fixed"]["either"] is None) == answer
        assert (report["broken"]["global"] is None) == (not answer)
        assert report["auroc"] == {"orm": None, "sorm": None}


def test_an_auroc_of_zero_is_a_number():
    wrong_way = {"p0": (0.1,) * 3, "p1": (0.9,) * 3, "p2": (0.9,) * 3, "p3": (0.9,) * 3}
    judgements = [dataclasses.replace(j, probabilities=wrong_way[j.problem_id]) for j in make_inputs().judgements]
    assert value(build_report(make_inputs(judgements=judgements))["auroc"]["orm"]) == (0.0, 4)


def test_an_ungraded_candidate_is_not_right_and_not_judged():
    candidates = list(make_inputs().candidates)
    candidates[0] = dataclasses.replace(candidates[0], correct=None)
    report = build_report(make_inputs(candidates=candidates))
    assert report["ungraded"] == 1 and "could not be graded" in report["notes"][-1]
    assert report["final_accuracy"]["orm"]["n"] == 3 and report["broken"]["global"] is None


def test_a_solution_too_long_for_a_reward_model_is_counted_and_left_out_of_its_measures():
    given = make_inputs()
    # the ORM cannot read the draft of p3, of which it was wrong twice of its two intermediate steps
    judgements = [
        dataclasses.replace(j, probabilities=()) if (j.problem_id, j.kind, j.scorer) == ("p3", "draft", "orm") else j
        for j in given.judgements
    ]
    report = build_report(make_inputs(judgements=judgements))
    assert (
        report["too_long"] == {"orm": 1, "sorm": 0} and "1 candidates are too long for the ORM" in report["notes"][-1]
    )
    assert value(report["step_accuracy"]["orm"]) == (pytest.approx(4 / 6, abs=1e-6), 6)
    assert value(report["step_accuracy"]["sorm"]) == (0.875, 8) and report["final_accuracy"]["orm"]["n"] == 3
    assert report["first_error_accuracy"]["orm"]["n"] == 3
    assert build_report(given)["too_long"] == {"orm": 0, "sorm": 0}


def test_a_solution_without_steps_is_reported():
    changed = make_inputs()
    candidates, judgements = list(changed.candidates), list(changed.judgements)
    candidates[0] = dataclasses.replace(candidates[0], steps=())
    judgements[:2] = [dataclasses.replace(j, probabilities=()) for j in judgements[:2]]
    truth = changed.step_truth | {("p0", "draft", "none", 0): []}
    report = build_report(make_inputs(candidates=candidates, judgements=judgements, step_truth=truth))
    assert report["final_accuracy"]["orm"]["n"] == 3 and report["step_accuracy"]["orm"]["n"] == 6


def test_steps_are_judged_by_labels_where_there_is_no_oracle():
    assert build_report(make_inputs())["test_labels"] is None
    labels = [
        StepLabels(f"{p}#0", p, STEPS, OUTCOMES[p][0], own, (0,) * 3, (n,) * 3, None, (), rule)
        for p, own, n, rule in (
            ("p0", (True, True, True), 0, "right"),
            ("p1", (True, False, False), 32, "any of 32"),
            ("p2", (False, False, None), 32, "any of 32"),
        )
    ]
    report = build_report(make_inputs(step_truth=None, test_labels=labels))
    assert report["step_accuracy"]["sorm"] is None
    # of each position one right step and one wrong one count. ORM: half of the right first steps, the wrong one, the
    # right second one, half of the wrong ones; SORM: both, not the wrong one, the right one, both wrong ones
    found = {name: value(one) for name, one in report["labelled_step_accuracy"].items()}
    assert found == {"orm": (0.75, 4), "sorm": (0.75, 4)}
    assert report["difference"]["sorm_minus_orm_labelled_step_accuracy"]["value"] == 0.0
    assert report["test_labels"] == {
        "solutions": 3, "wrong_solutions": 2, "positive": 3, "negative": 3, "rule": "any of 32", "continuations": 32,
        "accuracy": None,
    }  # fmt: skip
    assert any("steps are judged by the labels that continuations gave them" in note for note in report["notes"])


def test_scorer_and_where_choose_the_arm():
    choices = [c for c in make_inputs().choices if c.selector == "draft"]
    for where, scorer, correct in (("none", "orm", True), ("sorm", "sorm", False)):
        choices += [Choice(p, "reranked", scorer, where, "draft", 0, "1", correct, 30) for p in OUTCOMES]
    report = build_report(make_inputs(choices=choices))
    assert report["accuracy"]["reranked"] is None  # where = none is another arm, not a substitute
    assert build_report(make_inputs(choices=choices, scorer="sorm"))["accuracy"]["reranked"]["value"] == 0.0
    assert build_report(make_inputs(choices=choices, where="none"))["accuracy"]["reranked"]["value"] == 1.0


def gated_inputs(**changes) -> ReportInputs:
    """The ORM's gate keeps the drafts of p0 (right) and p3 (wrong); the other two are refined."""
    choices = list(make_inputs().choices)
    for when, kept in (("always", ""), ("orm", "p0p3"), ("oracle", "p0")):
        for name, (draft, whole, _) in OUTCOMES.items():
            kind, right = ("draft", draft) if name in kept else ("global", whole)
            for selector, scorer, where in (("global", "none", "none"), ("reranked", "orm", "sorm")):
                if (selector, when) != ("reranked", "always"):
                    choices.append(Choice(name, selector, scorer, where, kind, 0, "1", right, 10, when))
    return make_inputs(choices=choices, **changes)


def test_when_chooses_the_arm_and_says_what_a_gate_keeps():
    always, gated = build_report(gated_inputs()), build_report(gated_inputs(when="orm"))
    assert (always["headline"]["when"], gated["headline"]["when"]) == ("always", "orm")
    assert value(always["accuracy"]["reranked"]) == (0.75, 4) and value(gated["accuracy"]["reranked"]) == (0.5, 4)
    assert gated["tokens"]["reranked"] == 10 and gated["accuracy"]["draft"] == always["accuracy"]["draft"]
    assert gated["difference"]["reranked_minus_draft"]["value"] == 0.25  # the draft has no gate
    assert list(always["ablation_when"]) == ["always", "orm", "oracle"]
    for report in (always, gated):
        when = report["headline"]["when"]
        assert report["ablation"] == report["ablation_when"][when] and list(report["ablation"]) == ["sorm"]
        assert report["ablation"]["sorm"]["orm"]["reranked"] == report["accuracy"]["reranked"]
        assert list(report["kept"]) == ["orm", "oracle"]
        kept = {name: value(found) for name, found in report["kept"]["orm"].items()}
        assert kept == {"all": (0.5, 4), "right": (1.0, 1), "wrong": (0.333333, 3)}
        assert value(report["kept"]["oracle"]["wrong"]) == (0.0, 3)
    assert build_report(make_inputs())["kept"] == {}
    assert build_report(gated_inputs(when="sorm"))["accuracy"]["reranked"] is None  # no substitute for another gate


def test_the_example_is_of_the_headlines_gate():
    choices = [c for c in gated_inputs().choices if c.selector == "draft" or c.when == "orm"]
    report = build_report(make_inputs(choices=choices, when="orm"))
    assert report["example"] is not None and build_report(make_inputs(choices=choices))["example"] is None


def test_a_choice_filed_for_both_scorers_counts_once():
    choices = make_inputs().choices
    assert build_report(make_inputs(choices=[*choices, *choices])) == build_report(make_inputs())


def test_where_nothing_was_chosen_nobody_was_asked():
    choices = [*make_inputs().choices]
    choices += [Choice(p, "best_of_n", "none", "sorm", "sample", 0, "1", True, 9) for p in OUTCOMES]
    assert build_report(make_inputs(choices=choices))["accuracy"]["best_of_n"]["value"] == 1.0


def test_a_draft_in_place_of_a_local_refinement_was_not_located():
    p3 = Candidate("p3", "local", "sorm", None, 0, "text", STEPS, "1", False, 0)
    judgements = [*make_inputs().judgements]
    judgements += [Judgement("p3", "local", "sorm", 0, s, scores["p3"]) for s, scores in (("orm", ORM), ("sorm", SORM))]
    report = build_report(make_inputs(candidates=[*make_inputs().candidates, p3], judgements=judgements))
    assert value(report["by_where"]["sorm"]["located"]) == (0.75, 4)
    assert value(report["fixed"]["local"]) == (0.333333, 3)


def edited(name: str, index: int, **changes) -> dict:
    records = list(getattr(make_inputs(), name))
    records[index] = dataclasses.replace(records[index], **changes)
    return {name: records}


def without(name: str, index: int) -> dict:
    records = list(getattr(make_inputs(), name))
    del records[index]
    return {name: records}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, "no problems"),
        (without("candidates", 0), "orm judged .*'p0', 'draft'.*, which is no candidate"),
        (without("choices", 0), r"chose for 3 problems, the report has 4; see 'p0'"),
        (edited("choices", 0, problem_id="p1"), "chose twice, and differently, for problem 'p1'"),
        (edited("judgements", 0, probabilities=(0.5, 0.5, 1.5)), "is 1.5, not between 0 and 1"),
        (edited("judgements", 0, probabilities=(0.5,)), "gave 1 scores for the 3 steps of"),
        (without("judgements", 0), "orm did not judge .*'p0', 'draft'"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build_report(make_inputs(**changes))


def test_a_problem_without_draft_is_refused():
    changed = make_inputs()
    keep = [c for c in changed.candidates if (c.problem_id, c.kind) != ("p2", "draft")]
    judged = [j for j in changed.judgements if (j.problem_id, j.kind) != ("p2", "draft")]
    with pytest.raises(ValueError, match="no draft for 'p2'"):
        build_report(make_inputs(candidates=keep, judgements=judged))
