"""The stage `correct`: mistakes into corrections, by a policy (any that can be sampled, chat servers too) or by the
embedded world's oracle.

A policy is told where to look by nobody (`where=none`), by a reward model's first step under its threshold (`orm`,
`sorm`), or by the truth (`oracle`, in the embedded world only). What is dropped stays in the rows, with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from refine.lema.counts import count_replies
from refine.lema.fields import PARTS
from refine.lema.judge import REASONS, judge_reply
from refine.lema.mistakes import policy_name
from refine.lema.oracle import OracleArgs, OracleSampler, find_mistake
from refine.lema.prompts import CorrectorPromptArgs, ask_correction, show_mistake
from refine.revise import WHERE, locate
from rollouts.prompts import PromptArgs
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.args import SamplerArgs, Sampling
from rollouts.sampling.budget import BudgetArgs, PriceArgs, forecast
from rollouts.sampling.collect import collect
from rollouts.sampling.policies import own_device_class
from rollouts.sampling.protocol import Request, Sample, Sampler, load_sampler
from rollouts.world.args import SOURCE as WORLD
from stages.artifacts import Artifact, open_artifact
from stages.checks import check_choices, check_least
from stages.stage import Stage, only_when, parent, resolved, runtime
from stages.workspace import Workspace

logger = logging.getLogger(__name__)

CORRECTORS = ("oracle", "policy")


@dataclass
class CorrectArgs(Sampling):
    """Arguments of the stage `correct`: `n` replies to every mistake.

    `orm` and `sorm` are the reward models that `where` may name; they read problems in `prompt` and run on `device`.
    `price` is that of the corrector's tokens, and the `budget` the most that may be spent: before it is over, the stage
    stops, keeps what it has, and goes on from there with a larger one.
    """

    mistakes: str = parent("collect_mistakes")  #: an artifact of collect_mistakes
    corrector: str = "oracle"  #: of the embedded world; or policy
    policy: str | None = only_when(
        parent("train_policy", any_path=True, or_name="served", default=None), "corrector", "policy"
    )  #: who corrects: a folder, hub:…, a served model
    sampler: SamplerArgs = only_when(
        field(default_factory=lambda: SamplerArgs(temperature=0.7, max_tokens=1024)), "corrector", "policy"
    )  #: how to sample
    ask: CorrectorPromptArgs = only_when(field(default_factory=CorrectorPromptArgs), "corrector", "policy")
    where: str = only_when("none", "corrector", "policy")  #: who tells it where to look: none, orm, sorm, oracle
    orm: str | None = only_when(parent("train_reward", default=None), "where", "orm")  #: a reward model
    sorm: str | None = only_when(parent("train_reward", default=None), "where", "sorm")  #: a reward model
    prompt: PromptArgs = only_when(field(default_factory=PromptArgs), "where", "orm", "sorm")
    device: str = only_when(resolved("auto", own_device_class), "where", "orm", "sorm")
    batch_tokens: int = runtime(16384)
    oracle: OracleArgs = only_when(field(default_factory=OracleArgs), "corrector", "oracle")  #: how often it errs
    n: int = 1  #: replies to each mistake
    seed: int = 0  #: of the replies
    price: PriceArgs = field(default_factory=PriceArgs)  #: of a million tokens
    budget: BudgetArgs = field(default_factory=BudgetArgs)  #: tokens, or money

    def validate(self) -> None:
        """Raise ValueError naming the first setting that does not fit the others."""
        check_choices(self, corrector=CORRECTORS, where=WHERE)
        check_least(self, n=1)
        if (self.corrector == "policy") != (self.policy is not None):
            raise ValueError(f"corrector={self.corrector} with policy={self.policy}: give corrector=policy and policy")
        if self.corrector == "oracle" and self.where != "none":
            raise ValueError(f"where={self.where}: the oracle knows where, and needs nobody to tell it")
        if self.where in ("orm", "sorm") and getattr(self, self.where) is None:
            raise ValueError(f"where={self.where} needs {self.where}, the folder of a reward model")
        if self.corrector == "policy" and self.n > 1 and self.sampler.temperature == 0:
            raise ValueError(f"n={self.n} greedy replies would all be the same: set sampler.temperature, or n=1")
        self.budget.open(self.price, self.sampler.max_tokens)

    def forecast(self) -> list[str]:
        """What the replies will cost, in lines, for a dry run."""
        if self.corrector == "oracle":
            return []
        source = open_artifact(self.mistakes, "collect_mistakes")
        mistakes = source.rows(Mistake)
        asked = requests(self, by_id(source), mistakes, [None] * len(mistakes))
        return [forecast(asked, self.sampler.max_tokens, self.price)]


def by_id(source: Artifact) -> dict[str, Problem]:
    """The problems of an artifact by their ids."""
    return {problem.id: problem for problem in source.rows(Problem, "problems")}


def requests(
    args: CorrectArgs, problems: dict[str, Problem], mistakes: Sequence[Mistake], hints: Sequence[int | None]
) -> list[Request]:
    """One request for each mistake, by its id. The oracle needs no instruction."""
    asked = []
    for mistake, hint in zip(mistakes, hints, strict=True):
        question = problems[mistake.problem_id].question
        prompt = show_mistake(question, mistake.steps)
        if args.corrector == "policy":
            prompt = ask_correction(question, mistake.steps, args.ask, hint)
        asked.append(Request(mistake.id, prompt, n=args.n, seed=args.seed))
    return asked


def find_hints(
    args: CorrectArgs, problems: dict[str, Problem], mistakes: Sequence[Mistake], work: Workspace
) -> list[int | None]:
    """The step (from 1) that a corrector is told of for each mistake; None where nobody tells it of any."""
    if args.corrector == "oracle" or args.where == "none":
        return [None] * len(mistakes)
    found = locate(args, args.where, [problems[one.problem_id] for one in mistakes], mistakes, work)
    return [None if step is None else step + 1 for step in found]


def open_corrector(args: CorrectArgs, problems: dict[str, Problem], mistakes: Sequence[Mistake]) -> Sampler:
    """Who writes the corrections.

    Raises:
        ValueError: the oracle is asked about problems that are not of the embedded world; or see `load_sampler`.
    """
    if args.corrector == "policy":
        return load_sampler(args.policy, args.sampler, args.ask.stop)
    if other := next((one.source for one in problems.values() if one.source != WORLD), None):
        raise ValueError(f"corrector=oracle knows the embedded world only, not {other}: use corrector=policy")
    return OracleSampler(problems, {one.id: one for one in mistakes}, args.oracle)


def without_duplicates(replies: Iterable[Correction]) -> list[Correction]:
    """The corrections of one mistake; of those that are the same, the first is kept."""
    seen, rows = set(), []
    for one in replies:
        same = (one.wrong_step, one.steps) in seen
        if one.reason is None:
            seen.add((one.wrong_step, one.steps))
        rows.append(replace(one, reason="duplicate") if one.reason is None and same else one)
    return rows


def correct(args: CorrectArgs, work: Workspace) -> None:
    """Write `rows` (Correction), kept and dropped ones, and `problems` (Problem).

    Raises:
        ValueError: see `open_corrector` and `locate`; or the budget is spent.
    """
    source = work.parents["mistakes"]
    problems, mistakes = by_id(source), source.rows(Mistake)
    hints = find_hints(args, problems, mistakes, work)
    known = {mistake.id: (mistake, hint) for mistake, hint in zip(mistakes, hints, strict=True)}
    name = "oracle"
    if args.corrector == "policy":
        policy = work.parents["policy"]
        name = policy_name(policy.stage, policy.key, policy.path)
    asked = requests(args, problems, mistakes, hints)
    if args.corrector == "policy" and work.processes.first:
        logger.info("%s: %s", name, forecast(asked, args.sampler.max_tokens, args.price))

    def judged(request: Request, sample: Sample) -> Correction:
        mistake, hint = known[request.id]
        parts = args.ask.parts if args.corrector == "policy" else PARTS
        return judge_reply(problems[mistake.problem_id], mistake, sample, name, hint, parts)

    budget = args.budget.open(args.price, args.sampler.max_tokens)
    with closing(open_corrector(args, problems, mistakes)) as sampler:
        found = collect(sampler, asked, work, "correct", judged, Correction, budget=budget)
    rows = [row for mistake in mistakes for row in without_duplicates(found[mistake.id])]
    work.write_rows("problems", problems.values(), Problem)
    work.write_rows("rows", rows, Correction)
    if work.processes.first:
        _count(args, problems, mistakes, rows, work)


def _count(
    args: CorrectArgs,
    problems: dict[str, Problem],
    mistakes: Sequence[Mistake],
    rows: Sequence[Correction],
    work: Workspace,
) -> None:
    """What became of the replies, what they cost, and, where it is known, whether the right step is named."""
    kept = [row for row in rows if row.reason is None]
    work.count(
        mistakes=len(mistakes),
        corrected_mistakes=len({row.mistake_id for row in kept}),
        hints=sum(row.hint is not None for row in rows),
    )
    count_replies("replies", rows, REASONS, args.price, work)
    own = {one.id: one for one in mistakes if problems[one.problem_id].source == WORLD}
    truths = {name: find_mistake(problems[one.problem_id], one) for name, one in own.items()}
    known = [(row.wrong_step, truths[row.mistake_id]) for row in kept if row.mistake_id in truths]
    if known:
        work.count(true_steps=sum(truth is not None and truth.step == step for step, truth in known) / len(known))


CORRECT = Stage("correct", 1, CorrectArgs, correct)
