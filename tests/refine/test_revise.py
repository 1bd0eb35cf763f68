"""Drafts into candidates with scripted refiners, end to end: what is asked, what is kept, and who says where."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from refine.prompts import render_refinement
from refine.rerank import choose
from refine.revise import REVISE, ReviseArgs
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.prompts import render_prompt
from rollouts.records import Candidate, Problem, Rollout, identity
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import load_sampler, refuse
from rollouts.sampling.sample import SampleArgs
from rollouts.steps import MAX_STEPS
from stages.artifacts import Artifact, ArtifactError
from stages.make import make
from stages.stage import Stage
from stages.workspace import Quarantined
from tests.tiny import rollout, save_reward

QUESTION = "Ann has 7 pens. Bob has 5 more pens than Ann. Cat has 2 fewer pens than Bob. How many pens does Cat have?"
PROBLEMS = [Problem(f"arithmetic/test/{i}", QUESTION, "10", None, "arithmetic", "test") for i in range(4)]
FIRST, SECOND = "<<7+5=12>>12 for Bob", "<<12-2=10>>10 for Cat"
DRAFTS = [
    [FIRST, SECOND, "#### 10"],  # right
    [FIRST, "<<12+2=14>>14 for Cat", "#### 14"],  # wrong at step 1
    ["<<7-5=2>>2 for Bob", "#### 2"],  # wrong at step 0
    [],  # nothing at all
]
MENDED = f"{SECOND}\n#### 10\n"


def write_script(folder: Path, script: dict[str, list[str]]) -> str:
    folder.mkdir()
    (folder / "script.json").write_text(json.dumps(script))
    return str(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Any]:
    """Drafts, samples, refiners and reward models; the script of a refiner is by what it has to read."""
    root = tmp_path_factory.mktemp("revise")
    policy = write_script(root / "student", {"*": [""]})

    def rows(kind: str) -> list[Rollout]:
        if kind == "drafts":
            own = [rollout(steps, steps == DRAFTS[0], 0, p.id) for p, steps in zip(PROBLEMS, DRAFTS, strict=True)]
            # a second draft of a problem is not looked at; the grader's word on a draft is final
            return [
                dataclasses.replace(own[0], text="a text like no other"),
                *own[1:],
                rollout(["x"], False, 1, own[1].problem_id),
            ]
        return [rollout([f"#### {i}"], None, i, p.id) for p in PROBLEMS for i in range(2)]

    def make_samples(kind: str, seed: int) -> str:
        def write(_args, work) -> None:
            work.write_rows("problems", PROBLEMS)
            work.write_rows("rows", rows(kind))

        return str(make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy, seed=seed), root)[0].path)

    drafts = make_samples("drafts", 0)

    def make_reward(kind: str, bias: float) -> str:
        def write(_args, work) -> None:
            save_reward(work.folder, kind, bias, threshold=0.5)

        source = {"rollouts": drafts} if kind == "orm" else {"labels": None}
        args = TrainRewardArgs(kind=kind, policy=policy, max_length=int(100 + bias), **source)
        return str(make(dataclasses.replace(TRAIN_REWARD, run=write), args, root)[0].path)

    reads = {
        render_refinement("local", QUESTION, DRAFTS[1], 1): [MENDED],
        render_refinement("local", QUESTION, DRAFTS[2], 0): [f"{FIRST}\n{MENDED}"],
    }
    whole = {render_refinement("global", QUESTION, steps, None): [f"#### {i}"] for i, steps in enumerate(DRAFTS)}
    blind = {render_prompt(QUESTION) + "[REFINE]\n": ["#### 10 too long to end"]}
    return {
        "root": root,
        "drafts": drafts,
        "samples": make_samples("samples", 1),
        "global_refiner": write_script(root / "global", whole),
        "control": write_script(root / "control", blind),
        "local_refiner": write_script(root / "local", reads | {"*": ["#### 11"]}),
        "orm": make_reward("orm", -5.0),  # every step is wrong
        "sorm": make_reward("sorm", 5.0),  # no step is
    }


def revise(world, **changes) -> Artifact:
    parents = {name: world[name] for name in ("drafts", "global_refiner", "local_refiner")}
    sampler = SamplerArgs(backend="scripted", temperature=0.0, max_tokens=9, device="cpu")
    args = ReviseArgs(**(parents | {"sampler": sampler, "where": ["oracle"]} | changes))
    args.validate()
    return make(REVISE, args, world["root"])[0]


def by_kind(artifact: Artifact, kind: str, where: str = "none") -> list[Candidate]:
    return [c for c in artifact.rows(Candidate) if (c.kind, c.where) == (kind, where)]


@pytest.fixture(scope="module")
def everything(world) -> Artifact:
    more = {name: world[name] for name in ("samples", "control", "orm", "sorm")}
    return revise(world, where=["none", "orm", "sorm", "oracle"], **more)


def test_every_problem_gets_every_candidate_once(everything):
    rows = everything.rows(Candidate)
    assert everything.rows(Problem, "problems") == PROBLEMS
    assert len({(c.problem_id, c.kind, c.where, c.sample) for c in rows}) == len(rows) == 4 * (1 + 2 + 1 + 1 + 4)


def test_a_draft_that_a_reward_model_cannot_read_stays_as_it_is(world):
    """The ORM, which calls every step wrong, is given one draft of more than its 128 tokens."""
    long = [FIRST] * 60

    def write(_args, work) -> None:
        work.write_rows("problems", PROBLEMS[:2])
        work.write_rows("rows", [rollout(s, False, 0, p.id) for p, s in zip(PROBLEMS, [long, DRAFTS[2]], strict=False)])

    drafts, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=world["global_refiner"]), world["root"])
    found = revise(
        world, drafts=str(drafts.path), where=["orm"], orm=world["orm"], global_refiner=world["local_refiner"]
    )
    kept, mended = by_kind(found, "local", "orm")
    assert (kept.error_step, kept.steps, kept.completion_tokens) == (None, tuple(long), 0) and mended.error_step == 0
    assert found.manifest["counts"]["orm_too_long"] == 1
    (row,) = found.rows(Quarantined, "quarantine")
    assert row.id == f"{PROBLEMS[0].id}#0" and "the orm reads 128" in row.reason


def test_drafts_stay_where_the_local_refiner_can_read_none(world, monkeypatch):
    class Refusing:
        promise = "nothing"

        def sample(self, requests):
            for request in requests:
                yield from refuse(request, "too long for it")

        def close(self):
            pass

    def load(policy, args, stop=()):
        return Refusing() if policy == world["local_refiner"] else load_sampler(policy, args, stop)

    monkeypatch.setattr("refine.revise.load_sampler", load)
    found = revise(world, seed=77)
    local, drafts = by_kind(found, "local", "oracle"), by_kind(found, "draft")
    assert [c.steps for c in local] == [c.steps for c in drafts] and {c.completion_tokens for c in local} == {0}
    assert {row.id for row in found.rows(Quarantined, "quarantine")} >= {PROBLEMS[1].id, PROBLEMS[2].id}
    monkeypatch.setattr("refine.revise.load_sampler", lambda *_: Refusing())
    with pytest.raises(ValueError, match="none of the 4 requests can be sampled"):
        revise(world, seed=78)


def test_a_refinement_that_does_not_end_is_cut_and_counted(world):
    endless = write_script(world["root"] / "endless", {"*": [f"{FIRST}\n" * 100_000]})
    sampler = SamplerArgs(backend="scripted", temperature=0.0, max_tokens=10**6, device="cpu")
    found = revise(world, local_refiner=endless, sampler=sampler)
    (short,) = {len(c.steps) for c in by_kind(found, "local", "oracle") if c.error_step == 0}
    assert short == MAX_STEPS and found.manifest["counts"]["local_oracle_cut"] == 2
    assert "global_cut" not in found.manifest["counts"]


def test_drafts_and_samples_stay_as_they_were_graded(everything):
    drafts, samples = by_kind(everything, "draft"), by_kind(everything, "sample")
    assert [c.correct for c in drafts] == [True, False, False, False]
    assert drafts[0].text == "a text like no other" and drafts[1].steps == tuple(DRAFTS[1])
    assert [c.sample for c in samples] == [0, 1] * 4 and {c.correct for c in samples} == {None}
    assert all(c.sample == 0 and c.error_step is None for c in drafts)


def test_the_global_refiner_reads_the_draft_and_writes_the_whole(everything):
    found = by_kind(everything, "global")
    assert [c.text for c in found] == ["#### 0", "#### 1", "#### 2", "#### 3"]
    assert [c.correct for c in found] == [False] * 4 and {c.error_step for c in found} == {None}


def test_the_control_reads_no_draft(everything):
    found = by_kind(everything, "control")
    assert {c.text for c in found} == {"#### 10 too long to end"} and {c.completion_tokens for c in found} == {6}


def test_the_local_refiner_goes_on_before_the_true_first_error(everything):
    found = by_kind(everything, "local", "oracle")
    assert [c.error_step for c in found] == [None, 1, 0, None]
    assert [c.correct for c in found] == [True, True, True, False]
    assert found[1].steps == (FIRST, SECOND, "#### 10") and found[2].steps == (FIRST, SECOND, "#### 10")
    # where no error is seen, the draft stays, for nothing
    assert (found[0].text, found[0].completion_tokens) == ("a text like no other", 0)
    assert found[1].completion_tokens == len(MENDED.split(" ")) > 0


def test_nobody_a_reward_model_or_the_truth_says_where(everything):
    errors = {where: [c.error_step for c in by_kind(everything, "local", where)] for where in ("none", "orm", "sorm")}
    assert errors == {"none": [0, 0, 0, None], "orm": [0, 0, 0, None], "sorm": [None] * 4}
    assert [c.text for c in by_kind(everything, "local", "none")][:2] == ["#### 11", "#### 11"]
    drafts = by_kind(everything, "draft")
    kept = by_kind(everything, "local", "sorm")
    assert [(c.text, c.correct, c.answer) for c in kept] == [(d.text, d.correct, d.answer) for d in drafts]


def test_tokens_of_refiners_and_scorers_are_counted(everything):
    written = sum(c.completion_tokens for c in everything.rows(Candidate) if c.kind not in ("draft", "sample"))
    assert everything.manifest["tokens"] > written > 0


def test_a_run_without_the_extras(world):
    artifact = revise(world, where=["none"])
    assert {(c.kind, c.where) for c in artifact.rows(Candidate)} == {
        ("draft", "none"),
        ("global", "none"),
        ("local", "none"),
    }
    assert revise(world, where=["none"]).key == artifact.key


def test_a_reward_model_of_the_other_kind_is_refused(world):
    with pytest.raises(ValueError, match=r"orm=.* is a reward model of kind sorm"):
        revise(world, where=["orm"], orm=world["sorm"])


def test_the_truth_is_known_in_the_embedded_world_only(world):
    def write(_args, work) -> None:
        work.write_rows("problems", [dataclasses.replace(PROBLEMS[0], source="gsm8k")])
        work.write_rows("rows", [rollout(DRAFTS[0], True, 0, PROBLEMS[0].id)])

    args = SampleArgs(policy=world["global_refiner"], seed=5)
    drafts = str(make(Stage("sample", 1, SampleArgs, write), args, world["root"])[0].path)
    with pytest.raises(ValueError, match="nobody knows the first error of a gsm8k solution"):
        revise(world, drafts=drafts)
    with pytest.raises(ValueError, match=r"samples has problem arithmetic/test/1, of which there is no draft"):
        revise(world, drafts=drafts, samples=world["samples"], where=["none"])


def test_parents_of_other_stages_are_refused(world):
    with pytest.raises(ArtifactError, match=r"global_refiner: .*made by stage sample.*train_policy"):
        revise(world, global_refiner=world["samples"])
    with pytest.raises(ArtifactError, match=r"drafts: .*made by stage train_reward.*sample"):
        revise(world, drafts=world["orm"])


@pytest.mark.parametrize(
    ("where", "message"),
    [([], r"where=\[\]"), (["orcale"], "'orcale'"), (["sorm"], "needs sorm"), (["none", "orm"], "needs orm")],
)
def test_settings_that_do_not_fit_are_refused(where, message):
    with pytest.raises(ValueError, match=message):
        ReviseArgs(drafts="d", global_refiner="g", local_refiner="l", where=where).validate()


def test_the_draft_is_the_first_that_was_drawn_and_refused_samples_keep_their_place(world, tmp_path):
    def write(args, work) -> None:
        refused = {"text": "", "steps": (), "finish_reason": "refused", "correct": None}
        rows = [rollout(DRAFTS[0], True, i, p.id) for p in PROBLEMS for i in range(3)]
        places = {0: (0, 3, 6, 7, 8, 11), 1: (1,)}[args.seed]
        work.write_rows("problems", PROBLEMS)
        work.write_rows("rows", [dataclasses.replace(r, **refused) if i in places else r for i, r in enumerate(rows)])

    stage = Stage("sample", 1, SampleArgs, write)
    policy = write_script(tmp_path / "student", {"*": [""]})
    drafts, samples = (str(make(stage, SampleArgs(policy=policy, seed=seed), tmp_path)[0].path) for seed in (0, 1))
    found = revise(world, drafts=drafts, samples=samples)
    drawn = by_kind(found, "draft")
    assert [c.correct for c in drawn] == [True, True, None, True] and [c.text == "" for c in drawn][2]
    offered = by_kind(found, "sample")
    assert [c.sample for c in offered] == [0, 1, 2] * 4
    assert [(c.correct, c.steps) for c in offered[:3]] == [(True, drawn[0].steps), (None, ()), (True, drawn[0].steps)]
    # the best of 3 is asked for and there are 3: the one that was refused is never the best, and votes for nothing
    own = [c for c in offered if c.problem_id == PROBLEMS[0].id]
    finals = {identity(c): 0.5 if c.steps else -math.inf for c in own}
    chosen = {choice.selector: choice.sample for choice in choose(own, finals, "orm", "none", 3)}
    assert chosen == {"best_of_n": 0, "majority_of_n": 0, "weighted_of_n": 0}
