"""The stage `evolve`: new problems from those that occur in corrections (LeMa sec. 2), or from all as the control.

A policy writes each after one that is there (its seed), and solves it several times: only where enough of the solutions
agree is it kept. Problems of the embedded world are drawn and solved by the world itself (`rollouts/world/evolve.py`).
Test problems and near copies of them are refused.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from refine.lema.counts import count_replies
from refine.lema.fields import Dropped
from refine.lema.questions import QuestionPromptArgs, ask_question, read_question
from refine.lema.votes import agree
from rollouts.grading.choices import listed_choices, parse_choice
from rollouts.problems.args import ProblemArgs
from rollouts.problems.copies import Copies
from rollouts.problems.load import load_problems, load_untrained
from rollouts.problems.splits import question_key
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Correction, Evolved, Problem
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.budget import Budget, BudgetArgs, PriceArgs, forecast
from rollouts.sampling.collect import RowsByRequest, collect
from rollouts.sampling.protocol import REFUSED, Request, Sample, load_sampler, sample_seed
from rollouts.world.args import SOURCE as WORLD
from rollouts.world.args import WorldArgs
from rollouts.world.evolve import evolve_question, solve_question
from stages.checks import check_choices, check_least, check_range
from stages.stage import Stage, only_when, parent
from stages.workspace import Workspace

CORRECTED, ALL = SEEDS = ("corrections", "all")
# why a new problem is dropped, in the order in which it is looked at
REASONS = {
    "refused": "the policy was not asked, or did not answer: quarantine.parquet has why",
    "truncated": "the reply was cut off at max_tokens",
    "no_fit": "the embedded world has no problem like the seed within its settings, as far as was tried",
    "empty": "the reply has no text",
    "too_long": "the question is longer than any that is read",
    "control_characters": "the reply has control characters, or halves of characters",
    "repeated": "there are several problems in the reply",
    "solved": "the reply has a solution or an answer beside the question",
    "no_question": "nothing is asked",
    "no_choices": "the seed is multiple choice, and the new problem lists no choices",
    "copy": "it is its seed, a problem of the train split, or one that was written before",
    "test_copy": "it is a problem of the test or validation split, or a near copy of one",
    "no_answer": "too few of the solutions state an answer",
    "disagreement": "too few of the solutions agree",
    "ungraded": "the grader cannot compare the answer with itself",
}


@dataclass
class EvolveArgs(Sampling):
    """Arguments of the stage `evolve`: `size` replies, spread evenly over the seeds.

    Seeds are the problems with a correction that is kept in `corrections`, or `all` of `problems`, whose source also
    says which are the test problems. Without a `policy` it is the embedded world itself that writes and solves. With
    one, each new problem is solved `answers` times, in `prompt`, and kept where a share `agreement` of all of them ends
    in one answer. `price` and `budget` are those of all its tokens.
    """

    corrections: str | None = parent("correct", "import_corrections", default=None)  #: whose problems are the seeds
    problems: ProblemArgs = field(default_factory=ProblemArgs)  #: where the seeds come from
    seeds: str = CORRECTED  #: or all
    size: int = 1000  #: replies asked for
    policy: str | None = parent("train_policy", any_path=True, or_name="served", default=None)  #: null: the world
    sampler: SamplerArgs = only_when(
        field(default_factory=lambda: SamplerArgs(temperature=0.7, max_tokens=512)), "asks", True
    )
    ask: QuestionPromptArgs = only_when(field(default_factory=QuestionPromptArgs), "asks", True)
    prompt: PromptArgs = only_when(field(default_factory=PromptArgs), "asks", True)  #: how it is asked to solve
    answers: int = only_when(5, "asks", True)  #: solutions of each new problem
    agreement: float = only_when(0.6, "asks", True)  #: share of them with one answer
    seed: int = 0  #: of the replies
    price: PriceArgs = field(default_factory=PriceArgs)  #: of a million tokens
    budget: BudgetArgs = field(default_factory=BudgetArgs)  #: tokens, or money

    @property
    def asks(self) -> bool:
        """Whether a policy is asked, and not the embedded world."""
        return self.policy is not None

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        check_choices(self, seeds=SEEDS)
        check_least(self, size=1, answers=2)
        check_range(self, agreement="(0, 1]")
        if (self.seeds == CORRECTED) != (self.corrections is not None):
            raise ValueError(
                f"seeds={self.seeds} with corrections={self.corrections}: give seeds=corrections and those"
            )
        if self.problems.split != "train":
            raise ValueError(f"problems.split={self.problems.split}: only problems of the train split are evolved")
        if self.asks and self.sampler.temperature == 0:
            raise ValueError("sampler.temperature=0: greedy solutions would all be the same, and agree")
        self.budget.open(self.price, self.sampler.max_tokens)

    def check_writer(self) -> None:
        """Raise ValueError where nobody can write problems of this source. A pipeline says later which source it is."""
        if self.asks == (self.problems.source == WORLD):
            raise ValueError(
                f"problems.source={self.problems.source} with policy={self.policy}: the embedded world writes its own "
                "problems, and others need a policy"
            )

    def forecast(self) -> list[str]:
        """What the replies will cost, in lines, for a dry run."""
        if not self.asks:
            return []
        question = "x" * 400  # of a word problem, roughly
        asked = [Request("new", ask_question(question, self.ask), n=self.size)]
        solved = [Request("solved", render_prompt(question, self.prompt.template()), n=self.size * self.answers)]
        lines = (
            forecast(asked, self.sampler.max_tokens, self.price),
            forecast(solved, self.sampler.max_tokens, self.price),
        )
        return [f"new problems: {lines[0]}", f"their solutions: {lines[1]}"]


class WorldWriter:
    """Answers each request, whose id is that of a seed, with a new question of the embedded world. A word stands for a
    token."""

    promise = "the embedded world gives the same problems for the same seeds, always"

    def __init__(self, seeds: Mapping[str, Problem], world: WorldArgs) -> None:
        self.seeds, self.world = seeds, world

    def sample(self, requests: Sequence[Request]) -> Iterator[Sample]:
        """Yield the samples of all requests in order; the text is empty where no problem was found."""
        for request in requests:
            for index in request.indices:
                seed = sample_seed(request.seed, request.id, index)
                text = evolve_question(self.seeds[request.id].question, self.world, random.Random(seed)) or ""
                yield Sample(request.id, index, text, "stop", 0, len(text.split()), seed)

    def close(self) -> None:
        """There is nothing to give back."""


def spread(seeds: Sequence[Problem], size: int, seed: int) -> dict[str, int]:
    """How many replies are asked for after each seed, by its id: as many of each, the rest at random; none of some
    where there are fewer replies than seeds."""
    each, rest = divmod(size, len(seeds))
    more = set(random.Random(f"evolve/{seed}").sample(range(len(seeds)), rest))
    counts = {problem.id: each + (place in more) for place, problem in enumerate(seeds)}
    return {name: count for name, count in counts.items() if count}


def find_seeds(args: EvolveArgs, work: Workspace) -> tuple[list[Problem], list[Problem]]:
    """The seeds, and all problems of the train split.

    Raises:
        ValueError: no correction is kept, or one is of a problem of another split.
    """
    train = load_problems(args.problems)
    if args.seeds == ALL:
        return train, train
    source = work.parents["corrections"]
    kept = {row.problem_id for row in source.rows(Correction) if row.reason is None}
    seeds = [problem for problem in source.rows(Problem, "problems") if problem.id in kept]
    if not seeds:
        raise ValueError(f"{source.path}: no correction is kept, so no problem can be evolved")
    if odd := next((one for one in seeds if one.split != "train"), None):
        raise ValueError(f"{source.path}: problem {odd.id} is of the {odd.split} split, which is never evolved")
    return seeds, train


def evolve(args: EvolveArgs, work: Workspace) -> None:
    """Write `rows` (Evolved), kept and dropped ones, and `problems` (Problem), those that are kept.

    Raises:
        ValueError: see `check_writer` and `find_seeds`; no new problem is kept; or the budget is spent.
    """
    args.check_writer()
    seeds, train = find_seeds(args, work)
    by_id = {problem.id: problem for problem in seeds}
    asked = [
        Request(name, ask_question(by_id[name].question, args.ask), n=count, seed=args.seed)
        for name, count in spread(seeds, args.size, args.seed).items()
    ]
    budget = args.budget.open(args.price, args.sampler.max_tokens)
    if args.asks:
        sampler = load_sampler(args.policy, args.sampler, args.ask.stop)
    else:
        sampler = WorldWriter(by_id, args.problems.world)
    with closing(sampler):
        replies = collect(sampler, asked, work, "write", budget=budget)
    rows = [_read(by_id[name], sample, args) for name in replies for sample in replies[name]]
    rows = refuse_copies(rows, [*seeds, *train], args)
    rows = _solve(args, by_id, rows, work) if args.asks else list(map(_solved_by_world, rows))
    kept = [Problem(one.id, one.question, one.answer, one.solution, by_id[one.seed_id].source, "train")
            for one in rows if one.reason is None]  # fmt: skip
    if not kept:
        raise ValueError(f"not one of {len(rows)} new problems is kept: {dict(Counter(row.reason for row in rows))}")
    work.write_rows("problems", kept, Problem)
    work.write_rows("rows", rows, Evolved)
    if work.processes.first:
        work.count(seeds=len(seeds), evolved_seeds=len({row.seed_id for row in rows if row.reason is None}))
        count_replies("new problems", rows, REASONS, args.price, work)


def _read(seed: Problem, sample: Sample, args: EvolveArgs) -> Evolved:
    """The question of a reply, or why there is none."""
    found = Evolved(
        f"evolved/{args.seeds}/{args.seed}/{seed.id}/{sample.index}", seed.id, None, None, None, 0, 0, None,
        sample.text, sample.prompt_tokens, sample.completion_tokens,
    )  # fmt: skip
    if sample.finish_reason == REFUSED:
        return replace(found, reason="refused")
    if sample.finish_reason == "length":
        return replace(found, reason="truncated")
    if not args.asks and not sample.text:
        return replace(found, reason="no_fit")
    try:
        question = read_question(sample.text, lines="\n" in seed.question.strip())
    except Dropped as dropped:
        return replace(found, reason=str(dropped))
    if parse_choice(seed.answer) and len(listed_choices(question)) < 2:
        return replace(found, question=question, reason="no_choices")
    return replace(found, question=question)


def refuse_copies(rows: Sequence[Evolved], train: Sequence[Problem], args: EvolveArgs) -> list[Evolved]:
    """The rows, with those dropped that are copies: of test problems, near ones too, of problems of the train split, or
    of one another. The embedded world writes none of test problems."""
    tested = None if args.problems.source == WORLD else Copies(load_untrained(args.problems))
    seen = {question_key(problem.question) for problem in train}
    found = []
    for row in rows:
        if row.reason is None:
            key = question_key(row.question)
            if tested is not None and tested.find(row.question):
                row = replace(row, reason="test_copy")
            elif key in seen:
                row = replace(row, reason="copy")
            seen.add(key)
        found.append(row)
    return found


def _solved_by_world(row: Evolved) -> Evolved:
    if row.reason is not None:
        return row
    solution, answer = solve_question(row.question)
    return replace(row, answer=answer, solution=solution)


def _solve(args: EvolveArgs, seeds: Mapping[str, Problem], rows: Sequence[Evolved], work: Workspace) -> list[Evolved]:
    """Have the policy solve each new problem several times, and see whether it agrees with itself."""
    template = args.prompt.template()
    open_ones = [row for row in rows if row.reason is None]
    asked = [
        Request(row.id, render_prompt(row.question, template), n=args.answers, seed=args.seed) for row in open_ones
    ]
    budget = _rest(args, rows)
    with closing(load_sampler(args.policy, args.sampler, template.stop)) as sampler:
        found = collect(sampler, asked, work, "solve", need_some=False, budget=budget)
    return [row if row.reason is not None else _agreed(args, seeds[row.seed_id], row, found) for row in rows]


def _rest(args: EvolveArgs, rows: Sequence[Evolved]) -> Budget | None:
    """The budget, of which the replies have been paid."""
    budget = args.budget.open(args.price, args.sampler.max_tokens)
    if budget is not None:
        for row in rows:
            budget.pay(row.prompt_tokens, row.completion_tokens)
    return budget


def _agreed(args: EvolveArgs, seed: Problem, row: Evolved, found: RowsByRequest[Sample]) -> Evolved:
    samples = found[row.id]
    vote = agree(row.question, samples, choices=parse_choice(seed.answer) is not None)
    row = replace(
        row,
        agreed=vote.agreed,
        answers=len(samples),
        prompt_tokens=row.prompt_tokens + sum(one.prompt_tokens for one in samples),
        completion_tokens=row.completion_tokens + sum(one.completion_tokens for one in samples),
    )
    if vote.answered < args.agreement * len(samples):
        return replace(row, reason="no_answer")
    if vote.agreed < args.agreement * len(samples):
        return replace(row, reason="disagreement")
    if not vote.graded:
        return replace(row, answer=vote.answer, reason="ungraded")
    return replace(row, answer=vote.answer, solution=vote.solution)


EVOLVE = Stage("evolve", 1, EvolveArgs, evolve)
