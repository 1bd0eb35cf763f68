"""The labeller: each search and rule by hand and on policies whose values are known, and what it costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from rewards.labels import search
from rewards.labels.labeller import Labeller
from rewards.labels.search import SearchArgs
from rewards.labels.traces import Trace
from rewards.labels.values import Counts, fit_model, infer, start_model
from rollouts.steps import MAX_STEPS
from tests.rewards.labels.simulator import SimArgs, SimulatedPolicy, first_wrong, study
from tests.tiny import rollout

RIGHT, WRONG = Trace(("go on", "#### 1"), True), Trace(("go on", "#### 0"), False)
POSTERIOR = SearchArgs("adaptive", "posterior", 24)
WAYS = [(s, r) for s in search.SEARCHES for r in search.RULES]


def solution(length: int, name: str = "p"):
    return rollout([f"step {i}" for i in range(length)] + ["#### 0"], False, 0, name)


def run(labeller: Labeller, value) -> dict[int, int]:
    """Give every prefix what `value(its length)` says; returns how many were asked for at each length."""
    asked: dict[int, int] = {}
    for _ in range(500):
        wanted = labeller.wave()
        if not wanted:
            return asked
        for (problem_id, steps), number in wanted.items():
            asked[len(steps)] = asked.get(len(steps), 0) + number
            labeller.add((problem_id, steps), [RIGHT if value(len(steps)) else WRONG] * number)
    raise AssertionError("the labeller never has enough")


@pytest.mark.parametrize(("way", "rule"), WAYS)
@pytest.mark.parametrize("wrong_from", range(6))
def test_every_way_finds_a_clear_first_error(way, rule, wrong_from):
    labeller = Labeller([solution(5)], SearchArgs(way, rule, 8), consistency=False)
    asked = run(labeller, lambda length: length <= wrong_from)
    row = labeller.label()[0]
    assert row.labels == (*(place < wrong_from for place in range(5)), False)
    assert sum(asked.values()) == sum(row.trials) and max(asked.values()) <= 8
    assert (way == "exhaustive") == (asked == dict.fromkeys(range(1, 6), 8))
    assert row.rule.endswith(way) and row.correct is False
    assert (row.fix_length, row.fix_steps) == ((wrong_from, RIGHT.steps) if wrong_from else (None, ()))
    assert all(0 <= value <= 1 for value in row.values) and all(0.5 <= sure <= 1 for sure in row.confidences)


def test_forward_stops_at_the_first_negative_prefix():
    labeller = Labeller([solution(6)], SearchArgs("forward", "any", 8), consistency=False)
    assert run(labeller, lambda length: length <= 2) == {1: 2, 2: 2, 3: 8}


def test_binary_looks_at_a_logarithm_of_the_prefixes():
    for wrong_from in range(32):
        labeller = Labeller([solution(31)], SearchArgs("binary", "any", 8), consistency=False)
        asked = run(labeller, lambda length, last=wrong_from: length <= last)
        assert len(asked) == 5
        assert labeller.label()[0].labels == (*(place < wrong_from for place in range(31)), False)


def test_waves_end_as_soon_as_the_label_cannot_change():
    labeller = Labeller([solution(1)], SearchArgs("forward", "any", 8), consistency=False)
    prefix = ("p", ("step 0",))
    for number, given in ((2, [WRONG] * 2), (2, [WRONG] * 2), (4, [WRONG] * 3 + [RIGHT])):
        assert labeller.wave() == {prefix: number}
        labeller.add(prefix, given)
    assert labeller.wave() == {} and labeller.waves == 3
    assert labeller.label()[0].labels == (True, False)
    strict = Labeller([solution(1)], SearchArgs("forward", "at_least", 8, at_least=3), consistency=False)
    for number, given in ((2, [WRONG] * 2), (2, [WRONG] * 2), (4, [WRONG] * 2)):
        assert strict.wave() == {prefix: number}
        strict.add(prefix, given)
    assert strict.wave() == {}  # with six wrong ones of eight, three can no longer be right
    assert strict.label()[0].labels == (False, False)


@pytest.mark.parametrize(
    ("successes", "trials", "needed", "limit", "label"),
    [(1, 1, 1, 8, True), (0, 7, 1, 8, None), (0, 8, 1, 8, False), (1, 7, 2, 8, None), (0, 7, 2, 8, False),
     (2, 9, 2, 8, True), (0, 0, 1, 0, False)],
)  # fmt: skip
def test_what_counts_decide(successes, trials, needed, limit, label):
    assert search.decide(successes, trials, needed, limit) is label


def test_waves_double():
    assert [search.next_wave(trials, 24) for trials in (0, 1, 2, 4, 8, 16, 23, 24, 30)] == [2, 2, 2, 4, 8, 8, 1, 0, 0]


@pytest.mark.parametrize(
    ("decided", "found"),
    [([None] * 3, (0, 3)), ([True, None, False], (1, 2)), ([False, True, None], (2, 3)), ([False, None, None], (0, 0)),
     ([True, True, True], (3, 3)), ([None, False, True], (3, 3)), ([], (0, 0))],
)  # fmt: skip
def test_a_positive_prefix_overrules_negatives_before_it(decided, found):
    assert search.bounds(decided) == found


def plan_cost(lo, hi, ends, right, wrong, first):
    """The expected cost of the best plan that looks at `first` first, by trying all of them."""

    def best(i, j):
        return 0.0 if i == j else min(look(i, j, at) for at in range(i, j))

    def look(i, j, at):
        below, above = ends[i : at + 1].sum(), ends[at + 1 : j + 1].sum()
        return below * wrong[at] + above * right[at] + best(i, at) + best(at + 1, j)

    return look(lo, hi, first)


def test_the_cheapest_plan_is_the_cheapest():
    rng = np.random.default_rng(0)
    for _ in range(60):
        size = int(rng.integers(1, 6))
        ends, right, wrong = rng.dirichlet(np.ones(size + 1)), rng.random(size) + 0.1, 4 * rng.random(size) + 0.1
        lo = int(rng.integers(0, size))
        costs = [plan_cost(lo, size, ends, right, wrong, at) for at in range(lo, size)]
        assert math.isclose(costs[search.cheapest(lo, size, ends, right, wrong) - lo], min(costs))
    even, one = np.full(8, 1 / 8), np.ones(7)
    assert search.cheapest(0, 7, even, one, one) == 3  # the middle
    assert search.cheapest(0, 7, even, one, 100 * one) == 0  # where negatives are dear, forward


@pytest.mark.parametrize(("way", "rule"), WAYS)
def test_one_solution_of_very_many_steps_changes_nothing_for_the_others(way, rule):
    """It is looked at apart, and labels stay in the order of the solutions."""

    def labels(lengths: list[int]) -> dict[int, tuple]:
        wrong = [solution(length, f"p{length}") for length in lengths]
        labeller = Labeller(wrong, SearchArgs(way, rule, 8), consistency=False)
        for _ in range(500):
            wanted = labeller.wave()
            if not wanted:
                break
            for (problem_id, steps), number in wanted.items():
                labeller.add((problem_id, steps), [RIGHT if len(steps) < 3 else WRONG] * number)
        rows = labeller.label()
        assert [row.problem_id for row in rows] == [one.problem_id for one in wrong]
        return {len(row.steps) - 1: row.labels for row in rows}

    few, many = labels([4, 6]), labels([4, MAX_STEPS - 1, 6])
    assert {length: many[length] for length in few} == few == {n: (True,) * 2 + (False,) * (n - 1) for n in (4, 6)}
    assert many[MAX_STEPS - 1] == (True,) * 2 + (False,) * (MAX_STEPS - 2)


def test_a_model_of_long_solutions_says_the_same_of_short_ones():
    rng = np.random.default_rng(0)
    trials = rng.integers(0, 5, (20, 5)).astype(float)
    few = Counts(rng.binomial(trials.astype(int), 0.5).astype(float), trials, rng.integers(0, 5, 20))
    wide = Counts(*(np.pad(own, ((0, 0), (0, 6))) for own in (few.successes, few.trials)), few.open)
    model = fit_model(wide, 0.1)
    one, other = infer(model, few), infer(model, wide)
    np.testing.assert_allclose(one.joint, other.joint[:, :5], atol=1e-12)
    np.testing.assert_allclose(one.value, other.value[:, :5], atol=1e-12)
    assert not other.joint[:, 5:].any()


def test_what_two_solutions_share_is_asked_for_once():
    other = rollout(["step 0", "elsewhere", "#### 0"], False, 1, "p")
    labeller = Labeller([solution(2), other, solution(2, "q")], SearchArgs("exhaustive", "any", 4), consistency=False)
    wanted = labeller.wave()
    assert wanted == {
        ("p", ("step 0",)): 4, ("p", ("step 0", "step 1")): 4, ("p", ("step 0", "elsewhere")): 4,
        ("q", ("step 0",)): 4, ("q", ("step 0", "step 1")): 4,
    }  # fmt: skip


def test_continuations_count_wherever_they_pass():
    labeller = Labeller([solution(3)], SearchArgs("forward", "any", 8), consistency=False)
    # goes on as the solution does for a step, and ends right: that vouches for the second prefix as well
    labeller.add(("p", ("step 0",)), [Trace(("step 1", "then", "#### 1"), True), Trace(("step 1", "#### 9"), False)])
    found = labeller.known.found["p", ("step 0", "step 1")]
    assert (found.successes, found.trials, found.sampled) == (1, 2, 0)
    assert found.right == Trace(("then", "#### 1"), True)
    assert labeller.wave() == {("p", ("step 0", "step 1", "step 2")): 2}
    # each counts once for the model: where it was sampled
    counts = labeller.counts(labeller.solutions, 4)
    assert counts.trials.tolist() == [[0, 0, 2, 0]] and counts.successes.tolist() == [[0, 0, 1, 0]]


def test_a_rollout_counts_once_at_the_last_prefix_that_it_passes():
    wrong = solution(3)
    others = [rollout(["step 0", "step 1", "else", "#### 1"], True, 1), rollout(["other", "#### 9"], False, 2)]
    labeller = Labeller([wrong], SearchArgs(), consistency=False, drawn_alike=[wrong, *others])
    counts = labeller.counts(labeller.solutions, 4)
    # columns from the last prefix back to the question, where the second one left the solution's way
    assert counts.trials.tolist() == [[0, 1, 0, 1]] and counts.successes.tolist() == [[0, 1, 0, 0]]


def test_right_rollouts_vouch_for_free():
    right = rollout(["step 0", "step 1", "well done", "#### 1"], True, 1, "p")
    wrong = solution(3)
    labeller = Labeller([wrong], SearchArgs("forward", "any", 8), consistency=False, drawn_alike=[wrong, right])
    assert labeller.wave() == {("p", ("step 0", "step 1", "step 2")): 2}
    labeller.add(("p", ("step 0", "step 1", "step 2")), [WRONG] * 2)
    assert run(labeller, lambda length: False) == {3: 6}
    row = labeller.label()[0]
    assert row.labels == (True, True, False, False)
    assert row.trials == (1, 1, 8, 0)  # the rollout itself is no evidence for its prefixes
    assert (row.fix_length, row.fix_steps) == (2, ("well done", "#### 1"))


def test_consistency_is_asked_of_what_passes_too():
    wrong = rollout(["<<7+5=13>>13", "<<13+1=14>>14", "#### 14"], False)
    labeller = Labeller([wrong], SearchArgs("forward", "any", 2))
    labeller.add(("p", (wrong.steps[0],)), [Trace(("<<7+5=12>>12", "#### 12"), True)] * 2)
    assert labeller.known.found["p", (wrong.steps[0],)].successes == 0 and labeller.known.inconsistent() == 1
    assert labeller.label()[0].labels == (False, False, False)


@pytest.mark.parametrize(("way", "rule"), WAYS)
def test_where_nothing_can_be_sampled_nothing_is_labelled(way, rule):
    labeller = Labeller([solution(3)], SearchArgs(way, rule, 4), consistency=False)
    for _ in range(100):
        wanted = labeller.wave()
        if not wanted:
            break
        for prefix, number in wanted.items():
            labeller.add(prefix, [None] * number)
    assert labeller.wave() == {}
    assert True not in labeller.label()[0].labels[:1] and labeller.label()[0].labels[-1] is False
    assert labeller.label()[0].labels[0] is None


def test_solutions_without_an_answer_and_without_a_step_to_continue():
    cut, bare = rollout(["step 0", "step 1"], False), rollout(["#### 3"], False, 0, "q")
    labeller = Labeller([cut, bare], SearchArgs("forward", "any", 2), consistency=False)
    run(labeller, lambda length: True)
    rows = labeller.label()
    assert rows[0].labels == (True, True) and rows[0].fix_length is None
    assert rows[1].labels == (False,) and rows[1].trials == (0,)
    assert Labeller([], SearchArgs()).wave() == {} and Labeller([], SearchArgs()).label() == []


@pytest.fixture(scope="module")
def simulated():
    policy = SimulatedPolicy(SimArgs(problems=300, seed=1))
    return policy, policy.rollouts()


def test_the_simulator_is_what_it_says(simulated):
    policy, rollouts = simulated
    assert 0.45 < sum(r.correct for r in rollouts) / len(rollouts) < 0.55
    # shares of right continuations beside the values that it states, prefix by prefix
    gaps = []
    for rollout_ in [r for r in rollouts if not r.correct][:60]:
        problem = int(rollout_.problem_id.split("/")[1])
        for length in range(1, len(rollout_.steps)):
            prefix = rollout_.steps[:length]
            hits = sum(
                policy.continue_(problem, prefix, seed)[-1] == "#### 1"
                for seed in range(200 * len(gaps), 200 * len(gaps) + 200)
            )
            value = policy.value(problem, prefix)
            gaps.append((hits / 200 - value) / math.sqrt(value * (1 - value) / 200))
    assert abs(np.mean(gaps)) < 0.25 and 0.8 < np.std(gaps) < 1.2
    recovered = [r for r in rollouts if r.correct and first_wrong(r.steps) is not None]
    assert recovered  # right answers by way of a wrong step


def test_gsm8k_like_labels_at_a_fifth_of_the_tokens(simulated):
    """4.6 steps, half of the solutions wrong, 4% recovery: the target of the project."""
    policy, rollouts = simulated
    paper = study(policy, SearchArgs("exhaustive", "any", 8), rollouts)
    best = study(policy, POSTERIOR, rollouts)
    assert best.cost <= 0.20 and best.accuracy >= 0.95
    assert paper.accuracy < 0.75 < best.accuracy and 0.45 < paper.cost < 0.5
    # what it says of itself is about true, so that doubtful labels can be removed
    sure = [min(c for c in row.confidences if c is not None) for row in best.rows]
    first = [next((i for i, label in enumerate(row.labels) if label is False), None) for row in best.rows]
    right = [a == first_wrong(row.steps) for a, row in zip(first, best.rows, strict=True)]
    assert np.mean(right) == pytest.approx(np.mean(sure), abs=0.04)
    top = [hit for hit, p in zip(right, sure, strict=True) if p > 0.95]
    assert np.mean(top) > np.mean(right)


def test_long_chains_at_a_seventh_of_the_tokens():
    """12 steps: the project's second target."""
    policy = SimulatedPolicy(SimArgs(problems=150, steps=12, seed=3))
    best = study(policy, POSTERIOR, policy.rollouts())
    assert best.cost <= 0.15 and best.accuracy >= 0.92


def test_without_recovery_any_is_enough_and_cheap():
    policy = SimulatedPolicy(SimArgs(problems=200, recovery=0.0, seed=4))
    rollouts = policy.rollouts()
    paper = study(policy, SearchArgs("exhaustive", "any", 8), rollouts)
    quick = study(policy, SearchArgs("adaptive", "any", 8), rollouts)
    assert quick.cost < 0.35 * paper.cost and quick.accuracy >= paper.accuracy - 0.02


@pytest.mark.parametrize(("recovery", "rule"), [(0.0, "any of 8, adaptive"), (0.04, "posterior at 0.92, adaptive")])
def test_the_rule_follows_from_the_recovery_rate_of_the_run(recovery, rule):
    """Without recovery it is the rule `any` to the letter; with it, nearly as good as if one had known before."""
    policy = SimulatedPolicy(SimArgs(problems=150, recovery=recovery, seed=6))
    rollouts = policy.rollouts()
    found = study(policy, SearchArgs(), rollouts)
    assert {row.rule for row in found.rows} == {rule}
    if recovery:
        quick = study(policy, SearchArgs("adaptive", "any", 8), rollouts)
        assert found.accuracy >= 0.93 and quick.accuracy < 0.8 and found.cost < 0.25
    else:
        assert found.accuracy >= 0.96 and found.cost < 0.2


def test_a_rule_that_is_given_is_kept():
    policy = SimulatedPolicy(SimArgs(problems=60, recovery=0.1, seed=6))
    found = study(policy, SearchArgs("adaptive", "any", 8), policy.rollouts())
    assert {row.rule for row in found.rows} == {"any of 8, adaptive"}


def test_sharing_saves_tokens_and_no_accuracy(simulated):
    policy, rollouts = simulated
    apart = study(policy, replace(POSTERIOR, share_traces=False), rollouts)
    shared = study(policy, POSTERIOR, rollouts)
    assert shared.cost < apart.cost and shared.accuracy > apart.accuracy - 0.03


def test_the_model_learns_recovery_and_where_errors_are():
    rng = np.random.default_rng(5)
    n, columns = 800, 5
    open_ = np.full(n, 4)
    negatives = rng.choice([1, 2, 3, 4], n, p=[0.7, 0.1, 0.1, 0.1])
    value = np.where(np.arange(columns) < negatives[:, None], 0.06, 0.7)
    trials = np.full((n, columns), 6.0)
    counts = Counts(rng.binomial(6, value).astype(float), trials, open_)
    model = fit_model(counts, threshold=0.2)
    assert model.recovery == pytest.approx(0.06, abs=0.01)
    # one made-up solution, anywhere, for every two: what is learnt stays short of the 0.7 that it is
    assert model.first[4, 1] == pytest.approx((0.7 + 0.5 / 5) / 1.5, abs=0.05)
    belief = infer(model, counts)
    assert (belief.negatives.argmax(1) == negatives).mean() > 0.95
    assert np.allclose(belief.negatives.sum(1), 1) and np.all(np.diff(belief.positive, axis=1) >= -1e-12)


def test_information_is_never_negative_and_most_where_one_knows_least():
    counts = Counts(np.zeros((1, 4)), np.zeros((1, 4)), np.array([3]))
    belief = infer(start_model(4, 0.1), counts)
    gains = search.information(belief, counts)
    assert np.all(gains[0, :3] > 0) and gains[0, 3] == -1
    known = Counts(np.array([[0.0, 9.0, 0.0, 0.0]]), np.array([[0.0, 9.0, 0.0, 0.0]]), np.array([3]))
    after = search.information(infer(start_model(4, 0.1), known), known)
    assert after[0, 1] < 0.01 and after[0, 0] > 0.1  # the second is surely positive, the third is open


@pytest.mark.parametrize(("name", "value"), [("threshold", 0.001), ("threshold", 0.99)])
def test_a_threshold_must_divide_the_values(name, value):
    with pytest.raises(ValueError, match="threshold"):
        start_model(3, value)
    with pytest.raises(ValueError, match="threshold"):
        SearchArgs(threshold=value).validate()


def test_at_least_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="at_least=9 of continuations=8"):
        SearchArgs("forward", "at_least", 8, at_least=9).validate()
    for way, rule in itertools.product(search.SEARCHES, search.RULES):
        SearchArgs(way, rule).validate()
