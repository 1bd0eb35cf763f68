"""Parts of LeMa's graph: mistakes and their corrections, new problems, and what trained policies reply when asked.

The arguments and the rest of the graph are in `experiments/pipelines/lema.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.pipelines.graph import Graph
from refine.lema.correct import CORRECT, CorrectArgs
from refine.lema.evolve import CORRECTED, EVOLVE
from refine.lema.mistakes import COLLECT_MISTAKES
from refine.lema.report import START
from refine.lema.texts import ask_as_trained
from refine.mix import CORRECTIONS
from rollouts.problems.args import ARTIFACT, ProblemArgs
from rollouts.sampling.sample import SAMPLE
from rollouts.world.args import SOURCE as WORLD
from stages.pipeline import PENDING


def source_name(n: int) -> str:
    """What the node of one of `sources` is called."""
    return f"source_{n + 1}"


def add_corrected(graph: Graph, prefix: str, problems: ProblemArgs, **more: str) -> tuple[CorrectArgs, dict[str, str]]:
    """Rollouts of these problems, the mistakes in them, and their corrections, whose arguments and parents are
    returned; the names of all begin with `prefix`, and `more` are parents of the rollouts."""
    rollouts = graph.fill("rollouts", problems=problems, policy=PENDING)
    own = [f"{prefix}rollouts"]
    graph.add(own[0], SAMPLE, rollouts, policy="student", **more)
    for n in range(len(graph.args.sources)):
        own.append(f"{prefix}{source_name(n)}_rollouts")
        graph.add(own[-1], SAMPLE, rollouts, policy=source_name(n), **more)
    graph.add(f"{prefix}mistakes", COLLECT_MISTAKES, graph.fill("mistakes", rollouts=[PENDING]), rollouts=own)
    corrections = graph.fill("corrections")
    parents = {"mistakes": f"{prefix}mistakes", "policy": "corrector", "orm": "orm", "sorm": "sorm"}
    graph.add(f"{prefix}{CORRECTIONS}", CORRECT, corrections, **parents)
    return corrections, parents


def add_new_problems(graph: Graph, train: ProblemArgs, cot: Sequence[str]) -> None:
    """For each of `evolve` the new problems, solutions of them where CoT data (`cot`) are rollouts, and corrections of
    the mistakes on them."""
    args = graph.args
    for seeds in args.evolve:
        own = graph.fill("evolution", problems=train, corrections=PENDING, seeds=seeds)
        if own.policy is None and args.problems.source != WORLD:
            if args.strong is None:
                raise ValueError(f"evolve={list(args.evolve)} needs evolution.policy or strong, who write new problems")
            own = replace(own, policy=PENDING)
        own.check_writer()
        if seeds != CORRECTED:
            own = replace(own, corrections=None)
        new = f"new_{seeds}"
        graph.add(new, EVOLVE, own, corrections=CORRECTIONS, policy="strong")
        problems = ProblemArgs(ARTIFACT, path=PENDING)
        add_corrected(graph, f"{new}_", problems, **{"problems.path": new})
        if args.strong is not None and "rollouts" in cot:
            solved = graph.fill("cot_rollouts", problems=problems, policy=PENDING)
            graph.add(f"{new}_cot_rollouts", SAMPLE, solved, policy="strong", **{"problems.path": new})


def add_asked(graph: Graph, arms: Sequence[str], left_out: Mapping[str, Mapping[str, bool]]) -> list[str]:
    """What each arm replies when it is asked to correct the student's mistakes on test problems, in the words
    that it was trained on (some arms without a field, which is `left_out`); returns the arms."""
    args = graph.args
    if not args.ask_policies:
        return []
    graph.add(
        "test_mistakes",
        COLLECT_MISTAKES,
        graph.fill("test_mistakes", rollouts=[PENDING]),
        rollouts=[f"{START}_samples"],
    )
    base = graph.fill("asked", corrector="policy", policy=PENDING, mistakes=PENDING, ask=CorrectArgs().ask)
    for arm in arms:
        ask = ask_as_trained(replace(args.train.correction, **left_out.get(arm, {})), args.prompt)
        graph.add(f"{arm}_asked", CORRECT, replace(base, ask=ask), mistakes="test_mistakes", policy=arm)
    return list(arms)
