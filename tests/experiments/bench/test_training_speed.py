"""The benchmark of training: rows that say the truth, the arithmetic of its table, and a run of our own side."""

from __future__ import annotations

import json
import random
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForTokenClassification

from experiments.bench import our_trainer, training_speed, trl_trainers
from experiments.bench.measure import bench_problems, ratios, spread
from experiments.bench.training_rows import WORLD, as_tuples, corrupt, examples_of, step_rows
from experiments.bench.training_run import digest, read_jsonl, run_given
from experiments.bench.training_speed import (
    Contender,
    check_equal,
    contenders,
    main,
    parse_arguments,
    render_table,
    save_starts,
    write_data,
)
from rollouts.prompts import render_prompt
from rollouts.world.oracle import true_first_error
from tests.tiny import ids, save_policy, tokenizer

STEPS = ["As Ann has 7 pens, <<7+5=12>>12", "As Bob has 12 pens, <<12*2=24>>24", "#### 24"]
FOUND = {
    "seconds": 2.0, "cpu_seconds": 4.0, "whole_seconds": 3.0, "steps": 5, "examples": 10, "tokens": 800, "targets": 30,
    "read": 1000, "digest": "d", "loss": 0.5, "start_loss": 0.7, "threads": 1,
}  # fmt: skip


def contender(name: str, *runs: dict) -> Contender:
    return Contender(name, "", "", {}, [FOUND | run for run in runs])


def test_one_result_is_wrong_and_every_label_from_there_on_is():
    seen = set()
    for seed in range(40):
        steps, labels = corrupt(STEPS, random.Random(seed))
        (changed,) = (i for i, (old, new) in enumerate(zip(STEPS, steps, strict=True)) if old != new)
        assert labels == [i < changed for i in range(3)]
        said = re.search(r"=(\d+)>>(\d+)", steps[changed])
        assert said[1] == said[2] != {0: "12", 1: "24"}[changed]
        seen.add(changed)
    assert seen == {0, 1}
    assert corrupt(["no result", "#### 3"], random.Random(0)) is None


def test_labels_agree_with_the_oracle():
    problems = {render_prompt(problem.question): problem for problem in bench_problems("train", 30, None, **WORLD)}
    rows = step_rows(problems.values(), 3)
    assert len({json.dumps(row) for row in rows}) == 90
    for row in rows:
        labels = row["labels"]
        first = labels.index(False) if False in labels else None
        assert true_first_error(problems[row["prompt"]], row["completions"]) == first
    assert sum(all(row["labels"]) for row in rows) == 30


def test_rows_become_what_we_train_on():
    prompt = ids("Q", ":", " Ann has ", "7", ".", "\n")
    stepwise = {"prompt": "Q: Ann has 7.\n", "completions": ["7", "7"], "labels": [True, False]}
    text = {"prompt": "Q: Ann has 7.\n", "completion": "7\n"}
    reward, policy = examples_of(tokenizer(), [stepwise, text])
    assert reward.ids == prompt + ids("7", "\n", "7", "\n")
    assert (reward.positions, reward.targets) == ([7, 9], [1.0, 0.0])
    assert policy.ids == [*prompt, *ids("7", "\n"), tokenizer().eos_token_id]
    assert (policy.positions, policy.targets) == ([5, 6, 7], policy.ids[6:])


def test_the_digest_is_of_examples_and_not_of_their_order():
    one, other = ([5, 6], [1], [1.0]), ([7], [0], [0])
    assert digest([one, other]) == digest([other, one])
    assert digest([one]) == digest([([5, 6], [1], [1])])
    assert len({digest([one]), digest([([5, 6], [0], [1.0])]), digest([([5, 6], [1], [0.0])]), digest([one, one])}) == 4


def test_the_table_has_medians_and_ratios_within_rounds():
    ours = contender("ours", {"seconds": 1.0}, {"seconds": 2.0, "loss": 0.4}, {"seconds": 4.0})
    other = contender("other", {"seconds": 3.0}, {"seconds": 3.0}, {"seconds": 4.0, "cpu_seconds": 8.0})
    assert ratios(ours.all("seconds"), other.all("seconds")) == [3.0, 1.5, 1.0]
    assert spread([1.5, 1.0, 3.0]) == "1.50 (1.00 to 3.00)"
    lines = render_table("prm", [ours, other], [44, 200])
    assert "10 examples of 44 to 200 tokens, 800 useful tokens, 30 targets" in lines[0]
    assert "loss before 0.7000" in lines[1]
    assert lines[3].split()[1:] == ["5.0", "400", "200", "80.0%", "5", "0.5000", "3.0"]
    assert lines[4].split()[1:3] == ["3.3", "267"]
    expected = "ours, shared is 1.50 (1.00 to 3.00) times as fast as other; by processor time 1.00 (1.00 to 2.00)"
    assert lines[5] == expected


@pytest.mark.parametrize("name", ["digest", "tokens", "targets", "threads"])
def test_contenders_that_did_not_do_the_same_are_refused(name):
    check_equal([contender("ours", {}, {}), contender("TRL", {}, {"loss": 0.1})])
    with pytest.raises(ValueError, match=f"TRL: {name} 7, but ours: {FOUND[name]}"):
        check_equal([contender("ours", {}, {}), contender("TRL", {}, {name: 7})])


def test_both_heads_start_at_one_half_on_the_same_body(tmp_path):
    save_starts(save_policy(tmp_path / "policy"), tmp_path / "ours", tmp_path / "theirs")
    one, two = (AutoModelForTokenClassification.from_pretrained(tmp_path / name).eval() for name in ("ours", "theirs"))
    assert (one.config.num_labels, two.config.num_labels) == (1, 2)
    assert two.config.classifier_dropout == 0.0
    ours, theirs = (dict(model.model.named_parameters()) for model in (one, two))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for model in (one, two):
        assert not model(input_ids=torch.tensor([[5, 6, 7]])).logits.any()


def test_trl_gets_as_many_tokens_a_step_and_the_same_schedule():
    args = parse_arguments(["--tokens-per-step", "1000", "--alone"])
    args.alone = False
    files = {name: f"data/{name}" for name in ("rows", "held_out", "held_out_ids", "ours", "theirs")}
    by_length, packed = {"sampling": "group_by_length"}, {"packing": 256, "batch": 1, "accumulate": 4}
    for job, ways in ("prm", [by_length, {}]), ("sft", [packed, by_length]):
        *ours, one, other = contenders(job, args, files, [50, 150] * 100)
        assert [own.settings["layout"] for own in ours] == ["shared", "packed", "padded"]
        for own in ours:
            assert own.settings["start"] == "data/ours" and own.settings["tokens_per_step"] == 1000
        for their, way in zip((one, other), ways, strict=True):
            wanted = {"start": "data/theirs", "learning_rate": 4e-4, "warmup": 1, "batch": 10} | way
            assert their.settings.items() >= {"job": job, **files, **wanted}.items()
            assert their.python == f".venv-trl-{job}/bin/python"


MODULE = """
import sys
from experiments.bench.training_run import run_given
def work(settings):
    print("noise")
    if settings["fails"]:
        sys.exit("out of luck")
    return {"twice": 2 * settings["a"]}
run_given(work)
"""


def test_a_run_gives_its_figures_and_one_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "bench_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    good, bad = (Contender("x", sys.executable, "bench_module", {"a": 2, "fails": fails}) for fails in (False, True))
    assert good.run() == {"twice": 4} and good.runs == [{"twice": 4}]
    with pytest.raises(RuntimeError, match=r"x: bench_module ended with 1: out of luck"):
        bad.run()


def test_a_missing_environment_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(training_speed.TRL, "prm", str(tmp_path / "python"))
    with pytest.raises(SystemExit):
        parse_arguments([])
    assert f"there is no {tmp_path}/python" in capsys.readouterr().err
    assert parse_arguments(["--alone"]).alone


def test_our_side_trains_and_scores(tmp_path, monkeypatch, capsys):
    def here(contender: Contender) -> dict:
        """The same in this process."""
        assert (contender.python, contender.module) == (sys.executable, "experiments.bench.our_trainer")
        told.append(in_this_process(our_trainer.main, contender.settings, tmp_path, monkeypatch))
        contender.runs.append(told[-1])
        return told[-1]

    told = []
    monkeypatch.setattr(Contender, "run", here)
    given = "--alone --problems 6 --solutions 3 --held-out-problems 2 --rounds 1 --tokens-per-step 400".split()
    assert main(["--model", save_policy(tmp_path / "policy", context=256), *given]) == 0
    out = capsys.readouterr().out
    shared, packed, padded, *_, scores = told
    assert shared["digest"] == packed["digest"] == padded["digest"] and packed["examples"] == 18
    assert packed["start_loss"] == pytest.approx(0.6931, abs=1e-4)
    # two layouts, one training
    assert packed["loss"] == pytest.approx(padded["loss"], abs=1e-5) != packed["start_loss"]
    assert shared["read"] < packed["tokens"] == packed["read"] < padded["read"]
    assert scores["shared_tokens"] < scores["whole_tokens"] < scores["prefix_tokens"]
    assert "ours, shared" in out and "shared is" in out and "times fewer tokens" in out
    assert re.search(rf"CPU \S+ with \d+ cores, {torch.get_num_threads()} threads, load ", out)
    assert f"torch {torch.__version__}" in out
    assert scores["largest_gap"] < 1e-5
    rows = step_rows(bench_problems("validation", 2, None, **WORLD), 3, seed=1)
    examples = examples_of(tokenizer(), rows)
    assert scores["whole_tokens"] == sum(len(example.ids) for example in examples)
    assert scores["prefix_tokens"] == sum(end + 1 for example in examples for end in example.positions)


def in_this_process(module_main, settings: dict, folder, monkeypatch) -> dict:
    """What a run with these settings gives, not in a process of its own."""
    given, result = folder / "given.json", folder / "result.json"
    given.write_text(json.dumps(settings))
    monkeypatch.setattr(sys, "argv", ["bench", str(given), str(result)])
    module_main()
    return json.loads(result.read_text())


class ScriptedTrainer:
    """What the bench uses of TRL's SFTTrainer: one step that trains nothing, on rows tokenized as TRL does."""

    def __init__(self, model, args, train_dataset, processing_class) -> None:
        self.model, self.args = model, args
        examples = examples_of(processing_class, train_dataset)
        marks = [[-100] * example.prompt + example.ids[example.prompt :] for example in examples]
        self.train_dataset = [{"input_ids": e.ids, "labels": own} for e, own in zip(examples, marks, strict=True)]
        self.data_collator = lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])}
        self.state = SimpleNamespace(global_step=0)

    def train(self) -> None:
        for row in self.train_dataset:
            self.data_collator([row])
            self.state.global_step += 1


def test_trls_side_finds_what_the_table_reads(tmp_path, monkeypatch):
    scripted = SimpleNamespace(SFTConfig=SimpleNamespace, SFTTrainer=ScriptedTrainer, __version__="0")
    monkeypatch.setitem(sys.modules, "trl", scripted)
    args = parse_arguments(["--alone", "--model", save_policy(tmp_path / "policy", context=256), "--problems", "3"])
    files, lengths = write_data("sft", args, tmp_path / "data")
    settings = files | {"job": "sft", "start": files["theirs"], "learning_rate": 1, "warmup": 1, "batch": 1}
    found = in_this_process(lambda: run_given(trl_trainers.train), settings | {"packing": 300}, tmp_path, monkeypatch)
    ours = examples_of(tokenizer(), read_jsonl(files["rows"]))
    assert found["digest"] == digest(as_tuples(ours)) and found["examples"] == len(ours) == found["steps"] == 12
    assert found["read"] == found["tokens"] == sum(lengths)
    assert found["loss"] == found["start_loss"] > 1 and found["versions"].startswith("trl 0, transformers")
    assert {*FOUND} <= found.keys()
