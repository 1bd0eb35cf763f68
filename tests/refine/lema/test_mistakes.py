"""Rollouts of several policies into mistakes: what counts as one, who made it, and how many are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from refine.lema.mistakes import COLLECT_MISTAKES, MistakeArgs, policy_name
from rollouts.records import Mistake, Problem, Rollout
from rollouts.sampling.protocol import REFUSED
from stages.artifacts import Artifact
from stages.make import make
from stages.parents import parent_keys
from tests.refine.lema.made import PROBLEMS, WRONG, make_sample, write_script
from tests.tiny import rollout


def policies(root: Path) -> tuple[str, str]:
    return write_script(root / "ann", {"*": ["a"]}), write_script(root / "bob", {"*": ["b"]})


def collect(root: Path, *sources: Artifact, **settings) -> Artifact:
    args = MistakeArgs(rollouts=[str(source.path) for source in sources], **settings)
    args.validate()
    return make(COLLECT_MISTAKES, args, root)[0]


def wrong(n: int, problem_id: str = "p0", sample: int | None = None) -> Rollout:
    return rollout([*WRONG[:2], f"#### {n}"], False, n if sample is None else sample, problem_id)


def test_only_whole_wrong_solutions_are_mistakes_and_the_rest_is_counted(tmp_path: Path) -> None:
    ann, _ = policies(tmp_path)
    rows = [
        wrong(15),
        replace(wrong(16), finish_reason="length"),
        replace(wrong(17), correct=None, rule="timeout"),
        replace(wrong(18), finish_reason=REFUSED, correct=None, text="", steps=(), answer=None),
        replace(wrong(19), answer=None, rule="none"),
        replace(wrong(14), correct=True),
        wrong(15, sample=9),  # the same text once more
        wrong(15, "p2"),  # of another problem
    ]
    source = make_sample(tmp_path, ann, rows)
    found = collect(tmp_path, source)
    assert found.rows(Problem, "problems") == [PROBLEMS[0], PROBLEMS[2]]
    first, second = found.rows(Mistake)
    name = policy_name(**source.manifest["parents"]["policy"])
    assert first == Mistake(f"{source.key}/p0#15", "p0", name, source.key, "p0#15", (*WRONG[:2], "#### 15"), "15")
    assert (second.problem_id, second.steps) == ("p2", first.steps) and name.startswith("ann@")
    wanted = {"problems": 2, "rows": 2, "sources": 1, "wrong": 3, "right": 1, "refused": 1, "ungraded": 1}
    wanted |= {"truncated": 1, "no_answer": 1, "duplicates": 1, "beyond_the_limit": 0}
    assert found.manifest["counts"] == wanted and found.manifest["notes"] == {f"mistakes of {name}": "2"}


def test_the_limit_is_of_each_source_and_problem(tmp_path: Path) -> None:
    ann, bob = policies(tmp_path)
    one = make_sample(tmp_path, ann, [wrong(n) for n in range(20, 26)])
    again = make_sample(tmp_path, ann, [wrong(n) for n in range(30, 36)], seed=1)
    other = make_sample(tmp_path, bob, [wrong(n) for n in range(40, 46)])
    found = collect(tmp_path, one, again, other, max_per_problem=3)
    rows = found.rows(Mistake)
    by_source = {name: [row for row in rows if row.source == name] for name in {row.source for row in rows}}
    assert sorted(len(own) for own in by_source.values()) == [3, 3] and len({row.id for row in rows}) == 6
    assert {row.artifact for row in rows} <= {one.key, again.key, other.key}
    assert found.manifest["counts"]["beyond_the_limit"] == 12
    reseeded = collect(tmp_path, one, again, other, max_per_problem=3, seed=1)
    assert {row.id for row in reseeded.rows(Mistake)} != {row.id for row in rows}


def test_what_two_sources_wrote_is_there_once_and_shared_between_them(tmp_path: Path) -> None:
    ann, bob = policies(tmp_path)
    both = [wrong(n) for n in range(20, 30)]
    found = collect(tmp_path, make_sample(tmp_path, ann, both), make_sample(tmp_path, bob, both), max_per_problem=5)
    rows = found.rows(Mistake)
    assert len({row.steps for row in rows}) == len(rows) == 10
    assert sorted(sum(row.source.startswith(name) for row in rows) for name in ("ann", "bob")) == [5, 5]
    assert found.manifest["counts"]["duplicates"] == 10


def test_of_many_problems_some_are_drawn(tmp_path: Path) -> None:
    ann, _ = policies(tmp_path)
    source = make_sample(tmp_path, ann, [wrong(20, f"p{n}") for n in range(4)])
    found = [collect(tmp_path, source, max_problems=2, seed=seed).rows(Mistake) for seed in range(9)]
    drawn = [{row.problem_id for row in rows} for rows in found]
    assert all(len(names) == 2 for names in drawn) and len(set(map(frozenset, drawn))) > 1


def test_what_cannot_be_collected_is_refused(tmp_path: Path) -> None:
    ann, bob = policies(tmp_path)
    right = make_sample(tmp_path, ann, [replace(wrong(14), correct=True)])
    with pytest.raises(ValueError, match=r"not one of 1 rollouts is a mistake to correct: \{'right': 1\}"):
        collect(tmp_path, right)
    with pytest.raises(ValueError, match=f"artifact {right.key} is given twice"):
        collect(tmp_path, right, right)
    other = make_sample(tmp_path, bob, [wrong(15)], [replace(PROBLEMS[0], answer="13")])
    with pytest.raises(ValueError, match="problem p0 is another one here"):
        collect(tmp_path, right, other)
    with pytest.raises(ValueError, match=r"rollouts=\[\] gives no mistakes"):
        collect(tmp_path)


def test_who_wrote_it_has_a_name() -> None:
    assert policy_name("train_policy", "0123456789abcdef", "x") == "train_policy/0123456789abcdef"
    assert policy_name(None, "hub:org/name@abc", "/cache/x") == "hub:org/name@abc"
    assert policy_name(None, "name:gpt-4o@api.host", "gpt-4o") == "gpt-4o@api.host"
    assert policy_name(None, "sha256:0123456789abcdef", "models/llama/") == "llama@01234567"


def test_parents_are_those_artifacts(tmp_path: Path) -> None:
    ann, _ = policies(tmp_path)
    source = make_sample(tmp_path, ann, [wrong(15)])
    found = collect(tmp_path, source)
    assert [one["key"] for one in found.manifest["parents"]["rollouts"]] == parent_keys([source])
