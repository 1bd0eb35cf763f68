"""`python -m experiments.compare RUN RUN …`: runs of glore or lema beside each other, on the same problems.

RUN is the folder of a run, or of a sweep (sweep=DIR: its arms without a result are named too). Runs that differ in
their seed alone are one arm. Writes compare.md, compare.html and compare.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.commands.plain_parser import PlainParser, end_with, one_line_errors
from experiments.commands.sweeps import Unfinished, read_sweep
from experiments.report.compared import print_compared, render_compared, render_compared_page
from experiments.report.lema import arm_words
from experiments.report.runs import find_runs, group_arms, out_folder, read_run, shared_stages
from experiments.report.words import selector_names
from refine.report.compare import Run, compare_arms
from stages.files import write_json

SWEEP = "sweep="


def main() -> None:
    """The command."""
    end_with(run)


@one_line_errors
def run(argv: Sequence[str]) -> int:
    """What the command does; returns its exit code: 0, or 2 after the user's error, in one line on stderr."""
    parser = PlainParser("python -m experiments.compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run or of a sweep; sweep=DIR")
    parser.add_argument("--against", metavar="ARM", help="the arm that the others are compared with; else the first")
    parser.add_argument("--selector", help="what the arms choose by, such as local; else what is reranked")
    parser.add_argument("--out", help="the folder of compare.md, compare.html and compare.json")
    options = parser.parse_args(argv)
    folders, missing = _folders(options.runs)
    out = out_folder(options.out, folders)
    found = compare(folders, missing, options.against, options.selector)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "compare.json", found)
    for name, text in (("md", render_compared(found)), ("html", render_compared_page(found, out))):
        (out / f"compare.{name}").write_text(text, encoding="utf-8", newline="\n")
    print_compared(found)
    print(f"{out / 'compare.md'}, compare.html and compare.json are written")
    return 0


def _folders(given: Sequence[str]) -> tuple[list[Path], list[Unfinished]]:
    """The folders of finished runs, and the arms of sweeps that are not finished.

    Raises:
        ValueError: a folder is none of a run or a sweep, or no arm of a sweep is finished.
    """
    folders: list[Path] = []
    missing: list[Unfinished] = []
    for one in given:
        if not one.startswith(SWEEP):
            folders += find_runs(Path(one))
            continue
        done, unfinished = read_sweep(Path(one.removeprefix(SWEEP)))
        if not done:
            first = f"{unfinished[0].name}: {unfinished[0].why}"
            raise ValueError(f"{one}: none of its {len(unfinished)} arms is finished ({first})")
        folders += [run for folder in done for run in find_runs(folder)]
        missing += unfinished
    return folders, missing


def compare(
    folders: Sequence[Path], missing: Sequence[Unfinished], against: str | None = None, selector: str | None = None
) -> dict[str, Any]:
    """The numbers of `compare_arms` for these runs, with the words for each selector, and the arms that are missing.

    Raises:
        ValueError: the runs cannot be compared, or `against` names no arm.
    """
    arms = group_arms([read_run(folder) for folder in folders])
    first = next(iter(arms.values()))[0]
    headline = first.report["headline"]
    chosen = selector or (headline if isinstance(headline, str) else "reranked")
    found = compare_arms(arms, chosen, _reference(list(arms), against))
    for arm in found["arms"]:
        words = _selector_words(arms[arm["name"]][0])
        for name, own in arm["selectors"].items():
            own["words"] = words.get(name, name.replace("_", " "))
    rest = {"missing": [asdict(one) for one in missing], "shared": shared_stages(folders)}
    return (
        {"title": f"{first.report['title']}: {len(arms)} arms" if len(arms) > 1 else first.report["title"]}
        | rest
        | found
    )


def _reference(arms: Sequence[str], against: str | None) -> str:
    if against is None:
        return arms[0]
    near = [name for name in arms if against in (name, *name.split(", "))] or [name for name in arms if against in name]
    if len(near) != 1:
        raise ValueError(f"--against {against}: names {len(near)} arms of: {'; '.join(arms)}")
    return near[0]


def _selector_words(run: Run) -> dict[str, str]:
    """What a table calls each selector of a run, or each arm of LeMa."""
    if run.report.get("system") == "lema":
        return {arm: arm_words(arm) for arm in run.report["accuracy"]}
    return selector_names(dict(run.report))


if __name__ == "__main__":
    main()
