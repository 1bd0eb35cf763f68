"""What the stages that train will do, and `build_pairs` before them: examples and tokens, from their arguments and what
those before them make."""

from __future__ import annotations

import math
from dataclasses import replace

from experiments.planning.args import behaviour
from experiments.planning.known import FIELDS, MARKS, REST, Drawn, Examples, Labelled, NewProblems, Planner, Work
from experiments.planning.models import find_shape
from experiments.planning.texts import estimate_tokens
from refine.mix import CORRECTIONS
from refine.pairs import PairArgs
from refine.prompts import KINDS
from refine.train_policy import TrainPolicyArgs
from rewards.reward_model import FACTS
from rewards.train import TrainRewardArgs
from rewards.train_implicit import TrainImplicitArgs
from training.args import TrainArgs
from training.models import MATCHING


def pairs_work(planner: Planner, args: PairArgs, name: str) -> Work:
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


def train_policy_work(planner: Planner, args: TrainPolicyArgs, name: str) -> Work:
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


def _examples(planner: Planner, args: TrainPolicyArgs, kind: str) -> Examples:
    if kind == "solutions":
        texts = planner.texts(args.problems, args.prompt, args.policy)
        new = sum(planner.of(path, NewProblems).count for path in args.evolved)
        return Examples(texts.count + new if texts.solution else 0, texts.prompt, texts.solution)
    if kind == "rollouts":
        paths, most = (args.rollouts, *args.more_rollouts), args.max_per_problem or math.inf
        count = planner.together(paths, lambda right, _: min(right, most))
        families = planner.together(paths, lambda right, _: min(right, 1.0))
        first = planner.of(args.rollouts, Drawn)
        return _together(Examples(count, first.texts.prompt, first.right), families, first.texts.source)
    if kind == CORRECTIONS:
        found = [planner.of(path, Examples) for path in args.corrections]
        count = sum(one.count for one in found)
        explained = planner.plan.explanation * args.correction.explanation + FIELDS
        return Examples(
            count, found[0].read + estimate_tokens(args.correction.instruction), found[0].written + explained
        )
    pairs = planner.of(args.pairs, dict)
    drawn: Drawn = pairs["drawn"]
    draft = 0.0 if kind == "control" else drawn.wrong
    # a local refiner reads the good steps once more and writes the rest of its target
    again = (1 - REST) * drawn.right if kind == "local" else 0.0
    found = Examples(pairs[kind], drawn.texts.prompt + draft + MARKS + again, drawn.right - again)
    if kind != "control":
        return found
    mixed = drawn.problems * planner.different(drawn, lambda right, wrong: min(right, wrong, 1.0))
    return _together(found, mixed, drawn.texts.source)


def _together(kind: Examples, families: float, source: str) -> Examples:
    """These examples where those of a family have one prompt, which is read once."""
    each = max(1.0, kind.count / max(1e-9, families))
    computed = kind.count / each * (kind.read + each ** behaviour(source).reading * kind.written)
    return replace(kind, shared=kind.count * (kind.read + kind.written) - computed)


def _mix(kinds: dict[str, Examples], args: TrainPolicyArgs) -> None:
    """As many examples of each kind as `refine.mix` draws."""
    others = [one for kind, one in kinds.items() if kind != CORRECTIONS]
    corrections = kinds.get(CORRECTIONS, Examples(0, 0, 0))

    def weigh(one: Examples) -> float:
        return one.count * (one.read + one.written if args.mix.by == "tokens" else 1)

    before = sum(map(weigh, others))
    size = args.mix.size or before
    share = min(1.0, args.mix.corrections * size / max(1e-9, weigh(corrections)))
    left = (size - share * weigh(corrections)) / max(1e-9, before)
    for one, part in ((corrections, share), *((one, min(1.0, left)) for one in others)):
        one.count, one.shared = one.count * part, one.shared * part


def train_implicit_work(planner: Planner, args: TrainImplicitArgs, name: str) -> Work:
    """An ORM's training, and one more reading of all: by the model as it was."""
    planner.shapes[f"({name})"] = planner.shape(args.policy)
    work = train_reward_work(planner, args.as_orm(), name)
    work.args, work.judge = args, False
    work.scored += work.longest * work.samples  # what trains it reads is read once before
    return work


def train_reward_work(planner: Planner, args: TrainRewardArgs, name: str) -> Work:
    start = planner.shape(args.policy)
    matching = MATCHING if args.names and getattr(start.config, FACTS, None) is None else 0  # a reward model has them
    planner.shapes[f"({name})"] = shape = start.deeper(args.added_layers + matching)
    if args.kind == "orm":
        paths = (args.rollouts, *args.more_rollouts)
        rollouts = [planner.of(path, Drawn) for path in paths]
        drawn, problems = rollouts[0], planner.together(paths, lambda *_: 1.0)
        tokens = (drawn.right + drawn.wrong) / 2
        right, wrong = planner.together(paths, lambda right, _: right), planner.together(paths, lambda _, wrong: wrong)
        paired = planner.together(paths, min)
        count = {"none": right + wrong, "total": 2 * min(right, wrong), "problem": 2 * paired}[args.balance]
        validation = args.validation_share * sum(one.problems * one.n for one in rollouts)
    else:
        labelled = planner.of(args.labels, Labelled)
        drawn, problems, tokens = labelled.drawn, labelled.problems, labelled.tokens
        count = labelled.wrong + labelled.right
        validation = args.validation_share * count
    count *= 1 - args.validation_share
    own, prompt = behaviour(drawn.texts.source), drawn.texts.prompt
    each = max(1.0, count / max(1.0, problems))
    families = count / each
    computed = families * (prompt + each**own.reading * tokens)
    checked = validation * tokens + args.validation_share * problems * prompt
    work = Work(name, args, shape, count, read=args.train.evaluations * checked, loads=1, judge=True)
    steps = (drawn.texts.open or planner.plan.steps) + 1
    return _fitted(work, args.train, count * (prompt + tokens), computed, count * steps)
