"""The page of a synthetic run, read without a browser: it asks for nothing outside, texts stay texts, numbers agree."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import pytest

from experiments.report.browser import GROUPS, browser_json
from experiments.report.markdown import copy_report, print_main_table, render_markdown, write_report
from experiments.report.page import render_page
from experiments.report.plots import page_plots
from experiments.report.words import first_sentence, percent, selector_names, versus
from refine.report.build import build_report
from refine.report.example import describe_examples
from tests.experiments.synthetic import HOSTILE, only_drafts, synthetic_inputs

SCRIPTS = "</script><script>alert(1)</script><!--<script> <img src=x onerror=alert(1)> &lt; ]]> {{ 7*7 }} ${7*7}"
VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text), in the order in which they begin."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[list] = []
        self.open: list[list] = []
        self.feed(text)
        assert not self.open, [tag for tag, *_ in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag: str) -> list[list]:
        return [element for element in self.elements if element[0] == tag]

    def text(self, name: str) -> str:
        (found,) = [text for _, attributes, text in self.elements if attributes.get("id") == name]
        return found

    def data(self) -> dict:
        return json.loads(self.text("data"))


@pytest.fixture(scope="module")
def examples(inputs) -> list[dict]:
    return describe_examples(inputs)


@pytest.fixture(scope="module")
def page(report, examples) -> Page:
    return Page(render_page(report, examples))


def test_the_page_asks_for_nothing_outside(page):
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), (tag, attributes)
    (style,), (*_, script) = page.all("style"), page.all("script")
    for text in (style[2], script[2]):
        assert not re.search(r"@import|url\(|https?:|fetch|XMLHttp|WebSocket|innerHTML|eval|document\.write", text)
    policy = page.all("meta")[1][1]["content"].split("; ")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style[2], script[2])]
    assert policy[:3] == ["default-src 'none'", f"style-src 'sha256-{hashes[0]}'", f"script-src 'sha256-{hashes[1]}'"]


def test_the_page_says_what_the_report_says(page, report, examples):
    told = first_sentence(report).replace("**", "")
    assert page.text("verdict") == told
    markdown, stream = render_markdown(report, []), io.StringIO()
    assert markdown.split("\n\n")[1].replace("**", "").startswith(told)
    from rich.console import Console

    print_main_table(report, Console(file=stream, width=400))
    assert told in stream.getvalue()
    # the tables are those of report.md, cell by cell
    cells = [text for tag, _, text in page.elements if tag in ("td", "th")]
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    written = [cell.replace("\\", "").strip() for row in rows if not set("".join(row)) <= set("-: ") for cell in row]
    assert len(cells) > 200 and cells == written
    for name, words in selector_names(report).items():
        at = cells.index(words)
        assert cells[at + 1] == percent(report["accuracy"][name])


def test_the_filter_counts_what_the_report_counts(page, report, examples):
    counts = {}
    for _, attributes, text in page.all("option"):
        words, number = text[:-1].rsplit(" (", 1)
        assert words == GROUPS[attributes["value"]]
        counts[attributes["value"]] = int(number.replace(",", ""))
    assert counts["all"] == report["problems"] == 120 and list(counts) == list(GROUPS)

    def number(found: dict) -> int:
        return round(found["value"] * found["n"])

    fixed, broken = report["fixed"], report["broken"]
    assert counts["wrong"] == fixed["either"]["n"]
    for group, name in (("fixed_global", "global"), ("fixed_local", "local"), ("fixed_both", "both")):
        assert counts[group] == number(fixed[name]) > 0
    assert counts["fixed_none"] == counts["wrong"] - number(fixed["either"]) > 0
    assert counts["broken_global"] == number(broken["global"]) > 0
    assert counts["broken_local"] == number(broken["local"])
    missed = report["accuracy"]["oracle"]["value"] - report["accuracy"]["reranked"]["value"]
    assert counts["judge_wrong"] == round(missed * 120) > 0
    for name in GROUPS:
        assert counts[name] == sum(name in one["groups"] for one in page.data()["examples"])


def test_every_problem_is_in_the_browser(page, inputs, examples):
    data = page.data()
    assert data["cut"] is None and [one["id"] for one in data["examples"]] == [p.id for p in inputs.problems]
    candidates = {(c.problem_id, c.kind, c.where): c for c in inputs.candidates if c.sample == 0}
    judged = {(j.problem_id, j.kind, j.where, j.scorer): j.probabilities for j in inputs.judgements if j.sample == 0}
    choices = {
        c.problem_id: c for c in inputs.choices if (c.selector, c.scorer, c.where) == ("reranked", "orm", "sorm")
    }
    for shown, problem in zip(data["examples"], inputs.problems, strict=True):
        assert shown["question"] == problem.question and shown["chosen"] == choices[problem.id].kind
        for kind, where in (("draft", "none"), ("global", "none"), ("local", "sorm")):
            key, one = (problem.id, kind, where), shown["solutions"][kind]
            if key not in candidates:
                assert one is None
                continue
            assert tuple(one["steps"]) == candidates[key].steps and one["correct"] is candidates[key].correct
            for scorer in ("orm", "sorm"):
                assert one[scorer] == [round(score, 2) for score in judged[*key, scorer]]


def test_a_draft_that_a_gate_kept_is_not_the_judges_fault(inputs):
    kept = {p.id for p in inputs.problems[::3]}
    choices = [dataclasses.replace(c, when="sorm", offered=3) for c in inputs.choices if c.selector == "reranked"]
    drafts = {c.problem_id: c for c in inputs.candidates if c.kind == "draft"}
    choices = [
        dataclasses.replace(c, kind="draft", correct=drafts[c.problem_id].correct, offered=1)
        if c.problem_id in kept
        else c
        for c in choices
    ]
    found = describe_examples(dataclasses.replace(inputs, choices=[*inputs.choices, *choices], when="sorm"))
    assert {one["problem_id"] for one in found if one["kept_by"] == "sorm"} == kept
    shown = json.loads(browser_json(found))["examples"]
    for one in shown:
        if one["id"] in kept:
            assert "judge_wrong" not in one["groups"] and "picked" not in one["summary"]
            assert one["summary"].endswith("The gate refines the drafts that the SORM calls wrong, and kept it.")
    assert any("judge_wrong" in one["groups"] for one in shown)


def hostile(example: dict) -> dict:
    steps = [SCRIPTS, HOSTILE, "x" * 10**6, *["y"] * 1000]
    solution = {"steps": steps, "answer": None, "correct": False, "score": 0.5, "orm": [0.5] * 1003, "sorm": None}
    named = {"problem_id": SCRIPTS + HOSTILE, "question": SCRIPTS + "\n" + HOSTILE, "answer": SCRIPTS}
    return example | named | {"solutions": {"draft": solution, "global": solution | {"steps": []}, "local": None}}


def test_hostile_texts_change_nothing(report, examples, page):
    named = dict.fromkeys(("title", "model", "source"), SCRIPTS + HOSTILE)
    stages = {SCRIPTS + HOSTILE: {"seconds": 1.0, "tokens": 1}}
    notes = [f"Given: {SCRIPTS}{HOSTILE}"]
    text = render_page(report | named | {"stages": stages, "notes": notes}, [hostile(examples[0]), *examples[1:]])
    assert len(text.encode()) < 1_000_000  # no lone surrogate is left, nor the million characters
    assert all(line.isprintable() for line in text.split("\n")) and "\x1b" not in text
    other = Page(text)
    for tag in ("script", "img", "b", "section", "style", "form"):
        assert len(other.all(tag)) == len(page.all(tag)), tag
    assert other.all("h1")[0][2].startswith("</script><script>alert(1)") and "49" not in other.all("h1")[0][2]
    shown = other.data()["examples"][0]
    assert (
        shown["question"].startswith(SCRIPTS + "\ncosts $5") and r"\x00\x1b[31m\u202e\u2028 <b> 😀" in shown["question"]
    )
    draft = shown["solutions"]["draft"]
    assert draft["steps"][0] == SCRIPTS and draft["steps"][2].endswith("… (1,000,000 characters)")
    assert draft["more"] == 1000 and len(draft["orm"]) == len(draft["steps"]) == 3
    cut = other.data()["cut"]
    assert cut == 10_000 and "cut here: a question and a solution to 10,000 characters" in other.text("examples")
    assert other.data()["examples"][1:] == page.data()["examples"][1:]


def test_hostile_names_are_no_markup_in_report_md(report):
    stages = {"a|b *c* <img src=x>": {"seconds": 1.0, "tokens": 1}}
    text = render_markdown(report | {"stages": stages, "notes": ["Given: orm <script>*x*\x1b[31m\nnew"]}, [])
    assert "| a\\|b \\*c\\* \\<img src=x\\> | 1.0 | 1 |" in text
    assert "- Given: orm \\<script\\>\\*x\\*\\\\x1b\\[31m; new\n" in text


@pytest.mark.parametrize("text", ["twelve + thirty = 42 and nothing is cut.", "<\x00😀" * 1000], ids=["usual", "worst"])
def test_a_thousand_problems_are_under_five_megabytes(report, examples, text):
    """Also where everything is long, and of characters that take most room."""
    solution = examples[0]["solutions"]["draft"] | {
        "steps": [text] * 6,
        "sorm": [0.123] * 6,
        "orm": [0.123] * 6,
    }
    many = [
        example
        | {"problem_id": f"p{at}", "question": text}
        | {"solutions": dict.fromkeys(("draft", "global", "local"), solution)}
        for at, example in enumerate((examples * 9)[:1000])
    ]
    page = render_page(report, many)
    assert len(page.encode()) < 5_000_000
    found = Page(page).data()
    assert len(found["examples"]) == 1000 and found["cut"] == (None if len(text) < 100 else 100)
    assert len(found["examples"][0]["solutions"]["local"]["steps"]) == (6 if len(text) < 100 else 1)


def test_a_run_of_drafts_alone_has_a_page(inputs):
    poor = only_drafts(inputs)
    page = Page(render_page(build_report(poor), describe_examples(poor)))
    assert page.text("verdict").startswith("Main finding: none, since") and len(page.data()["examples"]) == 120
    assert page.data()["examples"][0]["chosen"] is None and len(page.all("figure")) == 2


def test_a_run_says_in_its_page_what_it_found(tmp_path, inputs, report, examples):
    made, run = tmp_path / "artifact", tmp_path / "run"
    made.mkdir()
    run.mkdir()
    write_report(made, report, examples)
    (made / "outcomes.parquet").touch()
    copy_report(made, run, {"train_policy": False})
    before, after = (Page((folder / "report.html").read_text(encoding="utf-8")) for folder in (made, run))
    assert after.data() == before.data() and after.text("verdict") == before.text("verdict")
    told = {folder: [text for _, _, text in page.all("td")] for folder, page in (("made", before), ("run", after))}
    assert not {"made", "reused"} & set(told["made"]) and told["run"].count("made") == told["run"].count("reused") == 1


def test_plots_stand_where_the_numbers_are(report):
    plots = page_plots(report)
    for plot in (one for found in plots.values() for one in found):
        places = [(mark.x, mark.y) for mark in plot.marks]
        for curve in getattr(plot, "curves", []):
            places += [point[:2] for point in curve.points]
        assert places and all(0 <= x <= 340 and 0 <= y <= plot.height for x, y in places), plot.title
        labels = [mark.label for mark in plot.marks if mark.number]
        assert len(set(labels)) == len(labels)
    (accuracy,), (differences,) = plots["accuracy"], plots["differences"]
    values = [report["accuracy"][name]["value"] for name in selector_names(report)]
    for mark, value in zip(accuracy.marks, values, strict=True):
        assert mark.x == pytest.approx(14 + 312 * value, abs=0.06) and mark.low <= mark.x <= mark.high
    found = [
        words
        for names, words in differences.names
        if names == ["draft + global + local, ORM picks", "− draft (greedy)"]
    ]
    assert found == [f"{100 * report['difference']['reranked_minus_draft']['value']:+.1f}"]
    (positions,) = plots["step_accuracy"]
    assert [curve.name for curve in positions.curves] == ["ORM", "SORM"]
    assert [y for _, y, _ in positions.curves[1].points] == [
        pytest.approx(174 - 162 * row["value"], abs=0.06) for row in report["step_accuracy_by_position"]["sorm"]
    ]


def test_an_implicit_reward_model_has_its_place_wherever_the_others_have():
    inputs = synthetic_inputs(60, resamples=20, implicit=True)
    report, examples = build_report(inputs), describe_examples(inputs)
    page, plots = Page(render_page(report, examples)), page_plots(report)
    judged = {(one.problem_id, one.kind): one.probabilities for one in inputs.judgements if one.scorer == "implicit"}
    for one in page.data()["examples"]:
        assert one["solutions"]["draft"]["implicit"] == [round(p, 2) for p in judged[one["id"], "draft"]]
    for name in ("step_accuracy", "reliability"):
        for plot in plots[name]:
            assert [curve.name for curve in plot.curves] == ["ORM", "SORM", "implicit"]
    (positions,), (curves,) = plots["step_accuracy"], plots["curves"]
    first = [curve.points[0][0] for curve in positions.curves]
    assert len(set(first)) == 3 and sum(first) / 3 == pytest.approx(42 + 288 * 0.5 / 5, abs=0.1)  # side by side
    assert {curve.style for curve in curves.curves} >= {"implicit", "implicit vote"}
    (style,) = page.all("style")
    assert ".implicit { color: var(--purple); }" in style[2] and style[2].count("--purple: ") == 2
    headers = [text for tag, _, text in page.elements if tag == "th"]
    wanted = ("implicit, best of 3", "best, implicit", "read, implicit", "implicit")
    assert all(header in headers for header in wanted)
    change = report["difference"]["sorm_minus_implicit_step_accuracy"]
    assert f"rightly: the SORM is {versus(change, 'it')}." in page.text("opening")


def test_the_labels_cost_is_told(report, examples):
    stages = {"labels": {"seconds": 12.0, "tokens": 5000}}
    words = (
        "The step labels cost 5,000 tokens of continuations and 12.0 seconds: 5.0 tokens for each of the 1,000 labels"
    )
    assert words in Page(render_page(report | {"stages": stages}, examples)).text("cost")
    assert words in render_markdown(report | {"stages": stages}, [])
    assert "The step labels cost" not in render_markdown(report, [])
