"""`python -m experiments.compare`: arms and seeds beside each other, what is missing, and runs that go not together."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from experiments.commands.sweeps import Unfinished, read_sweep
from experiments.commands.yaml_files import write_yaml
from experiments.compare import compare, run
from experiments.report.compared import print_compared, render_compared, token_points, verdict
from experiments.report.lema import arm_words
from refine.lema.report import arm_outcomes, build_arms
from refine.report.build import build_report
from refine.report.compare import pair_runs
from refine.report.inputs import ReportInputs
from refine.report.outcomes import Outcome, run_outcomes
from rollouts.records import Problem, Rollout
from stages.files import read_json, write_json
from stages.rows import write_rows
from tests.experiments.report.test_page import Page
from tests.experiments.synthetic import synthetic_inputs
from tests.experiments.test_claims import seeded

WHERES = ("none", "oracle", "sorm")


def write_run(folder: Path, inputs: ReportInputs, **settings: object) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "report.json", build_report(inputs))
    write_rows(folder / "outcomes.parquet", run_outcomes(inputs), Outcome)
    (folder / "report.html").touch()
    write_yaml(folder / "config.yaml", {"seed": inputs.seed, "run": {"name": folder.name}, **settings})
    write_json(folder / "result.json", {"artifacts": {"student": "s", "orm": f"orm{inputs.seed}"}})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three arms and two seeds, and an arm that failed, one that was killed, one that was not begun."""
    folder, first = tmp_path_factory.mktemp("runs") / "where", synthetic_inputs(60, resamples=20)
    for seed in (0, 1):
        for where in WHERES:
            inputs = dataclasses.replace(seeded(first, seed), where=where)
            write_run(folder / f"headline_where={where},seed={seed}", inputs, headline_where=where)
    (folder / "headline_where=orm,seed=0").mkdir()
    write_json(folder / "headline_where=orm,seed=0" / "failed.json", {"overrides": [], "why": "no [room]\nleft"})
    (folder / "headline_where=orm,seed=1").mkdir()
    write_yaml(folder / "headline_where=orm,seed=1" / "config.yaml", {"seed": 1})
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": {"seed": "0,1,2"}}
    task = ["+sweep=where", "headline_where=sorm", "run.name=where"]
    own = {
        "sweeper": sweeper,
        "sweep": {"subdir": "${run_folder:${hydra.overrides.task}}"},
        "overrides": {"task": task},
    }
    write_yaml(folder / "multirun.yaml", {"hydra": own})
    return folder


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "where")


def test_a_sweep_becomes_tables_a_page_and_json(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([f"sweep={sweep}"]) == 0
    found = read_json(sweep / "compare.json")
    assert [arm["name"] for arm in found["arms"]] == [f"headline_where={where}" for where in WHERES]
    assert all(list(arm["runs"].values()) == [0, 1] for arm in found["arms"]) and found["problems"] == 60
    assert found["shared"] == ["student"] and found["reference"] == "headline_where=none"
    for arm, where in zip(found["arms"], WHERES, strict=True):
        reports = [read_json(sweep / f"headline_where={where},seed={seed}" / "report.json") for seed in (0, 1)]
        for name, own in arm["selectors"].items():
            assert own["each"] == pytest.approx([report["accuracy"][name]["value"] for report in reports], abs=1e-6)
            assert own["estimate"]["value"] == pytest.approx(sum(own["each"]) / 2)
            tokens = [report["tokens"][name] + report["tokens_read"][name] for report in reports]
            assert own["tokens"] == pytest.approx(sum(tokens) / 2)
    differences = {one["first"][0]: one for one in found["differences"]}
    assert list(differences) == ["headline_where=oracle", "headline_where=sorm"]
    values = {arm["name"]: arm["selectors"]["reranked"]["each"] for arm in found["arms"]}
    for name, one in differences.items():
        assert one["seeds"] == [[0, 0], [1, 1]] and 0 <= one["p"] <= one["holm_p"] <= 1 and len(one["mcnemar_p"]) == 2
        each = [a - b for a, b in zip(values[name], values["headline_where=none"], strict=True)]
        assert one["each"] == pytest.approx(each)

    text, page = ((sweep / f"compare.{end}").read_text(encoding="utf-8") for end in ("md", "html"))
    oracle = differences["headline_where=oracle"]
    low, value, high = (f"{100 * oracle['estimate'][end]:+.1f}" for end in ("low", "value", "high"))
    assert f"| headline_where=oracle | {value} | {low} to {high} |" in text
    assert "All runs share student: the luck of those is in no interval." in text
    for line in ("| headline_where=orm,seed=0 | failed: no \\[room\\]; left |",
                 "| headline_where=orm,seed=1 | killed, or still running |",
                 "| headline_where=sorm,seed=2 | not started |"):  # fmt: skip
        assert line in text
    printed = capsys.readouterr().out
    assert "without a result: 3 arms of the sweep" in printed and "failed: no [room]; left" in printed
    parsed = Page(page)
    links = [attributes["href"] for tag, attributes, _ in parsed.all("a") if "report.html" in attributes["href"]]
    assert links and all((sweep / link.partition("#")[0]).is_file() for link in links)
    assert not parsed.all("script") and len(parsed.all("svg")) == 3
    differ = len(found["disagreements"])
    assert f"On {differ} of 60 problems the arms are not equally often right." in page and len(links) == 3 * differ


def test_the_reward_models_of_the_arms_stand_beside_each_other(tmp_path: Path) -> None:
    first = synthetic_inputs(60, resamples=20, implicit=True)
    folders = [
        write_run(tmp_path / f"{beta}{seed}", seeded(first, seed), train_implicit={"beta": beta})
        for beta in (1, 2)
        for seed in ((0, 1) if beta == 1 else (0,))
    ]
    reports = [read_json(folder / "report.json") for folder in folders]
    found = compare(folders, [])
    several, single = (arm["judges"] for arm in found["arms"])
    assert list(several) == list(single) == ["orm", "sorm", "implicit"]
    for scorer, own in several.items():
        for key, one in own.items():
            values = [report[key][scorer]["value"] for report in reports[:2]]
            assert one["value"] == pytest.approx(sum(values) / 2, abs=1e-6), key
            assert (one["low"] is None) == ("auroc" in key or "f1" in key)
            assert single[scorer][key]["value"] == pytest.approx(reports[2][key][scorer]["value"], abs=1e-6)
            assert single[scorer][key]["low"] <= single[scorer][key]["value"] <= single[scorer][key]["high"]
    text, out = render_compared(found), io.StringIO()
    header = (
        "| arm | model | steps | steps, AUROC | first error | first error, F1 | final answers | final answers, AUROC |"
    )
    rows = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["ORM", "SORM", "implicit"] * 2
    one = single["implicit"]["step_auroc"]
    assert rows[-1].split(" | ")[3] == f"{100 * one['value']:.1f}% ({100 * one['low']:.1f}–{100 * one['high']:.1f})"
    print_compared(found, Console(file=out, width=80, highlight=False, markup=False))
    (line,) = [line for line in out.getvalue().splitlines() if line.startswith(" train_implicit.beta=2   implicit")]
    assert len(line) <= 80 and line.count("%") == 2


def test_two_single_runs_have_mcnemars_p(sweep: Path) -> None:
    first, second = (sweep / f"headline_where={where},seed=0" for where in ("sorm", "none"))
    found = compare([first, second], [])
    (one,) = found["differences"]
    inputs = [dataclasses.replace(seeded(synthetic_inputs(60, resamples=20), 0), where=one) for one in ("sorm", "none")]
    rows = [[row for row in run_outcomes(one) if row.measure == "right reranked"] for one in inputs]
    outcomes = [{row.problem: row.hits for row in own} for own in rows]
    from scipy.stats import binomtest

    better = sum(outcomes[1][name] > outcomes[0][name] for name in outcomes[0])
    worse = sum(outcomes[1][name] < outcomes[0][name] for name in outcomes[0])
    assert better + worse > 0
    assert one["p"] == one["holm_p"] == one["mcnemar_p"][0] == pytest.approx(binomtest(better, better + worse).pvalue)
    assert one["estimate"]["value"] == pytest.approx((better - worse) / 60)
    assert found["reference"] == "headline_where=sorm" and one["first"] == ["headline_where=none", "reranked"]


def test_runs_of_one_seed_are_compared_with_each_other() -> None:
    assert pair_runs([0, 1, 2], [2, 0]) == [(0, 1), (2, 0)]
    assert pair_runs([5, 3], [4, 7, 9]) == [(1, 0), (0, 1)]  # none is shared: in the order of seeds


def test_seeds_alone_are_one_arm_and_its_selectors_are_compared(sweep: Path) -> None:
    found = compare([sweep / f"headline_where=sorm,seed={seed}" for seed in (0, 1)], [])
    (arm,) = found["arms"]
    assert arm["name"] == "where/headline_where=sorm" and found["differences"][0]["second"][1] == "draft"
    assert len(found["differences"]) == len(arm["selectors"]) - 1 > 10
    assert verdict(found).startswith("**draft + global + local, ORM picks is right on ")
    assert sorted(words for words, *_ in token_points(found)) == sorted(
        own["words"] for own in arm["selectors"].values()
    )


def test_another_selector_and_another_reference(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sweep / "out"
    assert run([f"sweep={sweep}", "--selector", "local", "--against", "sorm", "--out", str(out)]) == 0
    found = read_json(out / "compare.json")
    assert found["reference"] == "headline_where=sorm" and found["selector"] == "local"
    assert not (sweep / "compare.md").exists() and "../headline_where=" in (out / "compare.html").read_text("utf-8")
    capsys.readouterr()
    for argv, told in (
        (["--selector", "nobody"], "has nothing chosen by 'nobody'; it has draft, "),
        (["--against", "headline"], "--against headline: names 3 arms of: headline_where=none; "),
        (["--out", ""], "--out must not be empty"),
    ):
        assert run([f"sweep={sweep}", *argv]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1


def test_the_tables_fit_into_80_columns(sweep: Path) -> None:
    done, missing = read_sweep(sweep)
    found, out = compare(done, missing), io.StringIO()
    found["arms"][0]["name"] = found["reference"] = "labels.search=exhaustive, labels.rule=any, seed of the world=7"
    print_compared(found, Console(file=out, width=80, highlight=False, markup=False))
    assert max(map(len, out.getvalue().splitlines())) <= 80 and "…" not in out.getvalue()
    assert "Holm p" in out.getvalue() and missing[0] == Unfinished(
        "headline_where=orm,seed=0", "failed: no [room]; left"
    )


def test_marks_that_all_arms_share_are_one(sweep: Path) -> None:
    done, missing = read_sweep(sweep)
    points = token_points(compare(done, missing))
    words = [words for words, *_ in points]
    assert words.count("draft (greedy)") == 1 and any(one.startswith("best of 3") for one in words)
    assert sum(one.startswith("draft + global + local") for one in words) == 3
    assert not any(one.startswith("global refinement") for one in words)  # of three arms only what is compared


def test_runs_that_cannot_be_compared_are_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*argv: object) -> str:
        assert run([str(one) for one in argv]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and error.startswith("error: ")
        return error

    other = write_run(tmp_path / "other", synthetic_inputs(60, 7, resamples=20))
    mine = sweep / "headline_where=none,seed=0"
    told = refusal(mine, other)
    assert f"{mine} and {other} have not the same test problems" in told
    again = shutil.copytree(mine, tmp_path / "again")
    assert f"{mine} and {again} are both of seed 0: one run counted twice" in refusal(mine, again)
    assert f"{mine} is given twice" in refusal(mine, mine)
    assert "neither a finished run of glore" in refusal(sweep / "headline_where=orm,seed=0")
    assert "there is no such folder of a sweep" in refusal(f"sweep={tmp_path / 'nobody'}")
    assert "holds no arms of a sweep" in refusal(f"sweep={mine}")
    for folder in sweep.glob("*/result.json"):
        folder.unlink()
    assert "none of its 9 arms is finished (headline_where=none,seed=0: killed" in refusal(f"sweep={sweep}")


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    first = dataclasses.replace(synthetic_inputs(12, resamples=20), title="<b>")
    names = ("<script>alert(1)</script>", "a|b *c* \x1b[31m")
    folders = [
        write_run(tmp_path / str(at), dataclasses.replace(first, title="<b>"), model=name)
        for at, name in enumerate(names)
    ]
    assert run([*map(str, folders), "--out", str(tmp_path)]) == 0
    page, text = ((tmp_path / f"compare.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    assert not Page(page).all("script") and not Page(page).all("b")[3:] and "\x1b" not in page + text
    assert "a\\|b \\*c\\*" in text


def test_arms_of_lema_are_compared_too(tmp_path: Path) -> None:
    problems = [Problem(f"p{at}", f"q{at}", "1", "#### 1", "arithmetic", "test") for at in range(20)]

    def solved(share: int) -> list[Rollout]:
        return [
            Rollout(f"{one.id}/0", one.id, 0, "t", ("s",), "1", at % 4 < share, "marker", "stop", 3, 3, 0)
            for at, one in enumerate(problems)
        ]

    folders = []
    for seed in (0, 1):
        outcomes = arm_outcomes(problems, {"student": solved(1), "cot": solved(2), "equal_examples": solved(3 + seed)})
        folder = tmp_path / f"seed={seed}"
        folder.mkdir()
        own = {"title": "LeMa", "system": "lema", "seed": seed, "headline": "equal_examples"}
        write_json(folder / "report.json", own | build_arms(outcomes, seed, 20))
        write_rows(folder / "outcomes.parquet", outcomes, Outcome)
        folders.append(folder)
    found = compare(folders, [])
    assert [one["second"][1] for one in found["differences"]] == ["student", "cot"]
    assert found["arms"][0]["selectors"]["cot"]["words"] == arm_words("cot")
    assert found["differences"][1]["estimate"]["value"] == pytest.approx(0.375)
