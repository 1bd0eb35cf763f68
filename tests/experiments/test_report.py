"""The report of a synthetic run: keys, words, pictures, and that the same inputs give the same bytes."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import pytest

from experiments.report.figures import draw_figures
from experiments.report.markdown import copy_report, print_main_table, render_markdown, write_report
from experiments.report.words import AGGREGATE_NAMES, CURVE_NAMES, ERROR_NAMES, first_sentence, opening, versus
from refine.report.build import DIFFERENCES, SELECTORS, build_report
from refine.report.curves import CURVES
from refine.report.example import describe_examples
from refine.report.repairs import ERRORS
from refine.selection import is_control
from rewards.aggregate import AGGREGATES
from rollouts.records import StepLabels, identity
from stages.markdown import code_span, plain
from tests.experiments.synthetic import HOSTILE, only_drafts, synthetic_inputs


def test_a_run_says_which_stages_it_found(report, tmp_path):
    """The report in an artifact is the same for all runs that find it; the one in a run's folder is that run's."""
    made, run = tmp_path / "artifact", tmp_path / "run"
    made.mkdir()
    run.mkdir()
    write_report(made, report, [])
    (made / "outcomes.parquet").write_bytes(b"of each problem")
    assert "reused" not in (made / "report.json").read_text() + (made / "report.md").read_text()
    copy_report(made, run, {"train_policy": False, "sample": True})
    found = json.loads((run / "report.json").read_text())["stages"]
    assert {name: stage["reused"] for name, stage in found.items()} == {"train_policy": False, "sample": True}
    lines = [line.split("|") for line in (run / "report.md").read_text().splitlines()]
    told = {row[1].strip(): row[4].strip() for row in lines if len(row) == 6}
    assert (told["train_policy"], told["sample"]) == ("made", "reused")
    assert (run / "outcomes.parquet").read_bytes() == b"of each problem"
    assert {path.name for path in (run / "figures").iterdir()} == {path.name for path in (made / "figures").iterdir()}


def test_every_stable_key_is_there(report):
    for name in SELECTORS:
        assert set(report["accuracy"][name]) == {"value", "low", "high", "n"}, name
    for a, b in DIFFERENCES:
        found = report["difference"][f"{a}_minus_{b}"]
        values = [report["accuracy"][name]["value"] for name in (a, b)]
        assert found["value"] == pytest.approx(values[0] - values[1], abs=2e-6)
        assert found["low"] <= found["value"] <= found["high"]
    for name in ("step_accuracy", "final_accuracy", "first_error_accuracy", "pairwise_accuracy", "auroc"):
        for scorer in ("orm", "sorm"):
            assert {"value", "low", "high", "n"} <= set(report[name][scorer])
    assert report["difference"]["sorm_minus_orm_step_accuracy"]["low"] > 0
    assert {"global", "local", "either"} <= set(report["fixed"]) and set(report["broken"]) == {
        "global",
        "local",
        "control",
        "shuffled",
    }
    assert report["label_accuracy"]["value"] == 0.941 and report["label_accuracy_strict"]["value"] == 0.972
    assert set(report["errors"]) == set(ERRORS) == set(ERROR_NAMES)
    assert sum(found["value"] for found in report["errors"].values()) == pytest.approx(1, abs=1e-5)
    assert report["stages"]["sample"] == {"seconds": 60.0, "tokens": 456_789}
    assert set(report["ablation"]) == {"none", "orm", "sorm", "oracle"}
    assert report["ablation"]["sorm"]["orm"]["reranked"] == report["accuracy"]["reranked"]
    assert [row["position"] for row in report["step_accuracy_by_position"]["orm"]] == [1, 2, 3, 4, 5]
    assert set(CURVE_NAMES) == set(CURVES) == {*report["curves"], "implicit", "weighted_implicit"}
    assert set(report["aggregation"]["sorm"]) == set(AGGREGATES) == set(AGGREGATE_NAMES)


def test_a_report_says_by_what_score_is_chosen(inputs):
    for how, words in AGGREGATE_NAMES.items():
        text = render_markdown(build_report(dataclasses.replace(inputs, aggregate=how)), [])
        assert f"wherever a choice is made, by {words}." in text


def test_the_papers_row_of_steps_is_there_without_an_oracle(inputs):
    """ORM 73% and SORM 81% are of GSM8K, where nobody but continuations says which step is wrong."""
    candidates = {identity(one): one for one in inputs.candidates}
    labels = [
        StepLabels(f"{key[0]}#0", key[0], candidates[key].steps, all(right), tuple(right), (0,) * len(right),
                   (32,) * len(right), None, (), "posterior at 0.92, exhaustive")
        for key, right in inputs.step_truth.items() if key[1] == "draft"
    ]  # fmt: skip
    assert "as continuations label" not in render_markdown(build_report(inputs), [])
    report = build_report(dataclasses.replace(inputs, step_truth=None, error_kinds=None, test_labels=labels))
    text = render_markdown(report, [])
    (row,) = [line for line in text.splitlines() if line.startswith("| steps judged as continuations label them")]
    assert row.endswith("| 73% (2nd) → 81% (2nd) |") and row.count("%") == 4
    assert "120 test solutions" in text and "up to 32 continuations of a prefix; rule: posterior at 0.92" in text
    assert "On intermediate steps, as continuations label them, the SORM judges" in text
    assert report["difference"]["sorm_minus_orm_labelled_step_accuracy"]["low"] > 0


def test_the_same_inputs_give_the_same_bytes(tmp_path, inputs):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, build_report(inputs), describe_examples(inputs))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert [str(path) for path in files] == [
        "figures/accuracy.png",
        "figures/curves.png",
        "figures/example.png",
        "figures/reliability.png",
        "figures/step_accuracy.png",
        "report.html",
        "report.json",
        "report.md",
    ]
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_the_files_say_what_the_numbers_say(tmp_path, report):
    write_report(tmp_path, report, [])
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"| draft (greedy) | {100 * report['accuracy']['draft']['value']:.1f}% |" in text
    assert "58% (2nd)" in text and "[BAD]" in text
    errors = report["errors"]
    assert f"what goes wrong first in each of {errors['late']['n']} wrong drafts" in text
    for name, words in ERROR_NAMES.items():
        assert f"| {words} | {100 * errors[name]['value']:.1f}% | " in text and len(words) < 60
    assert "where it does, 97.2% of them are right" in text
    for name in ("accuracy", "step_accuracy", "reliability", "example"):
        assert f"(figures/{name}.png)" in text


def test_pictures_are_wide_enough(tmp_path, report):
    write_report(tmp_path, report, [])
    for path in (tmp_path / "figures").iterdir():
        header = path.read_bytes()[:24]
        assert header.startswith(b"\x89PNG") and int.from_bytes(header[16:20], "big") == 1200, path


def test_an_older_picture_does_not_stay_in_a_run_that_is_overwritten(tmp_path, inputs, report):
    for name, numbers in ("rich", report), ("poor", build_report(only_drafts(inputs))):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, numbers, [])
        (tmp_path / name / "outcomes.parquet").touch()
        copy_report(tmp_path / name, tmp_path, {})
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["accuracy.png"]


def test_without_an_oracle_the_report_says_so():
    blind = build_report(synthetic_inputs(30, oracle=False))
    for name in ("step_accuracy", "first_error_accuracy", "step_accuracy_by_position"):
        assert blind[name] == {"orm": None, "sorm": None}
    assert blind["difference"]["sorm_minus_orm_step_accuracy"] is None and blind["label_accuracy"] is None
    assert blind["final_accuracy"]["orm"]["n"] == 120
    text = render_markdown(blind, [])
    assert set(blind["errors"].values()) == {None} and "wrong first" not in text and "one can go back" not in text
    assert "has no oracle" in text and "not be checked" in text and "30 problems are few" in text


def test_a_run_of_drafts_alone_is_reported(inputs):
    poor = build_report(only_drafts(inputs))
    assert poor["accuracy"]["draft"]["n"] == 120 and poor["accuracy"]["reranked"] is None
    assert poor["difference"]["reranked_minus_draft"] is None and poor["fixed"]["either"] is None
    text = render_markdown(poor, [])
    assert "Main finding: none" in text and "Not run, hence empty: global" in text
    print_main_table(poor, _console(io.StringIO()))


def test_the_gates_have_a_table(report, inputs):
    assert "right drafts kept" not in render_markdown(report, [])
    gated = [
        dataclasses.replace(c, when="sorm", kind="draft" if int(c.problem_id[1:]) % 4 else c.kind)
        for c in inputs.choices
        if c.selector in ("global", "reranked", "local", "control", "draft_control")
    ]
    found = build_report(dataclasses.replace(inputs, choices=[*inputs.choices, *gated], when="sorm"))
    assert found["kept"]["sorm"]["all"]["value"] == 0.75
    text = render_markdown(found, [])
    assert "rewrote the drafts that the SORM calls wrong, and the ORM picked" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    shown = {row[0]: row[1:] for row in rows if len(row) == 8}
    kept = [f"{100 * found['kept']['sorm'][name]['value']:.1f}%" for name in ("right", "wrong")]
    assert shown["the drafts that the SORM calls wrong"][:2] == kept and shown["every draft"][:2] == ["–", "–"]


def test_words_and_the_papers_column_follow_n(inputs):
    five = build_report(dataclasses.replace(inputs, samples=5))
    stream = io.StringIO()
    print_main_table(five, _console(stream))
    shown = render_markdown(five, []) + stream.getvalue()
    assert "best of 5 samples, ORM picks" in shown and "majority of 5 samples" in shown
    assert "of 3 samples" not in shown and "58% (2nd)" not in shown
    assert "Best of 5 samples by the same judge" in shown and "from best of 5 samples" in shown


def test_what_was_given_is_named(inputs):
    report = build_report(dataclasses.replace(inputs, given={"orm": "train_reward/0123"}, apart=False))
    text = render_markdown(report, [])
    assert "- Given, not made in this run: orm train_reward/0123." in text
    assert report["given"] == {"orm": "train_reward/0123"}
    assert "not compared with those trained on" in text


def test_words_follow_the_interval():
    def words(value, low, high, n=100):
        return versus({"value": value, "low": low, "high": high, "n": n}, "it")

    assert words(0.12, 0.09, 0.15) == "12.0 points above it (95% interval +9.0 to +15.0)"
    assert words(-0.12, -0.15, -0.09) == "12.0 points below it (95% interval -15.0 to -9.0)"
    for low, high in ((-0.01, 0.03), (0.0, 0.03), (-0.03, 0.0), (0.0, 0.0)):
        assert "not clearly different" in words(0.01, low, high) and "includes zero" in words(0.01, low, high)
    assert words(0.0, 0.0, 0.0) == "no different from it on these problems"
    # a single problem has an interval without width, which proves nothing
    assert "not clearly different" in words(1.0, 1.0, 1.0, n=1) and "only 1 problems" in words(1.0, 1.0, 1.0, n=1)


@pytest.mark.parametrize(
    ("low", "high", "n", "words"),
    [
        (0.02, 0.1, 120, "refining and reranking helped**: right on"),
        (-0.1, -0.02, 120, "refining and reranking did not help**: right on"),
        (-0.1, 0.1, 120, "not shown that refining and reranking help**: right on"),
        (0.0, 0.1, 120, "not shown that refining and reranking help**"),
        (0.5, 1.0, 4, "not shown that refining and reranking help**"),
    ],
)
def test_the_first_sentence_is_about_the_strongest_control(report, low, high, n, words):
    """The draft is far below, but what has to be beaten is the best that does without refining."""
    change = report["difference"]["reranked_minus_strongest_control"] | {
        "value": 0.05,
        "low": low,
        "high": high,
        "n": n,
    }
    accuracy = report["accuracy"] | {"shuffled": {"value": 0.612, "low": 0.5, "high": 0.7, "n": n}}
    changed = report | {
        "accuracy": accuracy,
        "strongest_control": "shuffled",
        "difference": report["difference"] | {"reranked_minus_strongest_control": change},
    }
    first = first_sentence(changed)
    assert render_markdown(changed, []).split("\n\n")[1].startswith(f"{first} On 120")
    assert first.startswith(f"**Main finding: {words}")
    assert "against 61.2% by the strongest control, shuffled refiner (another's draft); the difference is" in first
    span = f"+5.0 points (95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    assert first.endswith(f"{span}{', from only 4 problems' if n == 4 else ''}).")
    stream = io.StringIO()
    print_main_table(changed, _console(stream))
    lines = stream.getvalue().splitlines()
    shown = " ".join(" ".join(lines).split())
    assert first.replace("**", "") in shown and max(map(len, lines)) <= 80


def test_the_strongest_control_is_the_best_that_does_without_the_refiners(report):
    without = {name for name in SELECTORS if is_control(name)}
    assert without == {
        *("draft", "control", "draft_control", "shuffled", "draft_shuffled", "best_of_n", "best_of_n_with_draft"),
        *("best_of_n_equal_tokens", "majority_of_n", "weighted_of_n", "beam"),
    }
    name = report["strongest_control"]
    best = max(report["accuracy"][one]["value"] for one in without)
    assert name in without and report["accuracy"][name]["value"] == best
    change = report["difference"]["reranked_minus_strongest_control"]
    assert change["value"] == pytest.approx(report["accuracy"]["reranked"]["value"] - best, abs=2e-6)
    assert {"low", "high", "mcnemar_p"} < change.keys()


def test_an_oracle_in_the_headline_is_admitted(inputs, report):
    words = "helped by an oracle, which nobody has"
    assert words not in render_markdown(report, [])
    assert words in render_markdown(report | {"headline": report["headline"] | {"when": "oracle"}}, [])
    assert words in render_markdown(build_report(dataclasses.replace(inputs, where="oracle")), [])


def test_both_controls_are_told(report):
    text = " ".join(opening(report))
    for name, trained in (("control", "without a draft"), ("shuffled", "on the drafts of other problems")):
        right = f"{100 * report['accuracy'][name]['value']:.1f}%"
        assert f"trained on the same targets {trained}, is right on {right}: global refinement is" in text


def _console(stream: io.StringIO):
    from rich.console import Console

    return Console(file=stream, width=80, force_terminal=False)


def test_the_table_fits_80_columns(report):
    stream = io.StringIO()
    print_main_table(report, _console(stream))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.strip().startswith("draft + global + local, ORM picks"))
    assert "65%" in row and f"{100 * report['accuracy']['reranked']['value']:.1f}%" in row


def test_the_example_is_a_mended_wrong_draft(report):
    example = report["example"]
    assert not example["solutions"]["draft"]["correct"] and example["correct"]
    assert example["located_error"] == example["true_error"] > 0
    assert example["solutions"]["global"]["correct"] and example["solutions"]["local"]["correct"]


def test_hostile_texts_break_neither_page_nor_picture(tmp_path, inputs, report):
    steps = [HOSTILE + "w" * 400, "x" * 10**6, *(f"step {i} is $\\frac$" for i in range(100))]
    solution = {"steps": steps, "answer": None, "correct": False, "sorm": [0.5] * 102, "score": None}
    example = report["example"] | {
        "problem_id": f"`{HOSTILE}`",
        "question": HOSTILE + "\n\n" + HOSTILE,
        "solutions": {"draft": solution, "global": solution | {"sorm": None, "steps": []}, "local": None},
        "located_error": 0,
        "true_error": 3,
        "chosen": "draft",
        "correct": False,
    }
    named = {"title": HOSTILE, "model": HOSTILE, "source": HOSTILE}
    page = render_markdown(report | named | {"example": example}, ["example"])
    page.encode()  # no lone surrogate is left
    assert all(line.isprintable() for line in page.split("\n")) and len(page) < 30_000
    assert "````text" in page and "… 52 more steps" in page and "(1,000,000 characters)" in page and "😀" in page
    title, _, opened = page.partition("\n\n")
    assert title.startswith(r"# costs \$5 | \$x\_{1}^ \`\`\` \~\~\~ \\x00\\x1b\[31m\\u202e\\u2028 \<b\> 😀 \*漢字\*")
    assert r" \_x\_ \[a\](b) \&lt; \\ud83d" in title and opened.count(title[2:]) == 2
    (mentioned,) = re.findall("Problem (````? .*? ````?):", page)
    assert mentioned.startswith("```` `costs") and mentioned.endswith("` ````")
    draw_figures(tmp_path, report | named | {"example": example})
    assert (tmp_path / "example.png").stat().st_size > 10_000
    stream = io.StringIO()
    print_main_table(report | named, _console(stream))
    assert all(line.isprintable() for line in stream.getvalue().split("\n")) and "😀" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "span"),
    [("p1", "`p1`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a``", "``` a`` ```"), ("", "`   `"), (" a ", "`a`")],
)
def test_any_text_is_a_code_span(text, span):
    assert code_span(text) == span


def test_names_within_a_sentence_stay_readable():
    assert plain("Qwen/Qwen2.5_0.5B-x") == "Qwen/Qwen2.5_0.5B-x" and plain("_a_b_") == r"\_a_b\_"
