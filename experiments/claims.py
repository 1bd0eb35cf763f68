"""`python -m experiments.claims RUN RUN …`: the claims of GLoRe, or of LeMa, and of this project, over several seeds.

RUN is the folder of a run of `glore` or `lema`, or of a sweep: then all runs in it. Writes claims.md and claims.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.commands.plain_parser import PlainParser, end_with, one_line_errors
from experiments.report.lema import arm_words, names_steps
from experiments.report.runs import find_runs, out_folder, read_run, read_settings, shared_stages
from refine.lema.report import CONTROL, arm_claims
from refine.report.claims import check_claims
from refine.report.compare import Run, check_seeds
from stages.files import write_json
from stages.markdown import table
from stages.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

HEADER = ["claim", "value", "95% interval", "verdict", "each run"]
SOURCES = {
    "GLoRe": "Claims of GLoRe (arXiv 2402.10963)",
    "LeMa": "Claims of LeMa (arXiv 2310.20689)",
    "ours": "Claims of this project",
}
HOW = (
    "Values are means over runs: differences in points, on the same problems, or shares in per cent. The 95% intervals "
    "are over problems and trainings: both are resampled, the same problems for all runs, and the interval is wider "
    "where the runs are few (`rewards.intervals.over_trainings`). Supported: the whole interval agrees with the claim. "
    "Opposite: all of it contradicts the claim. Each claim stands alone: of twenty without substance about one is "
    "supported or contradicted by chance."
)


def main() -> None:
    """The command."""
    end_with(run)


@one_line_errors
def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    parser = PlainParser("python -m experiments.claims", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, or of a sweep")
    parser.add_argument("--out", help="the folder of claims.md and claims.json")
    options = parser.parse_args(argv)
    folders = [folder for given in options.runs for folder in find_runs(given)]
    out = out_folder(options.out, folders)
    found = read_claims(folders)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "claims.json", found)
    (out / "claims.md").write_text(render_claims(found), encoding="utf-8", newline="\n")
    print_claims(found)
    print(f"{out / 'claims.md'} and claims.json are written")
    return 0


def read_claims(folders: Sequence[Path]) -> dict[str, Any]:
    """The claims over these runs, with the runs' seeds and what they share.

    Raises:
        ValueError: two runs have one seed, other settings or other problems, or there is only one run.
    """
    runs = [read_run(folder) for folder in folders]
    check_seeds(runs)
    _check_alike(runs)
    outcomes = {run.name: run.outcomes for run in runs}
    first, finding, rights = runs[0].report, "", []
    if first.get("system") == "lema":
        words = {arm: arm_words(arm) for arm in first["accuracy"]}
        accuracy, differences = arm_claims(list(words), words, names_steps(first))
        claims = check_claims(outcomes, claims=[*accuracy, *differences], whole=f"right {CONTROL}")
        rights, claims = claims[: len(accuracy)], claims[len(accuracy) :]
        pair = [f"right {first['headline']}"], [f"right {CONTROL}"]
        finding = _finding(next(one for one in claims if (one["first"], one["second"]) == pair))
    else:
        claims = check_claims(outcomes)
    return {
        "title": first["title"],
        "finding": finding,
        "accuracy": rights,
        "problems": first["problems"],
        "runs": {run.name: run.seed for run in runs},
        "shared": shared_stages(folders),
        "claims": claims,
    }


def _finding(claim: dict[str, Any]) -> str:
    """Whether corrections help, as the claim of the headline's arm says it."""
    verdicts = {"supported": "corrections help here", "opposite": "corrections hurt here"}
    verdict = verdicts.get(claim["verdict"], "not shown that corrections help here")
    arm, (value, span, *_) = claim["claim"].removesuffix(" beats CoT alone"), _cells(claim)
    return (
        f"Main finding: {verdict}: {arm}, minus CoT alone is {value} points (95% interval {span}, over problems and "
        "trainings)."
    )


def _check_alike(runs: Sequence[Run]) -> None:
    """Raise ValueError where two runs differ in more than their seeds."""
    (name, own), *others = {run.name: read_settings(run) for run in runs}.items()
    for other, theirs in others:
        for key in own.keys() & theirs.keys():
            if own[key] != theirs[key]:
                raise ValueError(f"{other} has {key}={theirs[key]!r} and {name} {own[key]!r}: only seeds may differ")


def _cells(claim: dict[str, Any]) -> list[str]:
    """Value, interval, verdict, and the value of each run; a difference has a sign, a share a per cent."""
    found, form, unit = claim["estimate"], "+.1f" if claim["second"] else ".1f", "" if claim["second"] else "%"
    if found is None:
        return ["–", "–", claim["verdict"], "–"]
    span = "–" if found["low"] is None else f"{100 * found['low']:{form}} to {100 * found['high']:{form}}"
    runs = " ".join(f"{100 * one:{form}}" for one in claim["runs"])
    return [f"{100 * found['value']:{form}}{unit}", span, claim["verdict"], runs]


def _notes(found: dict[str, Any]) -> list[str]:
    shared = (
        f"All runs share {', '.join(found['shared'])}: the luck of those is in no interval." if found["shared"] else ""
    )
    seeds = ", ".join(str(seed) for seed in found["runs"].values())
    return [f"{found['problems']:,} test problems, {len(found['runs'])} runs of seeds {seeds}.", shared, HOW]


def render_claims(found: dict[str, Any]) -> str:
    """The claims as Markdown, those of a paper first."""
    blocks = [f"# Claims: {one_line(found['title'])}", *filter(None, [found["finding"]])]
    if rows := _right_rows(found):
        blocks += ["## Accuracy", table(["trained on", "right", "95% interval", "each run"], rows)]
    for source, words in SOURCES.items():
        rows = [[claim["claim"], *_cells(claim)] for claim in found["claims"] if claim["source"] == source]
        blocks += [f"## {words}", table(HEADER, rows)] if rows else []
    return "\n\n".join([*blocks, *filter(None, _notes(found))]) + "\n"


def _right_rows(found: dict[str, Any]) -> list[list[str]]:
    """How often each arm of LeMa is right: its name, the mean over runs, the interval, and each run."""
    cells = ((one["claim"], _cells(one)) for one in found["accuracy"])
    return [[name, value, span, runs] for name, (value, span, _, runs) in cells]


def print_claims(found: dict[str, Any], console: Console | None = None) -> None:
    """Print the claims, readable at 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False, markup=False)
    if rows := _right_rows(found):
        grid = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for header in ("trained on", "right", "95% interval"):
            grid.add_column(header, justify="left" if header == "trained on" else "right", no_wrap=header == "right")
        for row in rows:
            grid.add_row(*row[:3])
        console.print(grid)
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    grid.add_column("claim", overflow="fold")
    for header in HEADER[1:4]:
        grid.add_column(header, justify="left" if header == "verdict" else "right", no_wrap=True)
    for claim in found["claims"]:
        last = [one for one in found["claims"] if one["source"] == claim["source"]][-1]
        row = [f"{claim['source']}: {claim['claim']}", *_cells(claim)[:3]]
        grid.add_row(*row, end_section=claim is last)
    console.print(grid)
    if found["finding"]:
        console.print(found["finding"])
    console.print("\n".join(filter(None, _notes(found)[:2])))


if __name__ == "__main__":
    main()
