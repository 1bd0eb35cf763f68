"""Choosing: every rule with ties and scores that are no numbers, every selector by hand, and the stage."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest

from refine.beam_search import BEAM_SEARCH, BeamArgs
from refine.rerank import RERANK, Arm, RerankArgs, Scores, choose, choose_equal, cost, keeps
from refine.revise import REVISE, ReviseArgs
from refine.selection import EQUAL, SEARCHES, SELECTORS, select
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.records import Candidate, Choice, Judgement, Problem, Rollout, identity
from rollouts.sampling.sample import SampleArgs
from stages.make import make
from stages.stage import Stage
from stages.workspace import Quarantined
from tests.tiny import problem, save_reward


def candidate(kind="draft", answer: str | None = "12", correct=True, where="none", sample=0, tokens=10, name="p"):
    steps = () if answer is None else ("<<7+5=12>>12", f"#### {answer}")
    return Candidate(name, kind, where, None, sample, "\n".join(steps), steps, answer, correct, tokens)


DRAFT, GLOBAL, LOCAL = candidate("draft", "1", False), candidate("global", "2"), candidate("local", "3", None, "sorm")
THREE = [DRAFT, GLOBAL, LOCAL]
NAN, LOW = math.nan, -math.inf


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.9, 0.5], 1),
        ([0.5, 0.5, 0.5], 0),  # a tie keeps the draft
        ([0.1, 0.5, 0.5], 1),
        ([NAN, 0.0, 0.0], 1),
        ([0.1, NAN, 0.2], 2),
        ([NAN, NAN, NAN], 0),
        ([LOW, LOW, 0.0], 2),
        ([LOW, NAN, LOW], 0),
        ([0.1, math.inf, 0.2], 2),
    ],
)
def test_best(scores, best):
    assert select(THREE, scores, "best") is THREE[best]


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["1", "2", "2"], 1),
        (["1", "2", "3"], 0),
        (["2", "1", "1", "2"], 0),
        ([None, None, "5"], 2),
        ([None, None], 0),
        (["7", "1,800", "1800.0"], 1),  # one number, written in two ways
        (["3", "0", "0.0"], 1),
        (["x", "y", "y"], 1),
        (["7", "7", "1/2", "0.5", "\\frac{1}{2}"], 2),  # values are counted, not spellings
        (["7", "7", "x=1 \\text{ or } x=2", "2, 1", "1,2"], 2),
        (["34", "3  4", "34"], 0),
    ],
)
def test_majority(answers, chosen):
    candidates = [candidate("sample", answer, sample=i) for i, answer in enumerate(answers)]
    assert select(candidates, [NAN] * len(answers), "majority") is candidates[chosen]


def test_majority_of_a_multiple_choice():
    asked = Problem("a", "Where?\nAnswer choices: (A) sea (B) sky (C) bank", "(C) bank", None, "x", "test")
    answers = ["A", "A", "C", "(C) bank", "bank"]
    candidates = [candidate("sample", answer, sample=i) for i, answer in enumerate(answers)]
    assert select(candidates, [NAN] * 5, "majority", asked) is candidates[2]
    assert select(candidates, [NAN] * 5, "majority") is candidates[0]


def test_oracle_takes_a_right_one_if_any():
    assert select(THREE, [0.9, 0.1, 0.9], "oracle") is GLOBAL
    assert select([DRAFT, LOCAL], [0.1, 0.9], "oracle") is DRAFT  # ungraded is not right


def test_random_is_a_function_of_seed_and_problem_and_even():
    names = [f"p{i}" for i in range(3000)]
    chosen = []
    for name in names:
        own = [dataclasses.replace(c, problem_id=name) for c in THREE]
        chosen.append(select(own, [0.1, 0.2, 0.3], "random").kind)
        assert chosen[-1] == select(own, [0.3, 0.2, 0.1], "random").kind
    others = [
        select([dataclasses.replace(c, problem_id=name) for c in THREE], [0, 0, 0], "random", seed=1) for name in names
    ]
    assert 1800 < sum(one.kind != kind for one, kind in zip(others, chosen, strict=True)) < 2200  # two in three
    assert all(900 < count < 1100 for count in Counter(chosen).values()) and len(set(chosen)) == 3


@pytest.mark.parametrize(
    ("candidates", "scores", "rule", "message"),
    [
        ([], [], "best", "0 candidates"),
        (THREE, [0.1], "best", "3 candidates with 1 scores"),
        (THREE, [0.1] * 3, "worst", "'worst'.*best, majority, weighted, random, oracle"),
    ],
)
def test_nothing_to_select_from(candidates, scores, rule, message):
    with pytest.raises(ValueError, match=message):
        select(candidates, scores, rule)


def test_a_weighted_vote_sums_the_scores_of_equal_values():
    half = [candidate("sample", answer, False, sample=i) for i, answer in enumerate(["7", "1/2", "0.5", None])]
    assert select(half, [0.5, 0.2, 0.4, 0.9], "weighted") is half[1]  # .6 for a half
    assert select(half, [0.7, 0.2, 0.4, 0.9], "weighted") is half[0]
    assert select(half, [0.1, math.nan, 0.05, 0.9], "weighted") is half[0]  # what is no number weighs nothing
    assert select(half[3:], [0.9], "weighted") is half[3]


SAMPLES = [candidate("sample", answer, answer == "12", sample=i) for i, answer in enumerate(["4", "12", "4", "12"])]
CONTROL, SHUFFLED = candidate("control", "6", False, tokens=7), candidate("shuffled", "8", False, tokens=9)
OTHER_LOCAL = candidate("local", "12", True, "orm", tokens=99)


def test_every_selector_by_hand():
    everything = [DRAFT, *reversed(SAMPLES), GLOBAL, CONTROL, SHUFFLED, LOCAL, OTHER_LOCAL]
    finals = {identity(c): 0.5 for c in everything}
    finals |= {identity(GLOBAL): 0.6, identity(LOCAL): 0.7, identity(SAMPLES[1]): 0.8, identity(SAMPLES[3]): 0.9}
    found = {c.selector: c for c in choose(everything, Scores({"orm": finals}), Arm("orm", "sorm"), 3)}
    assert found.keys() == SELECTORS.keys() - {EQUAL, *SEARCHES}
    assert {name: c.kind for name, c in found.items() if name != "random"} == {
        "draft": "draft", "global": "global", "local": "local", "draft_global": "global", "draft_local": "local",
        "reranked": "local", "best_of_n": "sample", "best_of_n_with_draft": "sample", "majority_of_n": "sample",
        "weighted_of_n": "sample",
        "oracle": "global", "control": "control", "draft_control": "draft",
        "shuffled": "shuffled", "draft_shuffled": "draft",
    }  # fmt: skip
    # the best of the first three, though the fourth scores higher; the majority of three is another answer
    assert (found["best_of_n"].sample, found["best_of_n"].answer) == (1, "12")
    assert (found["best_of_n_with_draft"].offered, found["best_of_n_with_draft"].sample) == (3, 1)  # two samples only
    assert (found["majority_of_n"].answer, found["majority_of_n"].correct) == ("4", False)
    assert (found["weighted_of_n"].sample, found["weighted_of_n"].answer) == (0, "4")  # 0.5 + 0.5 against 0.8
    assert {name for name, c in found.items() if c.scorer == "orm"} == {
        "draft_global", "draft_local", "reranked", "best_of_n", "best_of_n_with_draft", "weighted_of_n",
        "draft_control", "draft_shuffled",
    }  # fmt: skip
    with_local = {"local", "draft_local", "reranked", "random", "oracle"}
    assert {name: c.where for name, c in found.items()} == {
        name: "sorm" if name in with_local else "none" for name in found
    }
    assert found["reranked"].correct is False  # what could not be graded is not right
    # tokens of all that had to be sampled: a refiner has read the draft
    assert {name: c.completion_tokens for name, c in found.items()} == {
        "draft": 10, "global": 20, "local": 20, "draft_global": 20, "draft_local": 20, "reranked": 30, "best_of_n": 30,
        "best_of_n_with_draft": 30, "shuffled": 19, "draft_shuffled": 19,
        "majority_of_n": 30, "weighted_of_n": 30, "random": 30, "oracle": 30, "control": 7, "draft_control": 17,
    }  # fmt: skip


REFINING = {name for name, (kinds, _) in SELECTORS.items() if {"global", "local", "control", "shuffled"} & set(kinds)}


def test_a_gate_keeps_the_draft_for_its_tokens_alone_or_offers_what_is_always_offered():
    everything = [DRAFT, *SAMPLES, GLOBAL, CONTROL, SHUFFLED, LOCAL]
    finals = {identity(c): 0.9 if c is LOCAL else 0.5 for c in everything}

    def chosen(when: str, threshold: float):
        scores = Scores({"orm": finals}, {}, {"sorm": threshold}, {"sorm": finals})
        return {c.selector: c for c in choose(everything, scores, Arm("orm", "sorm", when), 3)}

    always, kept, open_ = chosen("always", 0.5), chosen("sorm", 0.5), chosen("sorm", 0.6)
    assert kept.keys() == REFINING  # samples have no gate
    assert {(c.kind, c.when, c.completion_tokens, c.correct) for c in kept.values()} == {("draft", "sorm", 10, False)}
    assert open_.keys() == REFINING
    for name, choice in open_.items():
        # the gate has read the draft, also where nothing else did
        more = 10 if name == "control" else 0
        tokens = always[name].completion_tokens + more
        assert choice == dataclasses.replace(always[name], when="sorm", completion_tokens=tokens)
        # kept or not, an arm has one name
        assert (choice.scorer, choice.where) == (kept[name].scorer, kept[name].where)


def test_who_keeps_a_draft():
    finals = {"orm": {identity(DRAFT): 0.5}, "sorm": {identity(DRAFT): 0.6}}
    scores = Scores({}, {}, {"orm": 0.5, "sorm": 0.7}, finals)
    kept = {when: keeps(when, DRAFT, scores) for when in ("always", "orm", "sorm", "oracle")}
    assert kept == {"always": False, "orm": True, "sorm": False, "oracle": False}
    assert keeps("oracle", dataclasses.replace(DRAFT, correct=True), scores)
    assert not keeps("oracle", dataclasses.replace(DRAFT, correct=None), scores)  # what nobody graded is not right
    assert not keeps("orm", DRAFT, Scores({}, {}, {"orm": 0.0}, {"orm": {identity(DRAFT): LOW}}))  # too long to be read


def test_the_place_decides_which_local_refinement_is_offered():
    finals = Scores({"orm": {identity(c): 0.5 for c in (DRAFT, LOCAL, OTHER_LOCAL)}})
    (choice,) = [c for c in choose([DRAFT, LOCAL, OTHER_LOCAL], finals, Arm("orm", "orm"), 3) if c.selector == "local"]
    assert (choice.answer, choice.where, choice.correct, choice.completion_tokens) == ("12", "orm", True, 109)
    names = {c.selector for c in choose([DRAFT, LOCAL], finals, Arm("orm", "none"), 3)}
    assert names == {"draft"}


def test_fewer_samples_than_asked_are_refused():
    finals = {identity(c): 0.5 for c in SAMPLES}
    with pytest.raises(ValueError, match=r"best of 5 samples.*problem p has only 4"):
        choose(SAMPLES, Scores({"orm": finals}), Arm("orm", "none"), 5)


def test_all_that_is_sampled_and_read_is_counted_once():
    def reading(one, prompt):
        return dataclasses.replace(one, prompt_tokens=prompt)

    draft, whole, local = reading(DRAFT, 100), reading(GLOBAL, 111), reading(LOCAL, 112)
    control, shuffled = reading(CONTROL, 101), reading(SHUFFLED, 113)
    three = [draft, whole, local]
    tokens = {identity(c): 1000 + at for at, c in enumerate([*three, control, shuffled])}
    scores = Scores({}, {"orm": tokens, "sorm": {key: 10 * count for key, count in tokens.items()}}, {})

    def costs(offered, scorer="orm", where="sorm", when="always", asks=None):
        return cost(offered, [draft], Arm(scorer, where, when), len(offered) > 1 if asks is None else asks, scores)

    assert costs([draft]) == (10, 100)
    # a refiner has read the draft, of whatever problem it was; the control none
    assert costs([whole]) == (20, 211) and costs([shuffled]) == (19, 213) and costs([control]) == (7, 101)
    # the SORM reads the draft to locate its error, and the ORM all that it chooses from
    assert costs([local]) == (20, 212 + 10_000) and costs([local], where="oracle") == (20, 212)
    assert costs(three) == (30, 100 + 111 + 112 + 10_000 + 1000 + 1001 + 1002)
    # a model reads a text once, be it to keep, to locate or to choose
    assert costs(three, where="orm", when="orm") == (30, 323 + 3003)
    # a gate reads the draft, also before a control; a draft that is kept costs nothing else
    assert costs([control], when="orm") == (17, 201 + 1000) and costs([draft], when="orm", asks=False) == (10, 1100)
    assert cost([GLOBAL], [], Arm("orm", "none"), False, scores) == (10, 0)


def test_best_of_n_at_equal_tokens_has_the_least_n_that_costs_as_much():
    groups = [
        [dataclasses.replace(c, problem_id=name, prompt_tokens=5) for c in [DRAFT, *reversed(SAMPLES)]] for name in "pq"
    ]
    finals = {identity(c): 0.1 * c.sample for group in groups for c in group}
    scores = Scores({"orm": finals}, {"orm": dict.fromkeys(finals, 4)}, {})  # one sample costs 15, each of several 19

    def found(*costs):
        reranked = [Choice("p", "reranked", "orm", "sorm", "local", 0, None, True, n - 3, read_tokens=3) for n in costs]
        return choose_equal(groups, reranked, scores, Arm("orm", "sorm", "orm"))

    assert [(c.problem_id, c.offered, c.sample) for c in found(15, 15)] == [("p", 1, 0), ("q", 1, 0)]
    two = found(10, 22)  # the mean counts: one sample would cost 15
    assert [(c.offered, c.sample, c.completion_tokens, c.read_tokens) for c in two] == [(2, 1, 20, 18)] * 2
    assert {(c.selector, c.scorer, c.where, c.when) for c in two} == {(EQUAL, "orm", "sorm", "orm")}
    assert [c.offered for c in found(76, 76)] == [4, 4] and found(76, 77) == []  # there are no five


LONG = {("p", "draft"), *(("q", kind) for kind in ("draft", "global", "local", "control", "shuffled", "sample"))}


@pytest.fixture
def made(tmp_path, request) -> dict[str, str]:
    seed = getattr(request, "param", 0)

    def write_candidates(_args, work) -> None:
        work.write_rows("problems", [problem("p"), problem("q")])
        rows = [
            dataclasses.replace(c, problem_id=name)
            for name in "pq"
            for c in [*THREE, CONTROL, SHUFFLED, OTHER_LOCAL, *SAMPLES]
        ]
        rows.append(candidate("local", None, False, "oracle", name="p"))  # a text without a step
        rows.append(candidate("local", "12", True, "oracle", name="q"))
        if _args.seed:  # the draft of p and every candidate of q are too long for the reward models
            long = tuple(["<<7+5=12>>12"] * 200)
            rows = [dataclasses.replace(c, steps=long) if (c.problem_id, c.kind) in LONG else c for c in rows]
        work.write_rows("rows", rows)

    (tmp_path / "x").mkdir()
    nowhere = str(tmp_path / "x")
    drafts, _ = make(
        Stage("sample", 1, SampleArgs, lambda _args, work: work.write_rows("rows", [], Rollout)),
        SampleArgs(policy=nowhere),
        tmp_path,
    )
    args = ReviseArgs(drafts=str(drafts.path), global_refiner=nowhere, local_refiner=nowhere, where=["none"], seed=seed)
    found = {"candidates": str(make(dataclasses.replace(REVISE, run=write_candidates), args, tmp_path)[0].path)}
    for kind in ("orm", "sorm"):
        source = {"rollouts": str(drafts.path)} if kind == "orm" else {"labels": None}
        stage = dataclasses.replace(TRAIN_REWARD, run=lambda _args, work, kind=kind: save_reward(work.folder, kind))
        reward = TrainRewardArgs(kind=kind, policy=nowhere, **source)
        found[kind] = str(make(stage, reward, tmp_path)[0].path)
    return found


# of three places and two scorers, once each: local alone, random and oracle ask nobody
ARMS = 3 * 2 * 2 + 3 * 3 + 2 * 6 + 5


def test_the_stage_has_a_choice_by_every_gate(made, tmp_path):
    artifact, _ = make(RERANK, RerankArgs(**made, when=["always", "orm", "sorm", "oracle"], device="cpu"), tmp_path)
    candidates = {("p", c.kind): c for c in [*THREE, CONTROL, SHUFFLED]}
    finals = {
        (j.scorer, j.problem_id): j.probabilities[-1]
        for j in artifact.rows(Judgement, "judgements")
        if j.kind == "draft"
    }
    choices, kept = artifact.rows(Choice), set()
    for when in ("orm", "sorm", "oracle"):
        own = [c for c in choices if c.when == when]
        assert {c.selector for c in own} - {EQUAL} == REFINING
        for choice in (c for c in own if c.selector != EQUAL):
            keeps_it = when != "oracle" and finals[when, choice.problem_id] >= 0.5
            kept.add((when, keeps_it))
            if keeps_it:
                assert (choice.kind, choice.completion_tokens) == ("draft", 10)
            elif choice.selector in ("global", "control", "shuffled"):
                assert choice.kind == choice.selector
                assert choice.completion_tokens == 10 + candidates["p", choice.kind].completion_tokens
    assert len(kept) > 1 and len(choices) == len(set(choices))
    with pytest.raises(ValueError, match=r"when=\['never'\] must be some of always, orm, sorm, implicit, oracle"):
        RerankArgs("c", "o", "s", when=["never"]).validate()


def test_the_stage_judges_everything_and_chooses_by_every_selector(made, tmp_path):
    artifact, _ = make(RERANK, RerankArgs(**made, device="cpu"), tmp_path)
    judgements, choices = artifact.rows(Judgement, "judgements"), artifact.rows(Choice)
    assert len(judgements) == 2 * (2 * 10 + 2) and all(0 < p < 1 for j in judgements for p in j.probabilities)
    assert sum(not j.probabilities for j in judgements) == 2  # one candidate without a step, two scorers
    equal = [c for c in choices if c.selector == EQUAL]
    assert len(choices) == len(set(choices)) == 2 * ARMS + len(equal)
    assert {c.where for c in choices if c.selector == "reranked"} == {"orm", "sorm", "oracle"}
    finals = {(j.scorer, *identity(j)): j.probabilities[-1] for j in judgements if j.probabilities}
    for choice in choices:
        if choice.selector == "reranked" and choice.scorer != "none":
            offered = [(choice.problem_id, "draft", "none", 0), (choice.problem_id, "global", "none", 0)]
            offered.append((choice.problem_id, "local", choice.where, 0))
            best = max(offered, key=lambda key: finals.get((choice.scorer, *key), LOW))
            assert best[1] == choice.kind
    assert artifact.manifest["tokens"] > 0
    # without a number, best-of-n is the best of all four that were sampled
    assert artifact.manifest["counts"]["samples"] == 4
    cost = {c.selector: c.completion_tokens for c in choices if c.problem_id == "p"}
    assert cost["best_of_n"] == cost["majority_of_n"] == 40
    fewer, _ = make(RERANK, RerankArgs(**made, samples=2, device="cpu"), tmp_path)
    assert fewer.manifest["counts"]["samples"] == 2
    # a text without steps is never the best
    assert not [
        c
        for c in choices
        if c.where == "oracle" and c.problem_id == "p" and c.selector == "reranked" and c.kind == "local"
    ]


def test_solutions_may_be_chosen_by_another_score_of_their_steps(made, tmp_path):
    """The gate goes by the last step in any case: its threshold is for that."""
    last, _ = make(RERANK, RerankArgs(**made, when=["always", "orm"], device="cpu"), tmp_path)
    least, _ = make(RERANK, RerankArgs(**made, when=["always", "orm"], aggregate="min", device="cpu"), tmp_path)
    judgements = least.rows(Judgement, "judgements")
    assert judgements == last.rows(Judgement, "judgements") and least.key != last.key
    scores = {(j.scorer, *identity(j)): min(j.probabilities, default=LOW) for j in judgements}
    chosen = [c for c in least.rows(Choice) if c.selector == "best_of_n"]
    for choice in chosen:
        own = [scores[choice.scorer, choice.problem_id, "sample", "none", at] for at in range(4)]
        assert choice.sample == own.index(max(own))
    kept = [[c for c in one.rows(Choice) if (c.selector, c.when) == ("global", "orm")] for one in (last, least)]
    assert kept[0] == kept[1]
    drafts = {identity(DRAFT): 0.4}
    scores = Scores({"orm": {identity(DRAFT): 0.1}}, {}, {"orm": 0.3}, {"orm": drafts})
    assert keeps("orm", DRAFT, scores) and not keeps("orm", DRAFT, dataclasses.replace(scores, lasts=scores.finals))
    with pytest.raises(ValueError, match="aggregate='max' is none of last, min, product, mean"):
        RerankArgs("c", orm="o", sorm="s", aggregate="max").validate()


def test_searches_are_of_the_same_problems_and_there_once(made, tmp_path):
    beams = [dataclasses.replace(candidate("beam", sample=at), problem_id=name) for name in "pq" for at in range(2)]

    def searched(rows, seed):
        stage = dataclasses.replace(BEAM_SEARCH, run=lambda _args, work: work.write_rows("rows", rows, Candidate))
        args = BeamArgs(policy=str(tmp_path / "x"), scorer=made["sorm"], seed=seed, device="cpu")
        return str(make(stage, args, tmp_path)[0].path)

    one = searched(beams, 0)
    artifact, _ = make(RERANK, RerankArgs(**made, more=[one], device="cpu"), tmp_path)
    found = [c for c in artifact.rows(Choice) if c.selector == "beam"]
    assert len(found) == 2 * 2 and {c.offered for c in found} == {2} and {c.when for c in found} == {"always"}
    with pytest.raises(ValueError, match=r"are of other problems; see 'q'"):
        make(RERANK, RerankArgs(**made, more=[searched(beams[:2], 1)], device="cpu"), tmp_path)
    with pytest.raises(ValueError, match="two artifacts of one kind of search"):
        make(RERANK, RerankArgs(**made, more=[one, searched(beams, 2)], device="cpu"), tmp_path)


@pytest.mark.parametrize("made", [1], indirect=True)
def test_a_candidate_that_is_too_long_is_counted_and_chosen_only_where_all_are(made, tmp_path):
    artifact, _ = make(RERANK, RerankArgs(**made, device="cpu"), tmp_path)
    choices = artifact.rows(Choice)
    assert len([c for c in choices if c.selector != EQUAL]) == 2 * ARMS
    for choice in choices:
        if choice.selector in ("draft_global", "draft_local", "reranked", "draft_control", "draft_shuffled"):
            sees_another = choice.problem_id == "p" and (choice.selector, choice.where) != ("draft_local", "oracle")
            assert (choice.kind == "draft") != sees_another, choice
    unscored = [j for j in artifact.rows(Judgement, "judgements") if not j.probabilities]
    assert {(j.problem_id, j.kind) for j in unscored} == LONG | {("p", "local")}
    too_long = 1 + 11  # the draft of p and all of q; the text of p without a step is not too long
    counts = artifact.manifest["counts"]
    assert counts["orm_too_long"] == counts["sorm_too_long"] == too_long == len(unscored) // 2 - 1
    names = {row.id for row in artifact.rows(Quarantined, "quarantine")}
    assert len(names) == too_long and {"p/draft/none/0", "q/local/oracle/0", "q/sample/none/3"} <= names


def test_reward_models_in_each_others_place_are_refused(made, tmp_path):
    args = RerankArgs(made["candidates"], orm=made["sorm"], sorm=made["orm"], device="cpu")
    with pytest.raises(ValueError, match=r"orm=.* is a reward model of kind sorm"):
        make(RERANK, args, tmp_path)
    with pytest.raises(ValueError, match="not 0"):
        RerankArgs("c", "o", "s", samples=0).validate()
