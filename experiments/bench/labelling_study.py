"""What every way of labelling costs and finds on the embedded world, by its oracle.

`python -m experiments.bench.labelling_study ROLLOUTS POLICY OUT.jsonl`, with an artifact of the stage `sample`.

Continuations are sampled once, so many of every prefix; each way then draws its own from these, in order. So ways are
compared on the same continuations, and one is not luckier than another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.measure import make_parser, print_header
from rewards.labels.labeller import Labeller
from rewards.labels.prefixes import Prefix, open_prefixes
from rewards.labels.search import SearchArgs
from rewards.labels.stepwise import PAPER_K, LabelArgs, choose_rollouts
from rewards.labels.traces import Trace, grade_trace
from rollouts.prompts import render_prompt
from rollouts.records import Problem, Rollout
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, load_sampler
from rollouts.steps import join_steps
from rollouts.world.oracle import true_first_error
from stages.artifacts import open_artifact

KEPT = 32  # continuations of every prefix
WAYS = (
    SearchArgs("exhaustive", "any", PAPER_K),
    SearchArgs("exhaustive", "any", KEPT),
    SearchArgs("exhaustive", "posterior", PAPER_K),
    *(SearchArgs(way, "any", PAPER_K) for way in ("forward", "binary", "adaptive")),
    *(SearchArgs(way, "at_least", 2 * PAPER_K, at_least=2) for way in ("forward", "binary", "adaptive")),
    *(SearchArgs(way, "posterior", 24) for way in ("forward", "binary", "adaptive")),
    SearchArgs("adaptive", "posterior", 24, threshold=0.04),
    SearchArgs("adaptive", "posterior", 24, confidence=0.8, least_gain=0.1),
    SearchArgs("adaptive", "posterior", KEPT, confidence=0.95, least_gain=0.02),
)


@dataclass(frozen=True)
class Continued:
    """A graded continuation and how many tokens it took; None where it could not be graded."""

    trace: Trace | None
    tokens: int


def open_parts(rollout: Rollout) -> list[Prefix]:
    """The prefixes of a rollout that need continuations to be labelled."""
    return [(rollout.problem_id, rollout.steps[:n]) for n in range(1, open_prefixes(rollout.steps) + 1)]


def sample_bank(
    policy: str, args: SamplerArgs, problems: dict[str, Problem], wrong: Sequence[Rollout]
) -> dict[Prefix, list[Continued]]:
    """`KEPT` continuations of every open prefix of the wrong rollouts."""
    places = list(dict.fromkeys(prefix for rollout in wrong for prefix in open_parts(rollout)))
    requests = [
        Request(str(i), render_prompt(problems[name].question), join_steps(steps), KEPT)
        for i, (name, steps) in enumerate(places)
    ]
    found: dict[Prefix, dict[int, Continued]] = {}
    with closing(load_sampler(policy, args)) as sampler:
        for sample in sampler.sample(requests):
            prefix = places[int(sample.request_id)]
            trace = grade_trace(problems[prefix[0]], prefix[1], sample)
            found.setdefault(prefix, {})[sample.index] = Continued(trace, sample.completion_tokens)
    return {prefix: [own[i] for i in range(KEPT)] for prefix, own in found.items()}


def went_past(problem: Problem, steps: Sequence[str]) -> bool:
    """Whether a solution works something out after the answer: true steps, which the oracle calls late."""
    return any(step.endswith(f">>{problem.answer}") for step in steps[:-2])


def study(
    args: SearchArgs,
    problems: dict[str, Problem],
    wrong: Sequence[Rollout],
    alike: Sequence[Rollout],
    bank: dict[Prefix, list[Continued]],
) -> dict[str, float | str | int]:
    """Label by one way, and compare with the oracle: `accuracy` of all first errors, and of those of solutions that do
    not go past the answer. `cost_of_wrong`: tokens over those of 8 continuations of every prefix of these solutions."""
    labeller = Labeller(wrong, args, drawn_alike=alike)
    tokens = samples = 0
    while wanted := labeller.wave():
        for prefix, number in wanted.items():
            have = labeller.known.found[prefix].sampled
            drawn = bank[prefix][have : have + number]
            tokens, samples = tokens + sum(one.tokens for one in drawn), samples + len(drawn)
            labeller.add(prefix, [one.trace for one in drawn])
    hits, plain = [], []
    for rollout, row in zip(wrong, labeller.label(), strict=True):
        problem = problems[rollout.problem_id]
        found = next((i for i, label in enumerate(row.labels) if label is False), None)
        hits.append(found == true_first_error(problem, rollout.steps))
        if not went_past(problem, rollout.steps):
            plain.append(hits[-1])
    paper = sum(one.tokens for r in wrong for prefix in open_parts(r) for one in bank[prefix][:PAPER_K])
    return {
        "search": args.search, "rule": args.rule, "way": f"{args.describe()}, {args.continuations} at most",
        "solutions": len(wrong), "cost_of_wrong": tokens / paper, "continuations": samples / len(wrong),
        "waves": labeller.waves, "accuracy": sum(hits) / len(hits), "accuracy_not_past": sum(plain) / len(plain),
        "recovery": labeller.model.recovery,
    }  # fmt: skip


def run(rollouts: str, policy: str, limit: int, batch_size: int) -> Iterator[dict]:
    """A row for every way."""
    source = open_artifact(rollouts, "sample")
    problems = {problem.id: problem for problem in source.rows(Problem, "problems")}
    sampled = source.rows(Rollout)
    settings = source.manifest["args"]["sampler"]
    sampler = SamplerArgs(
        temperature=settings["temperature"], top_p=settings["top_p"], max_tokens=settings["max_tokens"],
        batch_size=batch_size,
    )  # fmt: skip
    args = LabelArgs(rollouts=rollouts, policy=policy, sampler=sampler, max_wrong_per_problem=2, max_problems=limit)
    chosen = choose_rollouts(sampled, args)
    wrong = [rollout for rollout in chosen if not rollout.correct]
    bank = sample_bank(policy, sampler, problems, wrong)
    own = Path(policy).resolve() == Path(source.manifest["args"]["policy"]).resolve()
    for way in WAYS:
        yield study(way, problems, wrong, sampled if own else [], bank)


def main() -> None:
    """Write a line for every way."""
    parser = make_parser(__doc__)
    parser.add_argument("rollouts", help="an artifact of the stage sample")
    parser.add_argument("policy", help="the policy that continues: the rollouts' own, or a stronger one")
    parser.add_argument("out", type=Path)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=512)
    given = parser.parse_args()
    print_header(f"{given.rollouts}, continued by {given.policy}")
    with given.out.open("w") as file:
        for row in run(given.rollouts, given.policy, given.problems, given.batch_size):
            print(json.dumps(row), file=file, flush=True)
            numbers = [f"{name}={value:.3f}" for name, value in row.items() if isinstance(value, float)]
            print(f"{row['way']}: {', '.join(numbers)}", flush=True)


if __name__ == "__main__":
    main()
