"""The stage `collect_mistakes`: wrong solutions, from the rollouts of several policies (LeMa sec. 2).

Wrong is what the grader says of a whole solution that states an answer. What else there is, is counted.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rollouts.problems.merge import merge_problems
from rollouts.records import Mistake, Rollout
from rollouts.sampling.protocol import REFUSED
from stages.artifacts import SERVED, Artifact
from stages.checks import check_least
from stages.stage import Stage, parent, runtime
from stages.workspace import Workspace


@dataclass
class MistakeArgs:
    """Arguments of the stage `collect_mistakes`: of every problem at most `max_per_problem` of each source, which is a
    policy, whether its rollouts are in one artifact or in several; of `max_problems` problems, drawn at random. Where
    there is none, it is an error, unless with `allow_empty`."""

    rollouts: list[str] = parent("sample")  #: artifacts of sample, of the same or other policies
    max_per_problem: int = 4  #: mistakes of each source
    max_problems: int | None = None  #: with mistakes; null: all
    seed: int = 0  #: of the choice
    allow_empty: bool = runtime(False)  #: no mistake at all is no error

    def validate(self) -> None:
        """Raise ValueError where nothing could be collected."""
        check_least(self, max_per_problem=1, max_problems=1)
        if not self.rollouts:
            raise ValueError("rollouts=[] gives no mistakes: name an artifact of sample at least")


def policy_name(stage: str | None, key: str, path: str | Path) -> str:
    """What a policy is called that is a parent: `train_policy/KEY`, `hub:org/name@commit`, `MODEL@HOST` of a server, or
    the name of its folder with the beginning of its hash."""
    if stage is not None:
        return f"{stage}/{key}"
    if key.startswith("sha256:"):
        return f"{Path(path).name}@{key.removeprefix('sha256:')[:8]}"
    return key.removeprefix(SERVED)


def fault(rollout: Rollout) -> str | None:
    """Why a rollout is no mistake to correct, as it is counted; None where it is one."""
    if rollout.finish_reason == REFUSED:
        return REFUSED
    if rollout.finish_reason == "length":
        return "truncated"  # the end is missing, which nobody can call wrong
    if rollout.correct is None:
        return "ungraded"
    if rollout.correct:
        return "right"
    return "no_answer" if rollout.answer is None or not rollout.steps else None


def choose(candidates: Sequence[Mistake], most: int, seed: int, counts: Counter[str]) -> list[Mistake]:
    """Different mistakes of one problem, at most so many of each source. Where several sources wrote the same text, it
    is that of the source with the fewest so far."""
    by_text: dict[tuple[str, ...], list[Mistake]] = defaultdict(list)
    for one in candidates:
        by_text[one.steps].append(one)
    texts = list(by_text.values())
    random.Random(f"mistakes/{seed}/{candidates[0].problem_id}").shuffle(texts)
    taken: Counter[str] = Counter()
    chosen = []
    for same in texts:
        counts["duplicates"] += len(same) - 1
        own = min(same, key=lambda one: taken[one.source])
        if taken[own.source] < most:
            taken[own.source] += 1
            chosen.append(own)
        else:
            counts["beyond_the_limit"] += 1
    return sorted(chosen, key=lambda one: one.id)


def collect_mistakes(args: MistakeArgs, work: Workspace) -> None:
    """Write `rows` (Mistake) and `problems` (Problem), those that have mistakes.

    Raises:
        ValueError: there is not one mistake, an artifact is given twice, or see `merge_problems`.
    """
    sources: list[Artifact] = work.parents["rollouts"]
    if twice := [key for key, n in Counter(source.key for source in sources).items() if n > 1]:
        raise ValueError(f"rollouts: artifact {twice[0]} is given twice")
    problems, counts = merge_problems(sources), Counter[str]()
    found: dict[str, list[Mistake]] = defaultdict(list)
    for source in sources:
        name = policy_name(**source.manifest["parents"]["policy"])
        for one in source.rows(Rollout):
            what = fault(one)
            counts[what or "wrong"] += 1
            if what is None:
                identity = f"{source.key}/{one.id}"
                found[one.problem_id].append(
                    Mistake(identity, one.problem_id, name, source.key, one.id, one.steps, one.answer)
                )
    if not found and not args.allow_empty:
        raise ValueError(f"not one of {counts.total()} rollouts is a mistake to correct: {dict(counts)}")
    if args.max_problems is not None and args.max_problems < len(found):
        drawn = random.Random(f"problems/{args.seed}").sample(sorted(found), args.max_problems)
        found = {name: own for name, own in found.items() if name in set(drawn)}
    rows = [one for own in found for one in choose(found[own], args.max_per_problem, args.seed, counts)]
    work.write_rows("problems", [problem for problem in problems.values() if problem.id in found])
    work.write_rows("rows", rows, Mistake)
    names = ("wrong", "right", REFUSED, "ungraded", "truncated", "no_answer", "duplicates", "beyond_the_limit")
    work.count(sources=len({one.source for one in rows}), **{name: counts[name] for name in names})
    for name, number in sorted(Counter(one.source for one in rows).items()):
        work.note(f"mistakes of {name}", f"{number}")


COLLECT_MISTAKES = Stage("collect_mistakes", 1, MistakeArgs, collect_mistakes)
