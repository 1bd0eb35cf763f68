"""What each stage of a pipeline samples, trains on and reads, in tokens, from its arguments and what those before it
make. Nothing is run: numbers of texts are expectations (`experiments/planning/args.py` has what they rest on).

Left out: what it costs (`experiments/planning/costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.planning.args import SEARCH_COST, PlanArgs, behaviour
from experiments.planning.models import Shape, find_shape
from experiments.planning.texts import Texts, estimate_tokens, measure_problems, read_texts
from refine.lema.correct import CorrectArgs
from refine.lema.mistakes import MistakeArgs
from refine.mix import CORRECTIONS
from refine.pairs import PairArgs
from refine.prompts import KINDS
from refine.rerank import RerankArgs
from refine.revise import ReviseArgs
from refine.train_policy import TrainPolicyArgs
from rewards.labels.corrupt import CorruptArgs
from rewards.labels.search import PAPER_K
from rewards.labels.stepwise import LabelArgs
from rewards.train import TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PromptArgs
from rollouts.records import Problem
from rollouts.sampling.sample import SampleArgs
from rollouts.world.args import SOURCE as WORLD
from stages.artifacts import is_artifact, open_artifact
from stages.pipeline import Node
from training.args import TrainArgs

MARKS = 3  # tokens of [BAD], [REFINE] and their line's end
FIELDS = 12  # tokens of a correction's own words: the names of its fields, and which step is wrong
REST = 0.6  # share of a solution that is written anew from its first wrong step on, which is as often early as late


@dataclass(frozen=True)
class Drawn:
    """Solutions of an artifact of `sample`: `n` of each problem; mean tokens of all, of right and of wrong ones."""

    texts: Texts
    problems: float
    n: int
    tokens: float
    right: float
    wrong: float
    source: str
    accuracy: float


@dataclass(frozen=True)
class Labelled:
    """Solutions with step labels, of `problems` problems; `tokens` of one."""

    drawn: Drawn
    problems: float
    wrong: float
    right: float
    tokens: float


@dataclass
class Work:
    """One stage. `sampled`, `trained` and `scored` are what its manifest will count as tokens.

    `read` are prompts, and what evaluations read. Of `trained`, `computed` remain where examples share what they begin
    with, and `targets` have a loss. `longest` is a text with its prompt at its longest, in training a mean one. `shape`
    is the model (None: it needs no accelerator); `judge`: with a head of one score. `loads` are models that are opened.
    `served`: by a server, whose tokens are paid for.
    """

    name: str
    args: Any
    shape: Shape | None = None
    samples: float = 0
    sampled: float = 0
    read: float = 0
    trained: float = 0
    computed: float = 0
    targets: float = 0
    scored: float = 0
    longest: float = 0
    rows: float = 0
    loads: int = 0
    judge: bool = False
    served: bool = False

    @property
    def tokens(self) -> float:
        """What the manifest will count."""
        return self.sampled + self.trained + self.scored


@dataclass
class Planner:
    """Goes through the stages of a pipeline in order, and keeps what is known of the artifact of each, by its path."""

    plan: PlanArgs
    known: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def works(self, nodes: list[Node], given: dict[str, str]) -> list[Work]:
        """The work of each stage.

        Raises:
            ValueError: nothing is known of what is given, or of the length of solutions.
        """
        paths = dict(given) | {node.name: f"({node.name})" for node in nodes}
        works: list[Work] = []
        for node in nodes:
            args = node.build(paths)
            same = next((one for one in works if one.args == args), None)
            if same is not None:  # one artifact: it is made once, such as the student of the last round
                paths[node.name] = paths[same.name]
                works.append(Work(node.name, args))
            else:
                works.append(_STAGES.get(node.stage.name, _nothing)(self, args, node.name))
        return works

    def of(self, path: str, kind: type) -> Any:
        """What is known of an artifact.

        Raises:
            ValueError: it is given, and is not of a kind that can be planned with.
        """
        found = self.known.get(path) or (_from_manifest(path) if is_artifact(Path(path)) else None)
        if not isinstance(found, kind):
            raise ValueError(f"{path}: the plan knows nothing of it; leave it to the pipeline, or give rollouts only")
        return found

    def shape(self, policy: str | None) -> Shape:
        """The sizes of a policy, or of the one it was trained from."""
        if policy not in self.shapes:
            self.shapes[policy] = find_shape(policy)
        return self.shapes[policy]

    def texts(self, problems: ProblemArgs, prompt: PromptArgs, policy: str | None) -> Texts:
        """The problems as the policy reads them; one of the pipeline's own reads as the one it comes from."""
        shape = self.shapes.get(policy)
        return read_texts(problems, prompt.template(), policy if shape is None or policy is None else shape.name)

    def drawn(self, texts: Texts, n: int, most: int, source: str, accuracy: float) -> Drawn:
        """Solutions of these problems, of at most `most` tokens."""
        right = self.plan.completion or texts.solution
        if not right:
            raise ValueError(f"plan.completion is needed: the {source} problems have no gold solutions to go by")
        right, wrong = min(right, most), min(right * behaviour(source).wrong_length, most)
        tokens = accuracy * right + (1 - accuracy) * wrong
        return Drawn(texts, texts.count, n, tokens, right, wrong, source, accuracy)

    def different(self, drawn: Drawn, count: Callable[[float, float], float], n: int | None = None) -> float:
        """The expectation of `count` of one problem's different right and wrong solutions."""
        from scipy.stats import betabinom

        own, n = behaviour(drawn.source), n or drawn.n
        alpha = drawn.accuracy * own.concentration
        shares = betabinom(n, alpha, own.concentration - alpha).pmf(range(n + 1))
        pairs = ((r**own.right_variety * (r > 0), (n - r) ** own.wrong_variety * (r < n)) for r in range(n + 1))
        return float(sum(share * count(*pair) for share, pair in zip(shares, pairs, strict=True)))


def _nothing(planner: Planner, args: Any, name: str) -> Work:
    """A stage that takes seconds, such as a report."""
    return Work(name, args)


def _sample(planner: Planner, args: SampleArgs, name: str) -> Work:
    served = args.sampler.backend == "openai"
    texts = planner.texts(args.problems, args.prompt, None if served else args.policy)
    accuracy = planner.plan.served_accuracy if served else planner.plan.accuracy
    drawn = planner.drawn(texts, args.n, args.sampler.max_tokens, args.problems.source, accuracy)
    planner.known[f"({name})"] = drawn
    samples = texts.count * args.n
    return Work(
        name, args, None if served else planner.shape(args.policy), samples, samples * drawn.tokens,
        read=texts.count * texts.prompt * (args.n if served else 1), longest=texts.prompt + args.sampler.max_tokens,
        rows=samples, loads=1, served=served,
    )  # fmt: skip


def _label(planner: Planner, args: LabelArgs, name: str) -> Work:
    drawn = planner.of(args.rollouts, Drawn)
    problems = min(drawn.problems, args.max_problems or math.inf)
    most_wrong, most_right = args.max_wrong_per_problem or math.inf, args.max_right_per_problem or math.inf
    wrong_each = planner.different(drawn, lambda _, wrong: min(wrong, most_wrong))
    right = problems * planner.different(drawn, lambda right, _: min(right, most_right))
    own, texts, wrong = behaviour(drawn.source), drawn.texts, problems * wrong_each
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
        cost = SEARCH_COST[args.search, rule][drawn.source != WORLD]
    tokens = (wrong * drawn.wrong + right * drawn.right) / max(1e-9, wrong + right)
    planner.known[f"({name})"] = Labelled(drawn, problems, wrong, right, tokens)
    served = args.sampler.backend == "openai"
    return Work(
        name, args, None if served else planner.shape(args.policy), wrong * PAPER_K * steps * cost,
        wrong * whole * cost, read=wrong * (texts.prompt + drawn.wrong), rows=wrong + right, loads=1,
        longest=texts.prompt + drawn.wrong + args.sampler.max_tokens, served=served,
    )  # fmt: skip


def _corrupt(planner: Planner, args: CorruptArgs, name: str) -> Work:
    texts = planner.texts(args.problems, PromptArgs(), None)
    drawn = Drawn(texts, texts.count, 1, texts.solution, texts.solution, texts.solution, args.problems.source, 1.0)
    wrong = texts.count * args.per_problem
    planner.known[f"({name})"] = Labelled(drawn, texts.count, wrong, texts.count, texts.solution)
    return Work(name, args, rows=wrong + texts.count)


def _pairs(planner: Planner, args: PairArgs, name: str) -> Work:
    drawn = planner.of(args.rollouts, Drawn)
    most, each = args.max_per_problem, args.max_right_per_wrong

    def whole(right: float, wrong: float) -> float:
        return min(most, min(wrong, most) * min(right, each)) if right else 0

    pairs = drawn.problems * planner.different(drawn, whole)
    counts = dict.fromkeys(KINDS, pairs) | {"local": 0.0}
    if args.labels is not None:
        labelled = planner.of(args.labels, Labelled)
        counts["local"] = min(labelled.wrong * planner.plan.local_pairs, labelled.problems * most)
    planner.known[f"({name})"] = {"drawn": drawn, **counts}
    return Work(name, args, rows=3 * pairs + counts["local"])


def _fitted(work: Work, train: TrainArgs, tokens: float, computed: float, targets: float) -> Work:
    """With the tokens of a training run, given those of one epoch."""
    most = min(train.max_steps or math.inf, train.stop_after or math.inf) * train.tokens_per_step
    epochs = min(train.epochs, most / max(1.0, tokens))
    work.trained, work.computed, work.targets = tokens * epochs, computed * epochs, targets * epochs
    work.longest = tokens / max(1.0, work.samples)
    return work


def _train_policy(planner: Planner, args: TrainPolicyArgs, name: str) -> Work:
    if args.policy is None and "solutions" in args.examples:
        from rollouts.world.tokenizer import make_tokenizer

        planner.shapes[f"({name})"] = find_shape(None, args.model, len(make_tokenizer(args.problems.world.max_value)))
    else:
        planner.shapes[f"({name})"] = planner.shape(args.policy)
    kinds = {kind: _examples(planner, args, kind) for kind in args.examples}
    if args.mix.by != "all":
        _mix(kinds, args)
    work = Work(name, args, planner.shapes[f"({name})"], sum(one.count for one in kinds.values()), loads=1)
    own = [(min(one.read + one.written, args.max_length), one) for one in kinds.values()]
    tokens = sum(one.count * length for length, one in own)
    targets = sum(one.count * one.written for one in kinds.values())
    # with dropout, what examples begin with is read for each
    computed = sum(one.count * length - one.shared * (args.lora.dropout == 0) for length, one in own)
    return _fitted(work, args.train, tokens, computed, targets)


@dataclass
class _Kind:
    """Examples of one kind: tokens that each reads and writes, and tokens of all that another one has computed."""

    count: float
    read: float
    written: float
    shared: float = 0.0


def _examples(planner: Planner, args: TrainPolicyArgs, kind: str) -> _Kind:
    if kind == "solutions":
        texts = planner.texts(args.problems, args.prompt, args.policy)
        return _Kind(texts.count if texts.solution else 0, texts.prompt, texts.solution)
    if kind == "rollouts":
        sources = [planner.of(path, Drawn) for path in (args.rollouts, *args.more_rollouts)]
        first, n, most = sources[0], sum(one.n for one in sources), args.max_per_problem or math.inf
        count = first.problems * planner.different(first, lambda right, _: min(right, most), n)
        families = first.problems * planner.different(first, lambda right, _: min(right, 1.0), n)
        return _together(_Kind(count, first.texts.prompt, first.right), families, first.source)
    if kind == CORRECTIONS:
        found = [planner.of(path, _Kind) for path in args.corrections]
        count = sum(one.count for one in found)
        explained = planner.plan.explanation * args.correction.explanation + FIELDS
        return _Kind(count, found[0].read + estimate_tokens(args.correction.instruction), found[0].written + explained)
    pairs = planner.of(args.pairs, dict)
    drawn: Drawn = pairs["drawn"]
    draft = 0.0 if kind == "control" else drawn.wrong
    # a local refiner reads the good steps once more and writes the rest of its target
    again = (1 - REST) * drawn.right if kind == "local" else 0.0
    found = _Kind(pairs[kind], drawn.texts.prompt + draft + MARKS + again, drawn.right - again)
    if kind != "control":
        return found
    mixed = drawn.problems * planner.different(drawn, lambda right, wrong: min(right, wrong, 1.0))
    return _together(found, mixed, drawn.source)


def _together(kind: _Kind, families: float, source: str) -> _Kind:
    """These examples where those of a family have one prompt, which is read once."""
    each = max(1.0, kind.count / max(1e-9, families))
    computed = kind.count / each * (kind.read + each ** behaviour(source).reading * kind.written)
    return replace(kind, shared=kind.count * (kind.read + kind.written) - computed)


def _mix(kinds: dict[str, _Kind], args: TrainPolicyArgs) -> None:
    """As many examples of each kind as `refine.mix` draws."""
    others = [one for kind, one in kinds.items() if kind != CORRECTIONS]
    corrections = kinds.get(CORRECTIONS, _Kind(0, 0, 0))

    def weigh(one: _Kind) -> float:
        return one.count * (one.read + one.written if args.mix.by == "tokens" else 1)

    before = sum(map(weigh, others))
    size = args.mix.size or before
    share = min(1.0, args.mix.corrections * size / max(1e-9, weigh(corrections)))
    left = (size - share * weigh(corrections)) / max(1e-9, before)
    for one, part in ((corrections, share), *((one, min(1.0, left)) for one in others)):
        one.count, one.shared = one.count * part, one.shared * part


def _train_reward(planner: Planner, args: TrainRewardArgs, name: str) -> Work:
    planner.shapes[f"({name})"] = shape = planner.shape(args.policy)
    if args.kind == "orm":
        rollouts = [planner.of(path, Drawn) for path in (args.rollouts, *args.more_rollouts)]
        drawn, n = rollouts[0], sum(one.n for one in rollouts)
        problems, tokens = drawn.problems, (drawn.right + drawn.wrong) / 2
        right = problems * planner.different(drawn, lambda right, _: right, n)
        wrong = problems * planner.different(drawn, lambda _, wrong: wrong, n)
        paired = problems * planner.different(drawn, min, n)
        count = {"none": right + wrong, "total": 2 * min(right, wrong), "problem": 2 * paired}[args.balance]
        validation = args.validation_share * problems * n
    else:
        labelled = planner.of(args.labels, Labelled)
        drawn, problems, tokens = labelled.drawn, labelled.problems, labelled.tokens
        count = labelled.wrong + labelled.right
        validation = args.validation_share * count
    count *= 1 - args.validation_share
    own, prompt = behaviour(drawn.source), drawn.texts.prompt
    each = max(1.0, count / max(1.0, problems))
    families = count / each
    computed = families * (prompt + each**own.reading * tokens)
    checked = validation * tokens + args.validation_share * problems * prompt
    work = Work(name, args, shape, count, read=args.train.evaluations * checked, loads=1, judge=True)
    steps = (drawn.texts.open or planner.plan.steps) + 1
    return _fitted(work, args.train, count * (prompt + tokens), computed, count * steps)


def _revise(planner: Planner, args: ReviseArgs, name: str) -> Work:
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
    planner.known[f"({name})"] = (drawn, 1 + whole + len(args.where) + sampled)
    longest = texts.prompt + 2 * drawn.tokens + args.sampler.max_tokens
    return Work(
        name, args, planner.shape(args.global_refiner), samples, written * drawn.tokens, scored=judges * drafted,
        read=samples * (texts.prompt + drawn.tokens), longest=longest, rows=samples, loads=whole + 1 + judges,
    )  # fmt: skip


def _rerank(planner: Planner, args: RerankArgs, name: str) -> Work:
    drawn, texts = planner.of(args.candidates, tuple)
    read = drawn.problems * (drawn.texts.prompt + texts ** behaviour(drawn.source).reading * drawn.tokens)
    rows = 2 * drawn.problems * texts
    return Work(name, args, planner.shape(args.orm), scored=2 * read, rows=rows, loads=2, judge=True)


def _mistakes(planner: Planner, args: MistakeArgs, name: str) -> Work:
    sources = [planner.of(path, Drawn) for path in args.rollouts]
    drawn, most = sources[0], args.max_per_problem
    each = sum(planner.different(one, lambda _, wrong: min(wrong, most)) for one in sources)
    some = planner.different(drawn, lambda _, wrong: min(wrong, 1.0))
    count = each * min(drawn.problems, (args.max_problems or math.inf) / max(some, 1e-9))
    planner.known[f"({name})"] = (drawn, count)
    return Work(name, args, rows=count)


def _correct(planner: Planner, args: CorrectArgs, name: str) -> Work:
    drawn, mistakes = planner.of(args.mistakes, tuple)
    asked = drawn.texts.prompt + drawn.wrong + 5 * (drawn.texts.open or planner.plan.steps)  # each step has a number
    rest, count = REST * drawn.right, mistakes * args.n
    planner.known[f"({name})"] = _Kind(count * planner.plan.kept, asked, rest)
    work = Work(name, args, samples=count, rows=count)
    work.sampled = count * (rest + planner.plan.explanation + FIELDS)
    if args.corrector == "policy":
        shown = sum(estimate_tokens(f"{e.question}\n{e.wrong}\n{e.explanation}\n{e.right}") for e in args.ask.examples)
        work.read = count * (asked + shown + estimate_tokens(args.ask.instruction))
        work.served = args.sampler.backend == "openai"
        work.shape = None if work.served else planner.shape(args.policy)
        work.longest, work.loads = asked + shown + args.sampler.max_tokens, 1
    return work


_STAGES = {
    "sample": _sample,
    "label_steps": _label,
    "corrupt_solutions": _corrupt,
    "build_pairs": _pairs,
    "train_policy": _train_policy,
    "train_reward": _train_reward,
    "revise": _revise,
    "rerank": _rerank,
    "collect_mistakes": _mistakes,
    "correct": _correct,
}


def _from_manifest(path: str) -> Drawn | None:
    """What a finished artifact of `sample` says of itself."""
    artifact = open_artifact(path, thorough=False)
    if artifact.stage != "sample":
        return None
    manifest, problems = artifact.manifest, artifact.rows(Problem, "problems")
    rows, policy = manifest["counts"]["rows"], (manifest["parents"].get("policy") or {}).get("path")
    template = PromptArgs(**manifest["args"]["prompt"]).template()
    texts = measure_problems(problems, len(problems), template, policy or "")
    tokens, accuracy = manifest["tokens"] / rows, manifest["counts"].get("accuracy") or 0.5
    n, source = round(rows / len(problems)), problems[0].source
    return Drawn(texts, len(problems), n, tokens, tokens, tokens, source, accuracy)
