"""The audit of step labels: against values that are known, by hand, and as a stage and a command on a script."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from experiments.audit_labels import main, make_table
from rewards.labels.audit import (
    AUDIT_LABELS,
    AuditArgs,
    Audited,
    AuditError,
    as_rollout,
    compare,
    doubt_reference,
    draw_solutions,
    exact_interval,
    find_first,
    measure,
    rate_of_sums,
)
from rewards.labels.labeller import Labeller
from rewards.labels.prefixes import open_prefixes
from rewards.labels.search import SearchArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs
from rewards.labels.traces import Trace
from rollouts.records import StepLabels
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import sample_seed
from rollouts.sampling.sample import SampleArgs
from stages.artifacts import open_artifact
from stages.make import make
from stages.stage import Stage
from tests.rewards.labels.simulator import SimArgs, SimulatedPolicy, first_wrong
from tests.tiny import problem, rollout


def label_all(labeller: Labeller, sim: SimulatedPolicy, seed: int) -> list[StepLabels]:
    while wanted := labeller.wave():
        for (name, steps), number in wanted.items():
            at = labeller.known.found[name, steps].sampled
            texts = [
                sim.continue_(int(name.split("/")[1]), steps, sample_seed(seed, f"{name}{steps}", at + i))
                for i in range(number)
            ]
            labeller.add((name, steps), [Trace(tuple(text), text[-1] == "#### 1") for text in texts])
    return labeller.label()


def true_rates(rows) -> dict[str, float]:
    """The share of labels and of first errors that are wrong, of all solutions."""
    wrong = labels = missed = 0
    for row in rows:
        first, size = first_wrong(row.steps), open_prefixes(row.steps)
        first = size if first is None else first
        wrong += sum(label != (i < first) for i, label in enumerate(row.labels[:size]))
        labels, missed = labels + size, missed + (find_first(row.labels) != first)
    return {"label_error": wrong / labels, "first_error": missed / len(rows)}


@pytest.mark.parametrize(
    ("search", "worst", "best"),
    [(SearchArgs(), 0.15, 0.0), (SearchArgs("exhaustive", "any", 8), 1.0, 0.4)],
    ids=["posterior", "any of 8"],
)
def test_the_interval_covers_the_true_rate(search, worst, best):
    """At 4% recovery any of 8 right continuations is a bad sign of a right prefix, and the audit says so."""
    covered = {"label_error": 0, "first_error": 0}
    for seed in range(20):
        sim = SimulatedPolicy(SimArgs(problems=100, samples=3, seed=seed))
        wrong = [rollout for rollout in sim.rollouts() if not rollout.correct]
        rows = label_all(Labeller(wrong, search, False), sim, seed)
        drawn = draw_solutions(rows, 80, seed)
        reference = Labeller([as_rollout(row) for row in drawn], AuditArgs("l", "p").search({}), False)
        rates, true = measure(compare(drawn, label_all(reference, sim, seed + 1000))), true_rates(rows)
        for name in covered:
            covered[name] += rates[name].low <= true[name] <= rates[name].high
        assert best <= rates["first_error"].errors / rates["first_error"].n <= worst
    assert min(covered.values()) >= 18, covered


def audited(labels, reference, confidences=None) -> Audited:
    size = len(labels)
    sure = confidences or (1.0,) * size
    return Audited("p#0", "p", ("a",) * (size - 1) + ("#### 1",), labels, reference, (0,) * size, (0,) * size, sure)


def test_rates_by_hand():
    rows = [
        audited((True, True, False, False), (True, False, False, False), (0.9, 0.8, 1.0, 1.0)),  # too late
        audited((False, False), (True, False), (0.7, 1.0)),  # too soon
        audited((True, None, False), (True, False, False), (1.0, 0.6, 1.0)),  # not known where
        audited((True, False), (True, False)),
    ]
    rates = measure(rows)
    found = {name: (rate.errors, rate.n) for name, rate in rates.items()}
    # what follows the answer line is no label that could be wrong
    assert found == {
        "label_error": (2, 6),
        "called_negative": (1, 4),
        "called_positive": (1, 2),
        "first_error": (2, 3),
        "first_early": (1, 3),
        "first_late": (1, 3),
    }
    assert all(rate.low <= rate.errors / rate.n <= rate.high for rate in rates.values())
    doubt = doubt_reference(rows)
    assert doubt["reference_label_error"] == pytest.approx((0.1 + 0.2 + 0.3) / 6)
    # P(first is place 1) = P(place 0 positive) + P(place 1 negative) - 1
    assert doubt["reference_first_error"] == pytest.approx((0.3 + 0.3 + 0.4 + 0.0) / 4)
    assert measure([]) == {} == doubt_reference([])


def test_intervals():
    assert exact_interval(3, 20) == pytest.approx((0.03207, 0.37893), abs=1e-5)
    assert exact_interval(0, 10) == pytest.approx((0.0, 0.30850), abs=1e-5)
    # one label each is the plain exact interval, and labels that stand and fall together count once
    alone = rate_of_sums([(1, 1)] * 3 + [(0, 1)] * 17)
    together = rate_of_sums([(5, 5)] * 3 + [(0, 5)] * 17)
    assert (alone.errors, alone.n, together.errors, together.n) == (3, 20, 15, 100)
    assert (alone.low, alone.high) == pytest.approx(exact_interval(3, 20), abs=0.01)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert rate_of_sums([(0, 5)] * 20).high == pytest.approx(exact_interval(0, 20)[1])
    assert rate_of_sums([(5, 5)] * 20).low == pytest.approx(exact_interval(20, 20)[0])


def labels_of(name: str, steps, correct=False, labels=None) -> StepLabels:
    labels = (False,) * len(steps) if labels is None else labels
    return StepLabels(name, "p", tuple(steps), correct, labels, (0,) * len(steps), (0,) * len(steps), None, ())


def test_wrong_solutions_are_drawn():
    rows = [labels_of(f"{i}", ["a", f"#### {i}"], correct=i % 2 == 0) for i in range(40)]
    drawn = draw_solutions(rows, 10, 1)
    assert drawn == draw_solutions(rows, 10, 1) != draw_solutions(rows, 10, 2)
    assert len(drawn) == 10 and not any(row.correct for row in drawn) and drawn == sorted(drawn, key=rows.index)
    assert len(draw_solutions(rows, 100, 1)) == 20
    nothing = [labels_of("x", ["#### 1"]), labels_of("y", ["a"], labels=(None,)), labels_of("z", ["a"], True)]
    with pytest.raises(AuditError, match="none of the 3 solutions is wrong"):
        draw_solutions(nothing, 5, 0)


@pytest.mark.parametrize(
    ("name", "value"), [("solutions", 0), ("rule", "all"), ("continuations", 0), ("threshold", 0.0)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        AuditArgs("l", "p", **{name: value}).validate()
    with pytest.raises(ValueError, match="greedy"):
        AuditArgs("l", "p", sampler=SamplerArgs(temperature=0.0)).validate()
    AuditArgs("l", "p").validate()


def test_what_is_not_given_is_that_of_the_labels():
    assert AuditArgs("l", "p").search({"threshold": 0.3}).threshold == 0.3
    assert AuditArgs("l", "p", threshold=0.2).search({"threshold": 0.3}).threshold == 0.2
    assert AuditArgs("l", "p").search({}).continuations == 32


@pytest.fixture
def labelled(tmp_path):
    """Labels by one continuation of each prefix; the script has wrong ones first, and right ones later."""

    def write(args: SampleArgs, work) -> None:
        work.write_rows("problems", [problem()])
        texts = [("<<7+5=12>>12\n<<12+0=12>>12\n#### 12", True), ("<<7+5=12>>12\n<<12+1=13>>13\n#### 13", False)]
        work.write_rows("rows", [rollout(text.split("\n"), right, i) for i, (text, right) in enumerate(texts)])

    (tmp_path / "policy").mkdir()
    policy = str(tmp_path / "policy")
    (tmp_path / "policy" / "script.json").write_text(json.dumps({"*": ["#### 9", "#### 12", "#### 12", "#### 12"]}))
    made, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy), tmp_path / "artifacts")
    sampler = SamplerArgs(backend="scripted", max_tokens=9)
    args = LabelArgs(
        rollouts=str(made.path), policy=policy, sampler=sampler, search="exhaustive", rule="any", continuations=1
    )
    labels, _ = make(LABEL_STEPS, args, tmp_path / "artifacts")
    assert labels.rows(StepLabels)[1].labels == (False, False, False)
    return labels.path, policy


def test_the_stage_on_a_script(labelled, tmp_path):
    labels, policy = labelled
    sampler = SamplerArgs(backend="scripted", max_tokens=9)
    args = AuditArgs(str(labels), policy, sampler, continuations=8, rule="any")
    artifact, _ = make(AUDIT_LABELS, args, tmp_path / "artifacts")
    (row,) = artifact.rows(Audited)
    # 12 is the result of the first step only: no continuation vouches for the second
    assert row.labels == (False, False, False) and row.reference == (True, False, False)
    assert row.trials == (8, 8, 0) and row.successes == (6, 0, 0)
    counts = artifact.manifest["counts"]
    assert (counts["solutions"], counts["wrong_solutions"], counts["continuations"]) == (1, 1, 16)
    assert (counts["label_error"], counts["called_negative"], counts["first_early"]) == (0.5, 1.0, 1.0)
    assert counts["not_decided"] == 0 and artifact.manifest["tokens"] == 32
    assert "differs" not in artifact.manifest["notes"]
    other, _ = make(
        AUDIT_LABELS,
        AuditArgs(str(labels), policy, SamplerArgs(backend="scripted", max_tokens=8), continuations=8, rule="any"),
        tmp_path / "artifacts",
    )
    assert "sampler.max_tokens=9 and not 8" in other.manifest["notes"]["differs"]


def test_the_command(labelled, tmp_path, monkeypatch, capsys):
    labels, policy = labelled
    argv = [f"labels={labels}", f"policy={policy}", "sampler.backend=scripted", "sampler.max_tokens=8"]
    monkeypatch.chdir(tmp_path)
    # a command ends in its own way when it is told to; not so the tests
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for how in ("made in", "reused"):
        monkeypatch.setattr(sys, "argv", ["audit_labels", *argv])
        main()
        out = capsys.readouterr().out
        assert "1 of 1 wrong solutions" in out and "first errors that disagree" in out and how in out
        assert "note: the labels were made with sampler.max_tokens=9 and not 8" in out
        assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setattr(sys, "argv", ["audit_labels", *argv, "rule=all"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and "rule='all' is none of posterior, any" in capsys.readouterr().err
    (made,) = tmp_path.glob("artifacts/audit_labels/*/manifest.json")
    assert make_table(open_artifact(made.parent).manifest["counts"]).row_count >= 4
