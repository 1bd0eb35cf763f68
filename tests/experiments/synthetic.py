"""What a run of GLoRe may have found, drawn at random: the inputs of reports and pages, without any model."""

from __future__ import annotations

import dataclasses
import itertools
import random

from refine.report.inputs import ReportInputs
from refine.report.repairs import ERRORS
from rollouts.records import Candidate, Choice, Judgement, Problem

HOSTILE = "costs $5 | $x_{1}^ ``` ~~~ \x00\x1b[31m\u202e\u2028 <b> 😀 *漢字* \\frac{ ` _x_ [a](b) &lt; \ud83d"

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")


def synthetic_inputs(
    problems: int = 120, seed: int = 1, resamples: int = 500, oracle: bool = True, implicit: bool = False
) -> ReportInputs:
    """A made-up run whose drafts are right about half the time, and whose judges know something; with `implicit`, a
    third judge is there, and all else is the same."""
    rng, others = random.Random(seed), random.Random(f"implicit/{seed}")
    made = [_problem(i, rng) for i in range(problems)]
    candidates, judgements, choices, truth, kinds = [], [], [], {}, {}
    for problem, gold in made:
        mine, rights = _solve(problem, gold, rng)
        offers = {}
        for candidate in mine:
            key = (candidate.problem_id, candidate.kind, candidate.where, candidate.sample)
            right = rights[key]
            if candidate.kind in ("draft", "sample"):
                truth[key] = right
            if candidate.kind == "draft" and not candidate.correct:
                kinds[key] = ERRORS[len(kinds) % len(ERRORS)]
            for scorer, noise in (("orm", 0.22), ("sorm", 0.12)):
                judgements.append(Judgement(*key, scorer, _scores(right, noise, scorer, rng)))
            offers[key[1:]] = candidate, judgements[-2].probabilities[-1], judgements[-1].probabilities[-1]
            if implicit:
                judgements.append(Judgement(*key, "implicit", _scores(right, 0.2, "implicit", others), 40))
        candidates += mine
        own = _choose(problem, offers, rng)
        if implicit:  # it chooses as the ORM does
            own += [dataclasses.replace(one, scorer="implicit") for one in own if one.scorer == "orm"]
        choices += own
    return ReportInputs(
        title="GLoRe on a synthetic run",
        model="a made-up student",
        source="arithmetic",
        seed=seed,
        problems=[problem for problem, _ in made],
        candidates=candidates,
        judgements=judgements,
        choices=choices,
        thresholds={"orm": 0.5, "sorm": 0.55} | ({"implicit": 0.45} if implicit else {}),
        step_truth=truth if oracle else None,
        error_kinds=kinds if oracle else None,
        label_truth={f"t{i}": (10 - (i < 59), 10) for i in range(100)} if oracle else None,
        strict_label_truth={f"t{i}": (10 - (i < 28), 10) for i in range(100)} if oracle else None,
        stages={
            "train_policy": {"seconds": 181.2, "tokens": 8_123_456},
            "sample": {"seconds": 60.0, "tokens": 456_789},
        },
        resamples=resamples,
    )


def _problem(index: int, rng: random.Random) -> tuple[Problem, list[str]]:
    names = rng.sample(NAMES, rng.randint(4, 6))
    value, facts, gold = rng.randint(3, 20), [], []
    facts.append(f"{names[0]} has {value} shells.")
    for before, name in itertools.pairwise(names):
        more = rng.randint(2, 9)
        facts.append(f"{name} has {more} more shells than {before}.")
        gold.append(f"{name} has {value} + {more} = <<{value}+{more}={value + more}>>{value + more} shells.")
        value += more
    rng.shuffle(facts)
    question = f"{' '.join(facts)} How many shells does {names[-1]} have?"
    gold.append(f"#### {value}")
    return Problem(f"p{index:04d}", question, str(value), "\n".join(gold), "arithmetic", "test"), gold


def _attempt(gold: list[str], error: int | None, rng: random.Random) -> tuple[tuple[str, ...], list[bool]]:
    steps = list(gold)
    if error is not None:
        slip = rng.randint(1, 3)
        for at in range(error, len(steps)):
            head, _, tail = steps[at].rpartition("=")
            steps[at] = f"#### {int(steps[at][5:]) + slip}" if not head else f"{head}={tail[:-1]} (+{slip})."
    return tuple(steps), [error is None or at < error for at in range(len(gold))]


def _solve(problem: Problem, gold: list[str], rng: random.Random) -> tuple[list[Candidate], dict]:
    made, rights = [], {}

    def add(kind: str, where: str, sample: int, error: int | None, told: int | None = None) -> None:
        steps, right = _attempt(gold, error, rng)
        text = "\n".join(steps)
        tokens = len(text) // 3
        made.append(Candidate(problem.id, kind, where, told, sample, text, steps, steps[-1][5:], error is None, tokens))
        rights[problem.id, kind, where, sample] = right

    def slip(chance: float) -> int | None:
        return rng.randrange(len(gold) - 1) if rng.random() < chance else None

    draft = slip(0.5)
    add("draft", "none", 0, draft)
    for sample in range(3):
        add("sample", "none", sample, slip(0.55))
    add("global", "none", 0, slip(0.6) if draft is not None else slip(0.1))
    add("control", "none", 0, slip(0.48))
    add("shuffled", "none", 0, slip(0.5))
    for where in ("none", "orm", "sorm", "oracle"):
        if draft is not None or where == "none":
            add("local", where, 0, slip(0.6) if draft is not None else slip(0.1), draft)
    return made, rights


def _scores(right: list[bool], noise: float, scorer: str, rng: random.Random) -> tuple[float, ...]:
    final = all(right)
    means = [0.85 if good else 0.2 for good in right]
    if scorer == "orm":
        means = [0.55 + 0.3 * final * at / len(right) if good else 0.3 for at, good in enumerate(right)]
    return tuple(round(min(1.0, max(0.0, rng.gauss(mean, noise))), 4) for mean in means)


def _choose(problem: Problem, offers: dict, rng: random.Random) -> list[Choice]:
    choices = []

    def add(selector: str, scorer: str, where: str, keys: list) -> None:
        keys = [key for key in keys if key in offers] or [("draft", "none", 0)]
        if scorer == "none":
            best = rng.choice(keys)
            if selector == "oracle":
                best = max(keys, key=lambda key: offers[key][0].correct)
        else:
            best = max(keys, key=lambda key: offers[key][1 if scorer == "orm" else 2])
        tokens = sum(offers[key][0].completion_tokens for key in keys)
        chosen = offers[best][0]
        choices.append(
            Choice(problem.id, selector, scorer, where, best[0], best[2], chosen.answer, chosen.correct, tokens)
        )

    draft, whole, control, shuffled = ((kind, "none", 0) for kind in ("draft", "global", "control", "shuffled"))
    samples = [("sample", "none", sample) for sample in range(3)]
    for selector, keys in (("draft", [draft]), ("global", [whole]), ("control", [control]), ("shuffled", [shuffled])):
        add(selector, "none", "none", keys)
    add("majority_of_n", "none", "none", samples)
    for scorer in ("orm", "sorm"):
        add("draft_global", scorer, "none", [draft, whole])
        add("best_of_n", scorer, "none", samples)
        add("weighted_of_n", scorer, "none", samples)
        add("draft_control", scorer, "none", [draft, control])
        add("draft_shuffled", scorer, "none", [draft, shuffled])
        add("best_of_n_with_draft", scorer, "none", [draft, *samples[:2]])
        add("beam", scorer, "none", samples)
    for where in ("none", "orm", "sorm", "oracle"):
        local = ("local", where, 0)
        add("local", "none", where, [local])
        add("random", "none", where, [draft, whole, local])
        add("oracle", "none", where, [draft, whole, local])
        for scorer in ("orm", "sorm"):
            add("draft_local", scorer, where, [draft, local])
            add("reranked", scorer, where, [draft, whole, local])
            add("best_of_n_equal_tokens", scorer, where, samples)
    choices.append(dataclasses.replace(choices[-1], selector="until", scorer="none", where="none"))
    return choices


def only_drafts(inputs: ReportInputs) -> ReportInputs:
    """The poorest run that still can be reported: drafts, nothing judged, nothing refined."""
    return dataclasses.replace(
        inputs,
        candidates=[candidate for candidate in inputs.candidates if candidate.kind == "draft"],
        choices=[choice for choice in inputs.choices if choice.selector == "draft"],
        judgements=[],
        thresholds={},
        stages={},
        step_truth=None,
        error_kinds=None,
        label_truth=None,
        strict_label_truth=None,
    )
