"""What a plan knows of the artifacts of a pipeline that is not run, and what a stage does to make one.

Numbers of texts are expectations (`experiments/planning/args.py` has what they rest on).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.planning.args import PlanArgs, behaviour
from experiments.planning.models import Shape, find_shape
from experiments.planning.texts import Texts, measure_problems, read_texts
from rollouts.problems.args import ProblemArgs
from rollouts.prompts import PromptArgs
from rollouts.records import Problem
from stages.artifacts import is_artifact, open_artifact

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
    accuracy: float


@dataclass(frozen=True)
class Labelled:
    """Solutions with step labels, of `problems` problems; `tokens` of one."""

    drawn: Drawn
    problems: float
    wrong: float
    right: float
    tokens: float


@dataclass(frozen=True)
class Searched:
    """Solutions to choose from: `each` of a problem, beside or among those of these drafts."""

    drawn: Drawn
    each: float


@dataclass(frozen=True)
class Mistakes:
    """`count` wrong ones of these solutions."""

    drawn: Drawn
    count: float


@dataclass(frozen=True)
class NewProblems:
    """`count` problems that are like others."""

    like: ProblemArgs
    count: float


@dataclass
class Work:
    """One stage. `sampled`, `trained` and `scored` are what its manifest will count as tokens.

    `read` are prompts, and what evaluations read. Of `trained`, `computed` remain where examples share what they begin
    with, and `targets` have a loss. `longest` is a text with its prompt at its longest, in training a mean one. `shape`
    is the model (None: it needs no accelerator); `judge`: with a head of one score. `loads` are models that are opened.
    `served`: by a server, whose tokens are paid for; `shape` is then that of a reward model that scores here. `judges`
    are reward models that keep their memory while an engine starts; `counted`: the manifest counts what they score.
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
    judges: int = 0
    counted: bool = True

    @property
    def tokens(self) -> float:
        """What the manifest will count."""
        return self.sampled + self.trained + self.scored * self.counted


@dataclass
class Examples:
    """Examples of one kind: tokens that each reads and writes, and tokens of all that another one has computed."""

    count: float
    read: float
    written: float
    shared: float = 0.0


@dataclass
class Planner:
    """Keeps what is known of the artifact of each stage, by its path, and the sizes of each policy."""

    plan: PlanArgs
    known: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

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
        new = self.known.get(problems.path)
        if isinstance(new, NewProblems):
            return replace(self.texts(new.like, prompt, policy), count=new.count)
        shape = self.shapes.get(policy)
        return read_texts(problems, prompt.template(), policy if shape is None or policy is None else shape.name)

    def drawn(self, texts: Texts, n: int, most: int, accuracy: float) -> Drawn:
        """Solutions of these problems, of at most `most` tokens."""
        right = self.plan.completion or texts.solution
        if not right:
            raise ValueError(f"plan.completion is needed: the {texts.source} problems have no gold solutions to go by")
        right, wrong = min(right, most), min(right * behaviour(texts.source).wrong_length, most)
        tokens = accuracy * right + (1 - accuracy) * wrong
        return Drawn(texts, texts.count, n, tokens, right, wrong, accuracy)

    def different(self, drawn: Drawn, count: Callable[[float, float], float], n: int | None = None) -> float:
        """The expectation of `count` of one problem's different right and wrong solutions."""
        from scipy.stats import betabinom

        own, n = behaviour(drawn.texts.source), n or drawn.n
        alpha = drawn.accuracy * own.concentration
        shares = betabinom(n, alpha, own.concentration - alpha).pmf(range(n + 1))
        pairs = ((r**own.right_variety * (r > 0), (n - r) ** own.wrong_variety * (r < n)) for r in range(n + 1))
        return float(sum(share * count(*pair) for share, pair in zip(shares, pairs, strict=True)))

    def together(self, paths: Sequence[str], count: Callable[[float, float], float]) -> float:
        """The expectation of `count` over all problems of these artifacts; solutions of one problem go together."""
        groups: dict[Texts, list[Drawn]] = {}
        for one in (self.of(path, Drawn) for path in paths):
            groups.setdefault(one.texts, []).append(one)
        return sum(
            same[0].problems * self.different(same[0], count, sum(one.n for one in same)) for same in groups.values()
        )


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
    n = round(rows / len(problems))
    return Drawn(texts, len(problems), n, tokens, tokens, tokens, accuracy)
