"""`python -m tests.rewards.labels.labelling_sweep OUT.jsonl`: what every way of labelling costs and finds on the
simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from experiments.bench.labelling_study import WAYS
from tests.rewards.labels.simulator import SimArgs, SimulatedPolicy, study

WORLDS = {
    "4.6 steps": SimArgs(problems=500, seed=3),
    "12 steps": SimArgs(problems=300, steps=12, seed=3),
    "no recovery": SimArgs(problems=500, recovery=0.0, seed=3),
}


def main() -> None:
    """Write a line for every world and way."""
    with Path(sys.argv[1]).open("w") as file:
        for name, world in WORLDS.items():
            policy = SimulatedPolicy(world)
            rollouts = policy.rollouts()
            for way in WAYS:
                found = study(policy, way, rollouts)
                row = {
                    "world": name, "search": way.search, "rule": way.rule,
                    "way": f"{way.describe()}, {way.continuations} at most", "solutions": len(found.rows),
                    "accuracy": found.accuracy, "cost": found.cost, "cost_of_wrong": found.cost_of_wrong,
                    "continuations": found.samples, "waves": found.waves,
                }  # fmt: skip
                print(json.dumps(row), file=file, flush=True)
                print(name, row["way"], f"{found.accuracy:.3f} at {found.cost:.3f}", flush=True)


if __name__ == "__main__":
    main()
