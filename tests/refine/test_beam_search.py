"""Step beam search with a scripted policy and a reward model that is told its scores: by hand, tokens, kills."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import refine.beam_search
from refine.beam_search import BEAM_SEARCH, Beam, BeamArgs, Search, grow
from refine.rerank import Arm, Scores, choose
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import render_prompt
from rollouts.records import Candidate, Problem, identity
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Sample
from stages.artifacts import Artifact
from stages.make import make
from tests.refine.judges import TOKENS, Killed, KilledAfter, Told, load_told, make_judge
from tests.refine.lema.made import write_script
from tests.tiny import save_policy, save_reward

QUESTION = "How many?"
PROMPT = render_prompt(QUESTION)
WORDS = len(PROMPT.split(" "))
SCORES = {"g1": 0.9, "b1": 0.2, "x1": 0.5, "g2": 0.4, "x2": 0.7, "#### 10": 0.95, "#### 11": 0.8}
SCRIPT = {
    PROMPT: ["g1", "b1", "g1\nnever read", "x1"],
    PROMPT + "g1\n": ["g2\nignored", "#### 10"],
    PROMPT + "x1\n": ["", "x2"],
    PROMPT + "x1\nx2\n": ["#### 11"],
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two problems, and the judge."""
    problems = [Problem(name, QUESTION, "10", None, "hand", "test") for name in ("p", "q")]
    monkeypatch.setattr("refine.beam_search.load_problems", lambda args, bad: problems)
    judge, told = make_judge(tmp_path), Told(SCORES)
    load_told(monkeypatch, {judge: told})
    return tmp_path, judge, told


def arguments(world, script=SCRIPT, **changes) -> BeamArgs:
    root, judge, _ = world
    policy = root / f"script{len(list(root.glob('script*')))}"
    sampler = SamplerArgs(backend="scripted", max_tokens=3)
    args = BeamArgs(policy=write_script(policy, script), scorer=judge, sampler=sampler, beams=2, expand=2)
    args = replace(args, **changes)
    args.validate()
    return args


def search(world, *script, **changes) -> Artifact:
    return make(BEAM_SEARCH, arguments(world, *script, **changes), world[0])[0]


def test_the_best_are_kept_after_every_step(world):
    artifact = search(world)
    rows = artifact.rows(Candidate)
    assert [(c.problem_id, c.sample, c.steps, c.correct) for c in rows] == [
        (name, at, steps, right)
        for name in ("p", "q")
        for at, (steps, right) in enumerate(((("g1", "#### 10"), True), (("x1", "x2", "#### 11"), False)))
    ]
    assert {(c.kind, c.where) for c in rows} == {("beam", "none")} and rows[0].text == "g1\n#### 10\n"
    assert [one.id for one in artifact.rows(Problem, "problems")] == ["p", "q"]
    # b1 is dropped at once: nobody goes on from it, or the script would have no text
    told = world[2].asked
    assert ("b1",) in told and not any(steps[0] == "b1" and len(steps) > 1 for steps in told)
    assert told.count(("g1",)) == 2  # it was drawn twice, and read once for each problem
    assert artifact.manifest["counts"]["accuracy"] == 1.0 and artifact.manifest["counts"]["unanswered"] == 0


def test_all_that_was_sampled_and_read_is_paid(world):
    """Also the beams that were dropped, and every reading of the reward model."""
    artifact = search(world)
    rows = [c for c in artifact.rows(Candidate) if c.problem_id == "p"]
    sampled = 4 + (1 + 2 + 1 + 1) + 2 * 2  # words of three waves
    read = 4 * WORDS + 4 * (WORDS + 1) + 2 * (WORDS + 1)
    judged = TOKENS * (3 * 1 + 3 * 2 + 1 * 3)  # three prefixes of one step, three of two, one of three
    assert [c.completion_tokens for c in rows] == [7, 6] and sampled == 13
    assert sum(c.prompt_tokens for c in rows) == read + judged
    counts = artifact.manifest["counts"]
    assert (counts["sampled_tokens"], counts["read_tokens"]) == (2 * sampled, 2 * (read + judged))
    assert artifact.manifest["tokens"] == 2 * (sampled + judged)


def test_other_aggregates_keep_others(world):
    """By the least of its steps g1, #### 10 (.9, .95) leads; by the last one a late good step makes up for all."""
    script = {PROMPT: ["g1", "x1"], PROMPT + "g1\n": ["g2"], PROMPT + "x1\n": ["x2"]}
    script |= {PROMPT + "g1\ng2\n": ["#### 10"]}
    world[2].scores = SCORES | {"g2": 0.6}
    last = search(world, script, beams=1, aggregate="last", sampler=SamplerArgs(backend="scripted", max_tokens=3))
    assert last.rows(Candidate)[0].steps == ("g1", "g2", "#### 10")
    world[2].scores = SCORES | {"x2": 0.99, "g2": 0.6}
    two = {"beams": 2, "expand": 1, "max_steps": 2}
    found = {
        how: search(world, script, aggregate=how, **two).rows(Candidate)[0].steps for how in ("last", "min", "product")
    }
    assert found == {"last": ("x1", "x2"), "min": ("g1", "g2"), "product": ("g1", "g2")}


def sample(text: str, finish: str = "stop") -> Sample:
    return Sample("r", 0, text, finish, 1, 1, 0)


def test_how_a_line_makes_a_beam_grow():
    first = Beam(("a",), 0.5)
    assert grow(first, sample("b")) == Beam(("a", "b"))
    assert grow(first, sample("#### 7")) == Beam(("a", "#### 7"), open=False, answered=True)
    assert grow(first, sample("b", "length")) == Beam(("a", "b"), open=False)  # half a step
    blank = grow(first, sample(" "))
    assert (blank, blank.text) == (Beam(("a",), 0.5, blank=True), "a\n\n")  # between two steps there may be one
    assert grow(blank, sample("b")) == Beam(("a", "b"))
    assert grow(blank, sample("")) == Beam(("a",), 0.5, open=False)
    assert grow(first, sample("", "refused")) == Beam(("a",), 0.5, open=False)


def test_what_ended_without_an_answer_comes_last():
    own = Search(Problem("p", QUESTION, "10", None, "x", "test"), [Beam(("done", "#### 1"), 0.3, False, True)])
    dead, poor, same = Beam(("a",), 0.9, open=False), Beam(("b",), 0.1), Beam(("c",), 0.1)
    own.keep([dead, poor, same, replace(poor, open=False)], 3)
    assert [one.steps for one in own.beams] == [("done", "#### 1"), ("b",), ("c",)] and own.beams[1].open
    own.keep([dead], 3)  # the open ones have been written on
    assert [one.steps for one in own.beams] == [("done", "#### 1"), ("a",)]
    assert [c.steps for c in own.candidates()] == [("done", "#### 1")]
    own.beams = [dead]
    assert [(c.steps, c.answer) for c in own.candidates()] == [(("a",), None)]
    scores = [Beam(("x",), -math.inf), Beam(("y",), 0.2)]
    own.keep(scores, 1)
    assert own.beams == scores[1:]  # one that cannot be read is the worst


def test_a_search_ends_where_all_that_is_left_is_too_long_to_be_read(world):
    world[2].longest = 1
    texts = {PROMPT: ["g1"], PROMPT + "g1\n": ["g2"], PROMPT + "g1\ng2\n": [""], PROMPT + "g1\ng2\n\n": ["#### 10"]}
    artifact = search(world, texts, beams=1, expand=1)
    assert {c.steps for c in artifact.rows(Candidate)} == {("g1", "g2", "#### 10")}
    # two solutions of two problems, each counted once though an empty line follows the first
    assert artifact.manifest["counts"]["too_long"] == 4


def test_a_policy_that_never_answers_ends_at_max_steps(world):
    artifact = search(world, {"*": ["g1"]}, beams=1, expand=1, max_steps=5, sampler=SamplerArgs("scripted", 0.0))
    assert {c.steps for c in artifact.rows(Candidate)} == {("g1",) * 5}
    assert artifact.manifest["counts"]["unanswered"] == 2 and artifact.manifest["counts"]["accuracy"] == 0.0


def test_a_search_that_is_killed_goes_on_where_it_was(world, monkeypatch, tmp_path):
    args = arguments(world)
    whole = make(BEAM_SEARCH, args, tmp_path / "whole")[0]
    kills = KilledAfter(monkeypatch, refine.beam_search)
    for kills.limit in (3, 9, 14):
        with pytest.raises(Killed):
            make(BEAM_SEARCH, args, tmp_path / "killed")
    kills.limit = None
    found = make(BEAM_SEARCH, args, tmp_path / "killed")[0]
    assert found.rows(Candidate) == whole.rows(Candidate) and found.key == whole.key
    assert len(kills.drawn) == len(set(kills.drawn)) == 2 * (4 + 4 + 2)  # nothing twice
    assert found.manifest["counts"] == whole.manifest["counts"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": 0}, "beams must be at least 1, not 0"),
        ({"max_steps": 1000}, "max_steps=1000: no more than 256"),
        ({"aggregate": "max"}, "aggregate='max' is none of last, min, product, mean"),
        ({"sampler": SamplerArgs(temperature=0.0)}, "greedy steps would all be the same"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BeamArgs(policy="p", scorer="s"), **change).validate()


def test_a_real_model_writes_and_a_real_one_reads(tmp_path, monkeypatch):
    """On the embedded world, in other batches: the same solutions for the same tokens."""
    from rewards.scorer import load_scorer

    judge = make_judge(tmp_path)
    folder = save_reward(tmp_path / "sorm", "sorm")
    monkeypatch.setattr("rewards.scorer.load_scorer", lambda path, **own: load_scorer(folder, **own))
    policy = save_policy(tmp_path / "policy")

    def found(batch_size: int, batch_tokens: int) -> list[Candidate]:
        sampler = SamplerArgs(max_tokens=6, batch_size=batch_size, device="cpu", dtype="float32")
        args = BeamArgs(policy=policy, scorer=judge, problems=ProblemArgs(split="test", limit=3), sampler=sampler)
        args = replace(args, beams=2, expand=2, max_steps=4, device="cpu", batch_tokens=batch_tokens)
        return make(BEAM_SEARCH, args, tmp_path / f"{batch_size}")[0].rows(Candidate)

    rows = found(64, 16384)
    assert len({c.problem_id for c in rows}) == 3 and all(c.completion_tokens > 0 for c in rows)
    assert found(3, 100) == rows


def test_the_reranker_chooses_among_the_beams_at_the_price_of_the_search():
    rows = [Candidate("p", "beam", "none", None, at, "", ("a",), str(at), at == 1, 7 - at, 100 + at) for at in range(2)]
    scores = Scores({"orm": {identity(c): 0.1 + c.sample for c in rows}}, {"orm": {identity(c): 20 for c in rows}})
    (choice,) = choose(rows, scores, Arm("orm", "sorm"), 3)
    assert (choice.selector, choice.sample, choice.correct, choice.offered) == ("beam", 1, True, 2)
    assert (choice.completion_tokens, choice.read_tokens) == (13, 201 + 40)
    (alone,) = choose(rows[:1], scores, Arm("orm", "sorm"), 3)  # nobody has to be asked, but it is the same arm
    assert (alone.scorer, alone.read_tokens, alone.where) == ("orm", 100, "none") == (choice.scorer, 100, choice.where)
