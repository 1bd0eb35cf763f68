"""Refining until accepted, with scripted refiners and reward models that are told their scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

import refine.refine_until
from refine.prompts import render_refinement
from refine.refine_until import REFINE_UNTIL, UntilArgs
from refine.rerank import Arm, Scores, choose
from rollouts.records import Candidate, Problem, identity
from rollouts.sampling.args import SamplerArgs
from stages.artifacts import Artifact
from stages.make import make
from tests.refine.judges import TOKENS, Killed, KilledAfter, Told, load_told, make_judge
from tests.refine.lema.made import make_sample, write_script
from tests.tiny import rollout

QUESTION = "How many?"
PROBLEMS = [Problem(name, QUESTION, "10", None, "hand", "test") for name in ("right", "second", "stuck", "never")]
DRAFTS = {
    "right": ("good", "#### 10"),  # accepted as it is
    "second": ("good", "#### 1"),  # mended in the second round
    "stuck": ("bad", "#### 2"),  # the refiner writes the same once more
    "never": ("bad", "#### 3"),  # something else every time, none of it accepted
}
WRITES = {
    ("good", "#### 1"): "bad\n#### 4",
    ("bad", "#### 4"): "good\n#### 10",
    ("bad", "#### 2"): "bad\n#### 2",
    ("bad", "#### 3"): "bad\n#### 5",
    ("bad", "#### 5"): "good\n#### 6",
    ("good", "#### 6"): "good\n#### 7",
}
ORM = {"good": 0.5, "bad": 0.5, "#### 10": 0.9, "#### 1": 0.3, "#### 4": 0.2, "#### 2": 0.1, "#### 3": 0.2}
ORM |= {"#### 5": 0.45, "#### 6": 0.4, "#### 7": 0.1}


@pytest.fixture
def world(tmp_path, monkeypatch):
    own = [rollout(steps, steps[-1] == "#### 10", 0, name) for name, steps in DRAFTS.items()]
    policy = write_script(tmp_path / "student", {"*": [""]})
    whole = {render_refinement("global", QUESTION, steps, None): [text] for steps, text in WRITES.items()}
    judges = {make_judge(tmp_path, "orm"): Told(ORM, "orm"), make_judge(tmp_path, "sorm"): Told(ORM | {"bad": 0.1})}
    load_told(monkeypatch, judges)
    paths = dict(zip(("orm", "sorm"), judges, strict=True))
    drafts = str(make_sample(tmp_path, policy, own, PROBLEMS, seed=5).path)
    found = paths | {"root": tmp_path, "drafts": drafts, "global_refiner": write_script(tmp_path / "global", whole)}
    return found | {"judges": dict(zip(paths, judges.values(), strict=True))}


def run(world, root=None, **changes) -> Artifact:
    parents = {name: world[name] for name in ("drafts", "global_refiner", "orm")}
    args = UntilArgs(**(parents | {"sampler": SamplerArgs(backend="scripted", temperature=0.0)} | changes))
    args.validate()
    return make(REFINE_UNTIL, args, root or world["root"])[0]


def by_problem(artifact: Artifact) -> dict[str, Candidate]:
    return {one.problem_id: one for one in artifact.rows(Candidate)}


def test_rounds_go_on_until_the_judge_accepts(world):
    artifact = run(world)
    found = by_problem(artifact)
    assert {name: one.steps for name, one in found.items()} == {
        "right": ("good", "#### 10"),
        "second": ("good", "#### 10"),
        "stuck": ("bad", "#### 2"),
        "never": ("bad", "#### 5"),  # none was accepted: the best that was seen
    }
    assert {one.kind for one in found.values()} == {"until"} and artifact.rows(Problem, "problems") == PROBLEMS
    assert [one.correct for one in found.values()] == [True, True, False, False]
    counts = artifact.manifest["counts"]
    assert [counts[f"accepted_{number}"] for number in range(4)] == [1, 1, 2, 2]
    assert [counts[f"right_{number}"] for number in range(4)] == [1, 1, 2, 2]
    assert by_problem(run(world, rounds=1))["second"].steps == ("good", "#### 1")  # better than what came of it


def test_everything_that_was_sampled_and_read_is_paid(world):
    """The draft, every refinement, and every reading of the judge; a text that comes back is not read again."""
    found = by_problem(run(world))
    draft, reads = rollout(DRAFTS["right"]), {name: [DRAFTS[name]] for name in DRAFTS}

    def refined(*drafts):
        prompts = sum(len(render_refinement("global", QUESTION, steps, None).split(" ")) for steps in drafts)
        return sum(len(WRITES[steps].split(" ")) for steps in drafts), prompts

    reads["second"] += [("bad", "#### 4")]
    reads["never"] += [("bad", "#### 5"), ("good", "#### 6")]
    for name, one in found.items():
        rounds = reads[name] if name != "right" else []
        judged = {"right": 1, "second": 3, "stuck": 1, "never": 4}[name] * 2 * TOKENS
        sampled, read = refined(*rounds)
        assert one.completion_tokens == draft.completion_tokens + sampled, name
        assert one.prompt_tokens == draft.prompt_tokens + read + judged, name
    counts = run(world).manifest["counts"]
    assert counts["sampled_tokens"] == sum(one.completion_tokens for one in found.values())
    assert counts["read_tokens"] == sum(one.prompt_tokens for one in found.values())


def test_of_two_refiners_the_judge_takes_one_and_the_sorm_says_where(world):
    """The local refiner is told of the first bad step; where the SORM sees none, it offers nothing."""
    local = {render_refinement("local", QUESTION, ("bad", "#### 2"), 0): ["good\n#### 10"]}
    local |= {render_refinement("local", QUESTION, DRAFTS["never"], 0): ["good\n#### 7"], "*": ["bad\n#### 7"]}
    world["judges"]["sorm"].scores = ORM | {"bad": 0.1, "#### 1": 0.9, "#### 4": 0.9}
    own = {"local_refiner": write_script(world["root"] / "local", local), "sorm": world["sorm"]}
    both = by_problem(run(world, **own))
    assert both["stuck"].steps == ("good", "#### 10") and both["stuck"].correct  # by the local one
    assert both["second"].steps == ("good", "#### 10")  # by the global one
    assert both["never"].steps == ("bad", "#### 5")
    alone = by_problem(run(world, global_refiner=None, **own))
    assert alone["stuck"].correct and alone["second"].steps == DRAFTS["second"]
    # the SORM reads what the local refiner may be told of: not what is accepted
    assert DRAFTS["right"] not in world["judges"]["sorm"].asked and DRAFTS["stuck"] in world["judges"]["sorm"].asked
    more = both["stuck"].prompt_tokens - by_problem(run(world))["stuck"].prompt_tokens
    prompt = len(render_refinement("local", QUESTION, ("bad", "#### 2"), 0).split(" "))
    assert more == prompt + 2 * TOKENS + 2 * TOKENS  # the SORM's reading of the draft, the ORM's of the refinement


def test_a_round_may_have_only_what_is_too_long_to_be_read(world):
    written = {render_refinement("global", QUESTION, DRAFTS["stuck"], None): ["bad\nbad\n#### 2"]}
    world["judges"]["orm"].longest = 2
    policy = write_script(world["root"] / "long", written | {"*": ["good\ngood\n#### 10"]})
    artifact = run(world, global_refiner=policy, rounds=1)
    assert {name: one.steps for name, one in by_problem(artifact).items()} == DRAFTS
    assert artifact.manifest["counts"]["too_long"] == 3


def test_the_sorm_may_judge_too(world):
    found = by_problem(run(world, judge="sorm", sorm=world["sorm"], orm=None))
    assert found["second"].steps == ("good", "#### 10") and world["judges"]["orm"].asked == []


def test_what_was_killed_goes_on_where_it_was(world, monkeypatch, tmp_path):
    whole = run(world, tmp_path / "whole")
    kills = KilledAfter(monkeypatch, refine.refine_until)
    for kills.limit in (2, 4):
        with pytest.raises(Killed):
            run(world, tmp_path / "killed")
    kills.limit = None
    found = run(world, tmp_path / "killed")
    assert found.rows(Candidate) == whole.rows(Candidate) and len(kills.drawn) == len(set(kills.drawn)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_refiner": None}, "global_refiner, local_refiner or both must be given"),
        ({"orm": None}, "judge=orm where=sorm needs orm"),
        ({"local_refiner": "l"}, "judge=orm where=sorm needs sorm"),
        ({"judge": "oracle"}, "judge='oracle' is none of orm, sorm"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        replace(UntilArgs(drafts="d", global_refiner="g", orm="o"), **change).validate()


def test_a_reward_model_of_the_other_kind_is_refused(world):
    with pytest.raises(ValueError, match=r"orm=.* is a reward model of kind sorm"):
        run(world, orm=world["sorm"])


def test_the_reranker_takes_it_at_its_price():
    one = Candidate("p", "until", "none", None, 0, "", ("a",), "1", True, 55, 444)
    scores = Scores({"orm": {identity(one): 0.5}}, {"orm": {identity(one): 20}})
    (choice,) = choose([one], scores, Arm("orm", "sorm"), 3)
    assert (choice.selector, choice.scorer, choice.where) == ("until", "none", "none")
    assert (choice.completion_tokens, choice.read_tokens) == (55, 444)
