"""The report of a synthetic run: keys, words, pictures, and that the same inputs give the same bytes."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import random
import re

import pytest

from experiments.report.figures import draw_figures
from experiments.report.markdown import copy_report, print_main_table, render_markdown, write_report
from experiments.report.words import ERROR_NAMES, code_span, first_sentence, opening, plain, versus
from refine.report.build import DIFFERENCES, SELECTORS, build_report
from refine.report.example import describe_examples
from refine.report.inputs import ReportInputs
from refine.report.repairs import ERRORS
from refine.selection import is_control
from rollouts.records import Candidate, Choice, Judgement, Problem

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")


def synthetic_inputs(problems: int = 120, seed: int = 1, resamples: int = 500, oracle: bool = True) -> ReportInputs:
    """A made-up run whose drafts are right about half the time, and whose judges know something."""
    rng = random.Random(seed)
    made = [_problem(i, rng) for i in range(problems)]
    candidates, judgements, choices, truth, kinds = [], [], [], {}, {}
    for problem, gold in made:
        mine, rights = _solve(problem, gold, rng)
        offers = {}
        for candidate in mine:
            key = (candidate.problem_id, candidate.kind, candidate.where, candidate.sample)
            right = rights[key]
            if candidate.kind in ("draft", "sample"):
                truth[key] = right
            if candidate.kind == "draft" and not candidate.correct:
                kinds[key] = ERRORS[len(kinds) % len(ERRORS)]
            for scorer, noise in (("orm", 0.22), ("sorm", 0.12)):
                judgements.append(Judgement(*key, scorer, _scores(right, noise, scorer, rng)))
            offers[key[1:]] = candidate, judgements[-2].probabilities[-1], judgements[-1].probabilities[-1]
        candidates += mine
        choices += _choose(problem, offers, rng)
    return ReportInputs(
        title="GLoRe on a synthetic run",
        model="a made-up student",
        source="arithmetic",
        seed=seed,
        problems=[problem for problem, _ in made],
        candidates=candidates,
        judgements=judgements,
        choices=choices,
        thresholds={"orm": 0.5, "sorm": 0.55},
        step_truth=truth if oracle else None,
        error_kinds=kinds if oracle else None,
        label_truth={f"t{i}": (10 - (i < 59), 10) for i in range(100)} if oracle else None,
        strict_label_truth={f"t{i}": (10 - (i < 28), 10) for i in range(100)} if oracle else None,
        stages={
            "train_policy": {"seconds": 181.2, "tokens": 8_123_456},
            "sample": {"seconds": 60.0, "tokens": 456_789},
        },
        resamples=resamples,
    )


def _problem(index: int, rng: random.Random) -> tuple[Problem, list[str]]:
    names = rng.sample(NAMES, rng.randint(4, 6))
    value, facts, gold = rng.randint(3, 20), [], []
    facts.append(f"{names[0]} has {value} shells.")
    for before, name in itertools.pairwise(names):
        more = rng.randint(2, 9)
        facts.append(f"{name} has {more} more shells than {before}.")
        gold.append(f"{name} has {value} + {more} = <<{value}+{more}={value + more}>>{value + more} shells.")
        value += more
    rng.shuffle(facts)
    question = f"{' '.join(facts)} How many shells does {names[-1]} have?"
    gold.append(f"#### {value}")
    return Problem(f"p{index:04d}", question, str(value), "\n".join(gold), "arithmetic", "test"), gold


def _attempt(gold: list[str], error: int | None, rng: random.Random) -> tuple[tuple[str, ...], list[bool]]:
    steps = list(gold)
    if error is not None:
        slip = rng.randint(1, 3)
        for at in range(error, len(steps)):
            head, _, tail = steps[at].rpartition("=")
            steps[at] = f"#### {int(steps[at][5:]) + slip}" if not head else f"{head}={tail[:-1]} (+{slip})."
    return tuple(steps), [error is None or at < error for at in range(len(gold))]


def _solve(problem: Problem, gold: list[str], rng: random.Random) -> tuple[list[Candidate], dict]:
    made, rights = [], {}

    def add(kind: str, where: str, sample: int, error: int | None, told: int | None = None) -> None:
        steps, right = _attempt(gold, error, rng)
        text = "\n".join(steps)
        tokens = len(text) // 3
        made.append(Candidate(problem.id, kind, where, told, sample, text, steps, steps[-1][5:], error is None, tokens))
        rights[problem.id, kind, where, sample] = right

    def slip(chance: float) -> int | None:
        return rng.randrange(len(gold) - 1) if rng.random() < chance else None

    draft = slip(0.5)
    add("draft", "none", 0, draft)
    for sample in range(3):
        add("sample", "none", sample, slip(0.55))
    add("global", "none", 0, slip(0.6) if draft is not None else slip(0.1))
    add("control", "none", 0, slip(0.48))
    add("shuffled", "none", 0, slip(0.5))
    for where in ("none", "orm", "sorm", "oracle"):
        if draft is not None or where == "none":
            add("local", where, 0, slip(0.6) if draft is not None else slip(0.1), draft)
    return made, rights


def _scores(right: list[bool], noise: float, scorer: str, rng: random.Random) -> tuple[float, ...]:
    final = all(right)
    means = [0.85 if good else 0.2 for good in right]
    if scorer == "orm":
        means = [0.55 + 0.3 * final * at / len(right) if good else 0.3 for at, good in enumerate(right)]
    return tuple(round(min(1.0, max(0.0, rng.gauss(mean, noise))), 4) for mean in means)


def _choose(problem: Problem, offers: dict, rng: random.Random) -> list[Choice]:
    choices = []

    def add(selector: str, scorer: str, where: str, keys: list) -> None:
        keys = [key for key in keys if key in offers] or [("draft", "none", 0)]
        if scorer == "none":
            best = rng.choice(keys)
            if selector == "oracle":
                best = max(keys, key=lambda key: offers[key][0].correct)
        else:
            best = max(keys, key=lambda key: offers[key][1 if scorer == "orm" else 2])
        tokens = sum(offers[key][0].completion_tokens for key in keys)
        chosen = offers[best][0]
        choices.append(
            Choice(problem.id, selector, scorer, where, best[0], best[2], chosen.answer, chosen.correct, tokens)
        )

    draft, whole, control, shuffled = ((kind, "none", 0) for kind in ("draft", "global", "control", "shuffled"))
    samples = [("sample", "none", sample) for sample in range(3)]
    for selector, keys in (("draft", [draft]), ("global", [whole]), ("control", [control]), ("shuffled", [shuffled])):
        add(selector, "none", "none", keys)
    add("majority_of_n", "none", "none", samples)
    for scorer in ("orm", "sorm"):
        add("draft_global", scorer, "none", [draft, whole])
        add("best_of_n", scorer, "none", samples)
        add("weighted_of_n", scorer, "none", samples)
        add("draft_control", scorer, "none", [draft, control])
        add("draft_shuffled", scorer, "none", [draft, shuffled])
        add("best_of_n_with_draft", scorer, "none", [draft, *samples[:2]])
    for where in ("none", "orm", "sorm", "oracle"):
        local = ("local", where, 0)
        add("local", "none", where, [local])
        add("random", "none", where, [draft, whole, local])
        add("oracle", "none", where, [draft, whole, local])
        for scorer in ("orm", "sorm"):
            add("draft_local", scorer, where, [draft, local])
            add("reranked", scorer, where, [draft, whole, local])
            add("best_of_n_equal_tokens", scorer, where, samples)
    return choices


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return synthetic_inputs()


@pytest.fixture(scope="module")
def report(inputs) -> dict:
    return build_report(inputs)


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


def only_drafts(inputs: ReportInputs) -> ReportInputs:
    """The poorest run that still can be reported: drafts, nothing judged, nothing refined."""
    return dataclasses.replace(
        inputs,
        candidates=[candidate for candidate in inputs.candidates if candidate.kind == "draft"],
        choices=[choice for choice in inputs.choices if choice.selector == "draft"],
        judgements=[],
        thresholds={},
        stages={},
        step_truth=None,
        error_kinds=None,
        label_truth=None,
        strict_label_truth=None,
    )


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


def test_the_same_inputs_give_the_same_bytes(tmp_path, inputs):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, build_report(inputs), describe_examples(inputs))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert [str(path) for path in files] == [
        "figures/accuracy.png",
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
        *("best_of_n_equal_tokens", "majority_of_n", "weighted_of_n"),
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


HOSTILE = "costs $5 | $x_{1}^ ``` ~~~ \x00\x1b[31m\u202e\u2028 <b> 😀 *漢字* \\frac{ ` _x_ [a](b) &lt; \ud83d"


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
