"""What the stages that sample, label, score and choose will do: samples and tokens, from their arguments and what those
before them make."""

from __future__ import annotations

import math

from experiments.planning.args import SEARCH_COST, behaviour
from experiments.planning.known import (
    FIELDS,
    REST,
    Drawn,
    Examples,
    Labelled,
    Mistakes,
    NewProblems,
    Planner,
    Searched,
    Work,
)
from experiments.planning.texts import estimate_tokens
from refine.beam_search import BeamArgs
from refine.lema.correct import CorrectArgs
from refine.lema.evolve import EvolveArgs
from refine.lema.mistakes import MistakeArgs
from refine.lema.questions import ask_question
from refine.refine_until import UntilArgs
from refine.rerank import RerankArgs
from refine.revise import ReviseArgs
from rewards.labels.corrupt import CorruptArgs
from rewards.labels.search import PAPER_K
from rewards.labels.stepwise import LabelArgs
from rollouts.prompts import PromptArgs
from rollouts.sampling.sample import SampleArgs
from rollouts.world.args import SOURCE as WORLD


def sample_work(planner: Planner, args: SampleArgs, name: str) -> Work:
    served = args.sampler.backend == "openai"
    texts = planner.texts(args.problems, args.prompt, None if served else args.policy)
    accuracy = planner.plan.served_accuracy if served else planner.plan.accuracy
    drawn = planner.drawn(texts, args.n, args.sampler.max_tokens, accuracy)
    planner.known[f"({name})"] = drawn
    samples = texts.count * args.n
    return Work(
        name, args, None if served else planner.shape(args.policy), samples, samples * drawn.tokens,
        read=texts.count * texts.prompt * (args.n if served else 1), longest=texts.prompt + args.sampler.max_tokens,
        rows=samples, loads=1, served=served,
    )  # fmt: skip


def label_work(planner: Planner, args: LabelArgs, name: str) -> Work:
    drawn = planner.of(args.rollouts, Drawn)
    problems = min(drawn.problems, args.max_problems or math.inf)
    most_wrong, most_right = args.max_wrong_per_problem or math.inf, args.max_right_per_problem or math.inf
    wrong_each = planner.different(drawn, lambda _, wrong: min(wrong, most_wrong))
    right = problems * planner.different(drawn, lambda right, _: min(right, most_right))
    own, texts, wrong = behaviour(drawn.texts.source), drawn.texts, problems * wrong_each
    # a continuation after the k-th of m steps writes m - k of them and the answer line
    steps = (texts.open or planner.plan.steps) * own.wrong_length
    squared = (texts.open_squared or 1.2 * planner.plan.steps**2) * own.wrong_length**2
    whole = PAPER_K * ((squared - steps) / 2 * texts.step + steps * texts.answer)
    cost = planner.plan.label_cost
    if cost is None and args.search == "exhaustive":
        # prefixes that several solutions share are continued once
        cost = args.continuations / PAPER_K * min(1.0, wrong_each ** (own.reading - 1))
    elif cost is None:
        rule = "posterior" if args.rule == "auto" else args.rule
        cost = SEARCH_COST[args.search, rule][drawn.texts.source != WORLD]
    tokens = (wrong * drawn.wrong + right * drawn.right) / max(1e-9, wrong + right)
    planner.known[f"({name})"] = Labelled(drawn, problems, wrong, right, tokens)
    served = args.sampler.backend == "openai"
    return Work(
        name, args, None if served else planner.shape(args.policy), wrong * PAPER_K * steps * cost,
        wrong * whole * cost, read=wrong * (texts.prompt + drawn.wrong), rows=wrong + right, loads=1,
        longest=texts.prompt + drawn.wrong + args.sampler.max_tokens, served=served,
    )  # fmt: skip


def corrupt_work(planner: Planner, args: CorruptArgs, name: str) -> Work:
    texts = planner.texts(args.problems, PromptArgs(), None)
    drawn = Drawn(texts, texts.count, 1, texts.solution, texts.solution, texts.solution, 1.0)
    wrong = texts.count * args.per_problem
    planner.known[f"({name})"] = Labelled(drawn, texts.count, wrong, texts.count, texts.solution)
    return Work(name, args, rows=wrong + texts.count)


def revise_work(planner: Planner, args: ReviseArgs, name: str) -> Work:
    drawn, plan = planner.of(args.drafts, Drawn), planner.plan
    drafts, texts = drawn.problems, drawn.texts
    share = {"none": 1.0, "orm": plan.flagged, "sorm": plan.flagged, "oracle": 1 - plan.accuracy}
    whole = 1 + (args.control is not None) + (args.shuffled is not None)
    local = {where: drafts * share[where] for where in args.where}
    judges = len({"orm", "sorm"} & set(args.where))
    written = whole * drafts + sum(count * (REST if where != "none" else 1) for where, count in local.items())
    drafted = drafts * (texts.prompt + drawn.tokens)
    samples = whole * drafts + sum(local.values())
    sampled = planner.of(args.samples, Drawn).n if args.samples else 0
    planner.known[f"({name})"] = Searched(drawn, 1 + whole + len(args.where) + sampled)
    longest = texts.prompt + 2 * drawn.tokens + args.sampler.max_tokens
    return Work(
        name, args, planner.shape(args.global_refiner), samples, written * drawn.tokens, scored=judges * drafted,
        read=samples * (texts.prompt + drawn.tokens), longest=longest, rows=samples, loads=whole + 1 + judges,
        judges=min(judges, 1),  # one after the other
    )  # fmt: skip


def beam_work(planner: Planner, args: BeamArgs, name: str) -> Work:
    """A wave for each step: every beam that is kept gets `expand` more lines, and all are scored from their prompt on.
    Beams of the same text are one."""
    served = args.sampler.backend == "openai"
    texts = planner.texts(args.problems, args.prompt, None if served else args.policy)
    accuracy = planner.plan.served_accuracy if served else planner.plan.accuracy
    most = args.max_steps * args.sampler.max_tokens
    drawn = planner.drawn(texts, args.beams * args.expand, most, accuracy)
    kept = planner.different(drawn, lambda right, wrong: min(right + wrong, args.beams))
    waves = min((texts.open or planner.plan.steps) + 1, args.max_steps)
    lines = texts.count * args.expand * (args.beams + (waves - 1) * kept)
    grown = planner.different(drawn, lambda right, wrong: right + wrong) * waves
    read = texts.prompt + drawn.tokens / 2
    planner.known[f"({name})"] = Searched(drawn, kept)
    return Work(
        name, args, planner.shape(args.scorer if served else args.policy), lines, lines * drawn.tokens / waves,
        read=texts.count * waves * kept * read * (args.expand if served else 1), scored=texts.count * grown * read,
        longest=texts.prompt + drawn.tokens + args.sampler.max_tokens, rows=texts.count * kept, loads=2, served=served,
        judges=1, counted=False,
    )  # fmt: skip


def until_work(planner: Planner, args: UntilArgs, name: str) -> Work:
    """At most: a draft that is not accepted is taken to be refined in every round."""
    drawn = planner.of(args.drafts, Drawn)
    texts, refiners = drawn.texts, [one for one in (args.global_refiner, args.local_refiner) if one is not None]
    rounds = args.rounds * drawn.problems * planner.plan.flagged
    new = (args.global_refiner is not None) + REST * (args.local_refiner is not None)
    samples, looks = rounds * len(refiners), rounds * (args.where != args.judge and args.local_refiner is not None)
    planner.known[f"({name})"] = Searched(drawn, 1)
    return Work(
        name, args, planner.shape(refiners[0]), samples, rounds * new * drawn.tokens,
        read=samples * (texts.prompt + drawn.tokens),
        scored=(drawn.problems + samples + looks) * (texts.prompt + drawn.tokens),
        longest=texts.prompt + 2 * drawn.tokens + args.sampler.max_tokens, rows=drawn.problems,
        loads=len(refiners) * args.rounds + len(args.asked), judges=len(args.asked), counted=False,
    )  # fmt: skip


def rerank_work(planner: Planner, args: RerankArgs, name: str) -> Work:
    drawn = planner.of(args.candidates, Searched).drawn
    texts = sum(planner.of(path, Searched).each for path in (args.candidates, *args.more))
    read = drawn.problems * (drawn.texts.prompt + texts ** behaviour(drawn.texts.source).reading * drawn.tokens)
    judges, models = (3, 4) if args.compared else (2, 2)  # an implicit one is two models
    rows = judges * drawn.problems * texts
    return Work(name, args, planner.shape(args.orm), scored=models * read, rows=rows, loads=models, judge=True)


def mistakes_work(planner: Planner, args: MistakeArgs, name: str) -> Work:
    sources = [planner.of(path, Drawn) for path in args.rollouts]
    drawn, most = sources[0], args.max_per_problem
    each = sum(planner.different(one, lambda _, wrong: min(wrong, most)) for one in sources)
    some = planner.different(drawn, lambda _, wrong: min(wrong, 1.0))
    count = each * min(drawn.problems, (args.max_problems or math.inf) / max(some, 1e-9))
    planner.known[f"({name})"] = Mistakes(drawn, count)
    return Work(name, args, rows=count)


def correct_work(planner: Planner, args: CorrectArgs, name: str) -> Work:
    source = planner.of(args.mistakes, Mistakes)
    drawn, mistakes = source.drawn, source.count
    asked = drawn.texts.prompt + drawn.wrong + 5 * (drawn.texts.open or planner.plan.steps)  # each step has a number
    rest, count = REST * drawn.right, mistakes * args.n
    planner.known[f"({name})"] = Examples(count * planner.plan.kept, asked, rest)
    work = Work(name, args, samples=count, rows=count)
    work.sampled = count * (rest + planner.plan.explanation + FIELDS)
    if args.corrector == "policy":
        shown = sum(estimate_tokens(f"{e.question}\n{e.wrong}\n{e.explanation}\n{e.right}") for e in args.ask.examples)
        work.read = count * (asked + shown + estimate_tokens(args.ask.instruction))
        work.served = args.sampler.backend == "openai"
        work.shape = None if work.served else planner.shape(args.policy)
        work.longest, work.loads = asked + shown + args.sampler.max_tokens, 1
    if args.where in ("orm", "sorm"):
        work.scored, work.judges, work.loads = mistakes * (drawn.texts.prompt + drawn.wrong), 1, work.loads + 1
        work.shape = work.shape or planner.shape(getattr(args, args.where))
    return work


def evolve_work(planner: Planner, args: EvolveArgs, name: str) -> Work:
    """New problems, each as long as its seed, and where a policy writes them, their solutions: at most so many, since
    none is dropped before it is solved."""
    planner.known[f"({name})"] = NewProblems(args.problems, args.size * planner.plan.evolved)
    served = args.asks and args.sampler.backend == "openai"
    texts = planner.texts(args.problems, args.prompt, None if served else args.policy)
    work = Work(name, args, samples=args.size, sampled=args.size * texts.prompt, rows=args.size, served=served)
    if args.asks:
        accuracy = planner.plan.served_accuracy if served else planner.plan.accuracy
        solved = planner.drawn(texts, args.answers, args.sampler.max_tokens, accuracy)
        asked = texts.prompt + estimate_tokens(ask_question("", args.ask))
        work.shape, work.loads = None if served else planner.shape(args.policy), 2
        work.samples += args.size * args.answers
        work.sampled += args.size * args.answers * solved.tokens
        work.read = args.size * (asked + texts.prompt * (args.answers if served else 1))
        work.longest = asked + args.sampler.max_tokens
    return work
