"""The stage `lema_report`: how often each arm of LeMa is right, and whether corrections help. The numbers are those of
`refine/lema/report.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from experiments.report.words import interval, main_finding, percent
from refine.lema.report import (
    ASKED,
    CONTROL,
    START,
    arm_outcomes,
    arm_pairs,
    asked_outcomes,
    build_arms,
    build_asked,
    guess_rate,
    headline,
)
from refine.report.outcomes import Outcome
from refine.report.truth import check_apart
from rollouts.records import Correction, Problem, Rollout
from stages.artifacts import Artifact
from stages.files import write_json
from stages.markdown import plain, table
from stages.stage import Stage, parent
from stages.text import one_line
from stages.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

FILES = ("report.md", "report.json", "outcomes.parquet")
WORDS = {
    START: "the student, not trained",
    CONTROL: "CoT alone",
    "equal_examples": "CoT + corrections, equal examples",
    "equal_tokens": "CoT + corrections, equal tokens",
    "more_data": "all CoT + all corrections (more data)",
    "no_explanation": "equal examples, no explanation",
    "no_wrong_step": "equal examples, no incorrect step",
    "evolve_corrections": "more data + problems evolved from corrections",
    "evolve_all": "more data + problems evolved from all",
}
LIMITS = (
    "Every difference is to CoT alone on the same problems, with a bootstrap over problems. The intervals do not hold "
    "the luck of training and of drawing the mix: that takes several seeds, of which `python -m experiments.claims` "
    "makes one table. Each interval is made for its own difference alone: where nothing differs, about one in twenty "
    "leaves out zero all the same."
)


def arm_words(arm: str) -> str:
    """What a table calls an arm."""
    name, _, rate = arm.partition("errors_")
    return WORDS.get(arm, f"equal examples, oracle errs on {rate}%" if not name and rate else arm)


@dataclass
class LemaReportArgs:
    """Arguments of the stage `lema_report`. `samples` and `policies` are those of the `arms`, of which one is `cot`;
    `start` are the samples of the policy that all of them begin with.

    `asked` are the replies of the arms `asked_names` that were asked to correct mistakes on test problems. `trained_on`
    are rollouts whose problems must not be among those tested. `stages` are the artifacts whose seconds and tokens are
    listed, `names` theirs.
    """

    start: str = parent("sample")  #: test samples before any training
    samples: list[str] = parent("sample")  #: test samples of each arm
    policies: list[str] = parent("train_policy")  #: the policy of each arm
    arms: list[str] = field(default_factory=list)  #: their names
    corrections: list[str] = parent("correct", default=[])
    correction_names: list[str] = field(default_factory=list)
    asked: list[str] = parent("correct", default=[])  #: what trained policies reply when asked to correct
    asked_names: list[str] = field(default_factory=list)
    trained_on: list[str] = parent("sample", default=[])  #: rollouts that must not be of the test problems
    stages: list[str] = parent(any_path=True, default=[])
    names: list[str] = field(default_factory=list)
    title: str = "LeMa"  #: the report's title
    model: str = ""
    seed: int = 0  #: of the bootstrap

    def validate(self) -> None:
        """Raise ValueError where artifacts and names do not match, or there is nothing to compare."""
        for paths, names in (
            (self.samples, self.arms), (self.policies, self.arms), (self.corrections, self.correction_names),
            (self.stages, self.names), (self.asked, self.asked_names),
        ):  # fmt: skip
            if len(paths) != len(names):
                raise ValueError(f"{len(paths)} artifacts with {len(names)} names: {list(names)}")
        if CONTROL not in self.arms or len(self.arms) < 2:
            raise ValueError(f"arms={list(self.arms)}: {CONTROL} and another one are needed")


def write_lema_report(args: LemaReportArgs, work: Workspace) -> None:
    """Write report.md, report.json, and the outcome of each problem (`outcomes`).

    Raises:
        ValueError: an arm has other problems, or a test problem was trained on.
    """
    problems = work.parents["start"].rows(Problem, "problems")
    for artifact in (*work.parents["trained_on"], *work.parents["corrections"]):
        check_apart(artifact.rows(Problem, "problems"), problems)
    own = {START: work.parents["start"], **dict(zip(args.arms, work.parents["samples"], strict=True))}
    outcomes = arm_outcomes(problems, {arm: artifact.rows(Rollout) for arm, artifact in own.items()})
    asked = {
        arm: (one.rows(Correction), {problem.id: problem for problem in one.rows(Problem, "problems")})
        for arm, one in zip(args.asked_names, work.parents["asked"], strict=True)
    }
    outcomes += asked_outcomes(problems, asked)
    chance = guess_rate(next(iter(asked.values()))[0]) if asked else None
    report = {
        "system": "lema", "title": args.title, "model": args.model, "source": problems[0].source, "seed": args.seed,
        "problems": len(problems), "headline": headline(args.arms), **build_arms(outcomes, args.seed),
        "trained": {arm: _trained(one) for arm, one in zip(args.arms, work.parents["policies"], strict=True)},
        "corrections": dict(zip(args.correction_names, map(_counts, work.parents["corrections"]), strict=True)),
        "asked": build_asked(outcomes, chance, args.seed),
        "stages": dict(zip(args.names, map(_cost, work.parents["stages"]), strict=True)),
    }  # fmt: skip
    write_json(work.folder / "report.json", report)
    (work.folder / "report.md").write_text(render_report(report), encoding="utf-8", newline="\n")
    work.write_rows("outcomes", outcomes, Outcome)


def _counts(artifact: Artifact) -> dict[str, float]:
    return dict(artifact.manifest["counts"])


def _trained(artifact: Artifact) -> dict[str, float]:
    """Examples and tokens of each kind, and all tokens that were trained on."""
    counts = artifact.manifest["counts"]
    wanted = ("_examples", "_tokens")
    return {name: value for name, value in counts.items() if name.endswith(wanted) and name != "useful_tokens"}


def _cost(artifact: Artifact) -> dict[str, float]:
    return {name: artifact.manifest.get(name, 0) for name in ("seconds", "tokens")}


def finding(report: dict[str, Any]) -> str:
    """Whether corrections help here, as far as one run can say it."""
    arm = report["headline"]
    change, accuracy = report["difference"][arm], report["accuracy"]
    verdicts = ("corrections help here", "corrections hurt here", "not shown that corrections help here")
    told = f"{arm_words(arm)}, is right on {percent(accuracy[arm])}, and CoT alone on {percent(accuracy[CONTROL])}"
    return main_finding(change, verdicts, told, f"; one run, seed {report['seed']}")


def render_report(report: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    header = ["trained on", "right", "95% interval", "minus CoT alone", "95% interval", "McNemar p"]
    setup = (
        f"{report['problems']:,} test problems of {plain(report['source'])}; all arms begin with "
        f"{plain(report['model'] or 'the student')}."
    )
    blocks = [f"# {plain(report['title'])}", f"{finding(report)} {setup}", table(header, _rows(report)), LIMITS]
    if report["pairs"]:
        names = dict(zip(report["pairs"], arm_pairs([*report["accuracy"]]), strict=True))
        rows = [
            [f"{arm_words(names[key][0])}, minus {arm_words(names[key][1])}", f"{100 * one['value']:+.1f}",
             interval(one, " to ", "+.1f")]
            for key, one in report["pairs"].items()
        ]  # fmt: skip
        blocks += ["## New problems", table(["difference", "points", "95% interval"], rows)]
    rows = [
        [arm_words(arm), *(f"{_sum(own, kind, 'examples'):,}" for kind in (False, True)),
         *(f"{_sum(own, kind, 'tokens'):,}" for kind in (False, True)), f"{own['trained_tokens']:,.0f}"]
        for arm, own in report["trained"].items()
    ]  # fmt: skip
    header = ["arm", "CoT examples", "corrections", "CoT tokens", "tokens of corrections", "trained, all epochs"]
    blocks += ["## What each arm was trained on", table(header, rows)]
    blocks += ["## Corrections", _correction_table(report), *_asked_blocks(report)]
    rows = [[name, f"{own['seconds']:,.0f}", f"{own['tokens']:,.0f}"] for name, own in report["stages"].items()]
    blocks += ["## What it cost", table(["stage", "seconds", "tokens"], rows)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _sum(own: dict[str, float], corrections: bool, unit: str) -> int:
    names = [name for name in own if name.endswith(f"_{unit}") and not name.startswith("trained")]
    return int(sum(own[name] for name in names if name.startswith("corrections") == corrections))


def _rows(report: dict[str, Any]) -> list[list[str]]:
    rows = []
    for arm, found in report["accuracy"].items():
        change = report["difference"].get(arm)
        cells = ["–", "–", "–"]
        if change is not None:
            chance = f"{change['mcnemar_p']:.3f}" if "mcnemar_p" in change else "–"
            cells = [f"{100 * change['value']:+.1f}", interval(change, " to ", "+.1f"), chance]
        rows.append([arm_words(arm), percent(found), interval(found), *cells])
    return rows


def _correction_table(report: dict[str, Any]) -> str:
    rows = []
    for name, own in report["corrections"].items():
        steps = f"{100 * own['true_steps']:.1f}%" if "true_steps" in own else "–"
        dropped = ", ".join(f"{key[8:]} {count:,}" for key, count in own.items() if key.startswith("dropped_"))
        rows.append([name, f"{own['mistakes']:,}", f"{own['kept']:,}", steps, dropped or "none"])
    return table(["corrections", "mistakes", "kept", "name the true step", "dropped"], rows)


def names_steps(report: dict[str, Any]) -> list[str]:
    """The arms of which it is known how often they name the wrong step."""
    return [arm for arm, own in report.get("asked", {}).get("arms", {}).items() if "names" in own]


def _asked_blocks(report: dict[str, Any]) -> list[str]:
    """How well each arm corrects the student's mistakes on test problems."""
    asked = report["asked"]
    if not asked:
        return []
    rows = []
    for arm, own in asked["arms"].items():
        cells = [f"{percent(own[what])} ({interval(own[what])})" if what in own else "–" for what in ASKED]
        rows.append([arm_words(arm), f"{own['read']['n']:,}", *cells])
    chance = f" A step drawn at random is the wrong one in {100 * asked['chance']:.1f}%."
    told = any("names" in own for own in asked["arms"].values())
    text = (
        "The student's wrong solutions of test problems, which nobody was trained on, each greedily corrected by the "
        "policy of the arm. CoT alone was never shown a correction: it is the control."
    )
    header = ["asked to correct", "mistakes", "names a step", "names the wrong step", "ends right"]
    return ["## Asked to correct", text + (chance if told else ""), table(header, rows)]


def print_arms(report: dict[str, Any], console: Console | None = None) -> None:
    """Print the finding and the table of the arms, readable at 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    grid = Table(title=Text(one_line(report["title"])), box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    grid.title_justify, grid.caption = "left", f"{report['problems']:,} problems, seed {report['seed']}"
    for header in ("trained on", "right", "minus CoT", "95%"):
        grid.add_column(header, justify="left" if header == "trained on" else "right", no_wrap=header != "trained on")
    for name, right, _, change, span, _ in _rows(report):
        grid.add_row(name, right, change, span)
    console.print(grid)
    console.print(finding(report).replace("**", ""), highlight=False)


LEMA_REPORT = Stage("lema_report", 1, LemaReportArgs, write_lema_report)
