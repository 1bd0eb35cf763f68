"""Expert Iteration: rounds of sampling and training until greedy accuracy saturates (GLoRe sec. 4).

A round samples from the policy of the round before. It trains the policy that all rounds begin with anew, on the right
and different rollouts of all rounds so far: rollouts of a better policy add to those of a worse one, and no policy is
trained twice on the same texts.

The graph has a place for every round. When a round gained too little, the artifacts of the last one that was run stand
in place of those of later rounds, which are not run (`stages.pipeline.Node`).
"""

from __future__ import annotations

import logging
from dataclasses import replace

from experiments.pipelines.graph import Graph
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rollouts.sampling.protocol import SEEDS
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages.artifacts import open_artifact

logger = logging.getLogger(__name__)


def add_rounds(
    graph: Graph,
    start: str,
    rounds: int,
    sample: SampleArgs,
    train: TrainPolicyArgs,
    greedy: SampleArgs | None,
    least_gain: float | None,
) -> None:
    """Add the rounds, each beginning with the policy of node `start`; the node `student` is the best of them.

    `sample` are the arguments of a round's rollouts, `train` those of its training, `greedy` those of the drafts whose
    accuracy is gone by (None: all rounds are run, and the last is the student).
    """
    names = [start, *(f"round_{number}" for number in range(1, rounds)), f"round_{rounds}" if greedy else "student"]
    drafts = [f"round_{number}_drafts" for number in range(rounds + 1)]
    sampled: list[str] = []
    if greedy is not None:
        graph.add(drafts[0], SAMPLE, greedy, policy=start)
    for number in range(1, rounds + 1):
        before, name, rollouts = names[number - 1], names[number], f"round_{number}_rollouts"
        graph.add(rollouts, SAMPLE, replace(sample, seed=(sample.seed + 1000 * number) % SEEDS), policy=before)
        graph.add(name, TRAIN_POLICY, train, policy=start, rollouts=rollouts, more_rollouts=sampled[::-1])
        if greedy is not None:
            graph.add(drafts[number], SAMPLE, greedy, policy=name)
        if greedy is not None and number > 1:
            _add_stop(graph, [drafts[number - 2], drafts[number - 1]], (rollouts, sampled[-1]), least_gain)
            _follow(graph, (name, before), (rollouts, sampled[-1]))
            _follow(graph, (drafts[number], drafts[number - 1]), (name, before))
        sampled.append(rollouts)
    if greedy is not None:
        last = graph.nodes[names[-1]]
        graph.nodes["student"] = replace(last, name="student")
        graph.unless("student", lambda paths: _best(paths, names, drafts), *names, *drafts)


def _add_stop(graph: Graph, drafts: list[str], rollouts: tuple[str, str], least_gain: float) -> None:
    """Not to sample for a round where the one before gained less than `least_gain`, or was not needed itself."""

    def instead(paths: dict[str, str]) -> str | None:
        first, second = (paths[name] for name in drafts)
        enough = first == second or accuracy(second) - accuracy(first) < least_gain
        return paths[rollouts[1]] if enough else None

    graph.unless(rollouts[0], instead, *drafts, rollouts[1])


def _follow(graph: Graph, names: tuple[str, str], by: tuple[str, str]) -> None:
    """Not to run the first of `names` where the two of `by` are one artifact; the second stands in its place."""

    def instead(paths: dict[str, str]) -> str | None:
        return paths[names[1]] if paths[by[0]] == paths[by[1]] else None

    graph.unless(names[0], instead, names[1], *by)


def _best(paths: dict[str, str], names: list[str], drafts: list[str]) -> str:
    """The policy with the best drafts; of equals the first."""
    found = {paths[name]: accuracy(paths[own]) for name, own in zip(names, drafts, strict=True)}
    best = max(found, key=found.__getitem__)
    told = ", ".join(f"{100 * one:.1f}%" for one in found.values())
    logger.info("student: right on %s of the validation problems after round 0, 1, ...: %s is taken", told, best)
    return best


def accuracy(drafts: str) -> float:
    """The share of an artifact's rollouts that are right; 0 where none could be graded."""
    return open_artifact(drafts, thorough=False).manifest["counts"].get("accuracy", 0.0)
