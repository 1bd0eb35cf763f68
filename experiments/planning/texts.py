"""How many problems there are, and how long they and their gold solutions are, in tokens of the policy that reads them:
by its tokenizer where that is at hand, else estimated from the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from experiments.commands.dry_run import count_problems
from refine.students.shipped import FOLDERS, SHIPPED, find_start
from rewards.labels.prefixes import open_prefixes
from rollouts.problems.args import ON_HUB, ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import Template, render_prompt
from rollouts.records import Problem
from rollouts.sampling.policies import load_tokenizer
from rollouts.steps import Chat, encode_prompt, encode_text, join_steps, split_steps
from rollouts.world.args import SOURCE as WORLD

Measure = Callable[["str | Chat"], float]  # tokens of a text

_TOKEN = re.compile(r"\d|[^\W\d_]{1,6}|[^\w\s]|_|\n")
_READ = 300  # problems of the embedded world that are made to be measured
_TURNS = 12  # tokens that a chat template puts around a turn


@dataclass(frozen=True)
class Published:
    """A data set that is read from the hub: problems of its train and test files, and means of `Texts`."""

    train: int
    test: int
    question: float
    solution: float
    open: float
    open_squared: float
    answer: float


# gsm8k: counted in its files; the others are rough, and not counted
PUBLISHED = {
    "gsm8k": Published(7473, 1319, 60.4, 131.7, 3.57, 14.8, 8.3),
    "math": Published(7500, 5000, 80.0, 220.0, 5.0, 32.0, 6.0),
    "commonsenseqa": Published(9741, 1221, 45.0, 0.0, 0.0, 0.0, 5.0),
}


@dataclass(frozen=True)
class Texts:
    """`count` problems; means of: tokens of the prompt and of the gold solution (with its end; 0 where there is none),
    steps before the answer line, their square, and tokens of the answer line. `exact`: by the policy's tokenizer."""

    count: float
    prompt: float
    solution: float
    open: float
    open_squared: float
    answer: float
    exact: bool
    source: str

    @property
    def step(self) -> float:
        """Tokens of a step before the answer line."""
        return (self.solution - self.answer) / self.open if self.open else self.solution


def estimate_tokens(text: str | Chat) -> int:
    """About how many tokens a text has: a digit, a mark, a line's end, and at most six letters are one each.

    Of GSM8K's train file it finds 64 a prompt and 131 a solution, the tokenizer of SmolLM2 63 and 127.
    """
    if isinstance(text, Chat):
        return sum(len(_TOKEN.findall(turn["content"])) + _TURNS for turn in text.messages)
    return len(_TOKEN.findall(text)) + 1  # its end, or its beginning


def tokens_of(policy: str | None) -> tuple[Measure, bool]:
    """How many tokens a policy makes of a text, and whether that is exact. A text's end counts, a prompt's not."""
    folder = find_start(policy or SHIPPED) if policy is None or policy in FOLDERS else policy
    if not (Path(folder) / "tokenizer_config.json").is_file():
        return estimate_tokens, False
    tokenizer = load_tokenizer(folder)

    def measure(text: str | Chat) -> int:
        return len(encode_prompt(tokenizer, text) if isinstance(text, Chat) else encode_text(tokenizer, text))

    return measure, True


def read_texts(args: ProblemArgs, template: Template, policy: str | None) -> Texts:
    """What there is to say of these problems when this policy reads them in this template."""
    if args.path is not None and args.path == ON_HUB.get(args.source):
        known = PUBLISHED[args.source]
        around = tokens_of(policy)[0](render_prompt("", template))
        means = (known.question + around, known.solution, known.open, known.open_squared, known.answer)
        return Texts(_published_count(known, args), *means, False, args.source)
    if args.source == WORLD:
        few = min(_READ, args.limit or _READ)
        problems, count = load_problems(replace(args, limit=few, offset=0)), count_problems(args)
    else:
        problems = load_problems(args)
        count = len(problems)
    return measure_problems(problems, count, template, policy)


def measure_problems(problems: Sequence[Problem], count: int, template: Template, policy: str | None) -> Texts:
    """What there is to say of `count` problems such as these."""
    (measure, exact), source = tokens_of(policy), problems[0].source
    prompt = fmean(measure(render_prompt(one.question, template)) for one in problems)
    solved = [steps for one in problems if one.solution and (steps := split_steps(one.solution))]
    if not solved:
        return Texts(count, prompt, 0.0, 0.0, 0.0, 0.0, exact, source)
    open_ = [open_prefixes(steps) for steps in solved]
    solution = fmean(measure(join_steps(steps)) + exact for steps in solved)
    answer = fmean(measure(join_steps(steps[n:])) + exact for steps, n in zip(solved, open_, strict=True))
    return Texts(count, prompt, solution, fmean(open_), fmean(n * n for n in open_), answer, exact, source)


def _published_count(known: Published, args: ProblemArgs) -> int:
    held = round(known.train * args.validation_share)
    count = {"train": known.train - held, "validation": held, "test": known.test}[args.split]
    return max(0, min(count - args.offset, count if args.limit is None else args.limit))
