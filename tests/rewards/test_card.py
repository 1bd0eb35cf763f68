"""The card of a reward model: its lines run with plain transformers and give the scores of our scorer."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, pipeline

from rewards.card import reward_card
from rewards.encode import LabelledSolution
from rewards.held_out import held_out_intervals
from rewards.metrics import first_error
from rewards.reward_model import RIGHT, make_reward_model, read_facts, save_reward_model
from rewards.scorer import load_scorer, score_steps
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rewards.validation import validate_scores
from rollouts.card import QUESTION, STEPS
from rollouts.prompts import PLAIN, PromptArgs, Template
from rollouts.sampling.sample import SampleArgs
from stages.artifacts import CARD, open_artifact
from stages.cards import render_card
from stages.make import make
from stages.stage import Stage
from tests.cards import code, head, run
from tests.families import FAMILIES, family
from tests.tiny import problem, rollout, save_policy, save_reward
from training.args import TrainArgs
from training.models import save_model

FEW_SHOT = PromptArgs("few_shot", "Q: Ann has 7 pens.\nAnn has 7 pens.\n#### 7").template()
CHAT = PromptArgs("chat", instruction="End with a line `#### 12`.").template()
DATED = "{{ strftime_now('%d %b %Y') }}\n" + "{{ messages[0]['content'] }}\n"
MANIFEST = {"stage": "train_reward", "key": "0123456789abcdef"}


def family_reward(name: str, folder: Path, template: Template, chat: str | None = None) -> Path:
    """A reward model with random weights and a tokenizer as others have it."""
    tokenizer = family(name)
    if chat is not None:
        tokenizer = type(tokenizer).from_pretrained(_saved(tokenizer, folder / "tokenizer", chat))
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": 1},
    )
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder / "body")
    model, words = make_reward_model(str(folder / "body"), "cpu", template)
    torch.nn.init.normal_(model.score.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    save_reward_model(model.eval(), words, folder / "reward", "sorm", [0.2, 0.9], template, 0.6)
    return folder / "reward"


def _saved(tokenizer, folder: Path, chat: str) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(chat)
    return folder


def card_of(folder: Path, **manifest) -> str:
    text = render_card(folder, MANIFEST | manifest, reward_card)
    (folder / CARD).write_text(text)
    return text


@pytest.mark.parametrize(
    ("name", "template", "chat"),
    [
        *((name, PLAIN, None) for name in FAMILIES),
        ("qwen2", FEW_SHOT, None),
        *((name, CHAT, None) for name in FAMILIES),
        ("qwen2", CHAT, DATED),
    ],
)
def test_the_lines_of_the_card_give_the_scores_of_our_scorer(name, template, chat, tmp_path, monkeypatch):
    folder = family_reward(name, tmp_path, template, chat)
    monkeypatch.chdir(folder)
    scorer = load_scorer(folder, device="cpu")
    (wanted,) = scorer.score([problem(question=QUESTION)], [list(STEPS)])
    found = run(card_of(folder))
    assert found["scores"] == pytest.approx(wanted, abs=1e-6) and abs(wanted[0] - wanted[1]) > 1e-3
    assert found["first_error"] == first_error(wanted, [0.2, 0.9]) and found["right"] == (wanted[-1] >= 0.6)
    assert found["ids"] == scorer.encode(problem(question=QUESTION), list(STEPS)).ids


def test_the_lines_need_nothing_of_ours(tmp_path: Path) -> None:
    """A process that cannot import this project, in the folder of the model."""
    folder = Path(save_reward(tmp_path / "reward", "orm", threshold=0.25))
    program = code(card_of(folder)) + "\nimport sys\nassert 'stages' not in sys.modules\nprint(scores)\n"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    (wanted,) = load_scorer(folder, device="cpu").score([problem(question=QUESTION)], [list(STEPS)])
    assert json.loads(done.stdout) == pytest.approx(wanted, abs=1e-6)
    for alarm in ("newly initialized", "TRAIN", "UNEXPECTED", "MISSING", "Warning"):
        assert alarm not in done.stderr


def test_a_pipeline_names_the_label_and_the_card_says_that_its_score_is_none(tmp_path: Path) -> None:
    folder = Path(save_reward(tmp_path / "reward", "sorm"))
    found = pipeline("token-classification", model=str(folder))("Q: Ann has 7 pens.")
    assert {one["entity"] for one in found} == {RIGHT} and {float(one["score"]) for one in found} == {1.0}
    assert "softmax" in RIGHT and "1.0 of every token" in card_of(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": RIGHT} and config["label2id"] == {RIGHT: 0}


def test_a_training_writes_the_card_once_and_the_libraries_raise_no_alarm(tmp_path: Path, capfd) -> None:
    problems = [problem(f"p{i}", f"Ann has {i} pens. How many pens does Ann have?") for i in range(20)]
    rows = [
        rollout([f"<<{i}+1={i + 1}>>{i + 1}", f"#### {n}"], n % 2 == 0, n, f"p{i}") for i in range(20) for n in range(4)
    ]

    def write(_args, work) -> None:
        work.write_rows("problems", problems)
        work.write_rows("rows", rows)

    policy = save_policy(tmp_path / "policy")
    rollouts, _ = make(Stage("sample", 1, SampleArgs, write), SampleArgs(policy=policy), tmp_path)
    train = TrainArgs(device="cpu", tokens_per_step=500, tokens_per_batch=500, epochs=1)
    args = TrainRewardArgs(policy=policy, rollouts=str(rollouts.path), validation_share=0.3, train=train)
    made, _ = make(TRAIN_REWARD, args, tmp_path)
    said = "".join(capfd.readouterr())
    for alarm in ("newly initialized", "TRAIN this model", "MISSING", "UNEXPECTED", "score.weight"):
        assert alarm not in said
    card, counts = (made.path / CARD).read_text(), made.manifest["counts"]
    assert (
        head(made.path)["pipeline_tag"] == "token-classification" and head(made.path)["library_name"] == "transformers"
    )
    assert "An outcome reward model (ORM)" in card and f"- `rollouts`: `sample` `{rollouts.key}`" in card
    low, high = counts["validation_final_accuracy_low"], counts["validation_final_accuracy_high"]
    assert (
        f"| whole solutions judged rightly | {counts['validation_final_accuracy']:.4g} | {low:.4g} to {high:.4g} |"
        in card
    )
    assert counts["validation_problems"] == 6 and "labels of 6 problems" in card
    assert str(tmp_path) not in card and CARD not in made.manifest["files"]
    (made.path / CARD).write_text("A licence of my own.")
    assert open_artifact(made.path) == made and make(TRAIN_REWARD, args, tmp_path) == (made, True)
    assert (made.path / CARD).read_text() == "A licence of my own."


def test_intervals_contain_the_value_and_narrow_with_more_problems() -> None:
    def held(problems: int) -> dict[str, float]:
        rng = random.Random(0)
        solutions, scores = [], []
        for i in range(problems):
            for _ in range(2):
                labels = (1.0, float(rng.random() < 0.6), float(rng.random() < 0.5))
                solutions.append(LabelledSolution(f"p{i}", ("a", "b", "c"), labels))
                scores.append([0.3 * label + 0.7 * rng.random() for label in labels])
        return validate_scores("orm", solutions, scores) | {
            f"sorm_{name}": value for name, value in validate_scores("sorm", solutions, scores).items()
        }

    few, many = held(40), held(300)
    names = [name.removesuffix("_low") for name in many if name.endswith("_low")]
    assert {"accuracy", "auroc", "final_accuracy", "final_auroc", "pairwise_accuracy"} <= set(names)
    assert {"sorm_first_error_accuracy", "sorm_first_error_f1"} <= set(names)
    for name in names:
        assert many[f"{name}_low"] < many[name] < many[f"{name}_high"]
        assert many[f"{name}_high"] - many[f"{name}_low"] < few[f"{name}_high"] - few[f"{name}_low"]
    # of 600 independent whole solutions, as many as half of them judged rightly, 4 points on either side
    width = many["final_accuracy_high"] - many["final_accuracy_low"]
    p = many["final_accuracy"]
    assert width == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 600), rel=0.2)
    assert held_out_intervals([LabelledSolution("p", ("a",), (1.0,))], [[0.9]], 0.5, 0.5) == {}  # one problem


def test_texts_in_a_card_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "Q: x\n# Owned <script>alert(1)</script> ```\n\u202e\x1b[31m\nx\n#### 1\n```\n---\nlicense: mit\n---"
    template = PromptArgs("chat", instruction=evil, system="```\n</details>").template()
    folder = family_reward("qwen2", tmp_path, template)
    notes = {"reason": "[click](javascript:x)\n# Title\n<b>"}
    parents = {"policy": {"stage": None, "key": "sha256:ab", "path": "/x/`a`\n# b"}}
    card = card_of(folder, notes=notes, counts={"a|b\n# c": 1}, parents=parents)
    monkeypatch.chdir(folder)
    assert len(run(card)["scores"]) == 2  # the lines hold the texts as they are
    assert head(folder)["license"] == "unknown"
    outside = "\n".join(line for block, line in _blocks(card) if not block)
    assert not {line for line in outside.split("\n") if line.startswith("#")} & {"# Owned", "# Title", "# b", "# c"}
    assert "\u202e" not in card and "\x1b" not in card and "\n# Title" not in card and "\n# c" not in card
    assert "[click](" not in outside and "<b>" not in outside


def _blocks(card: str):
    """(within a fenced block, line) of each line, as CommonMark reads fences."""
    fence = None
    for line in card.split("\n"):
        run_of = len(line) - len(line.lstrip("`"))
        if fence is None and run_of >= 3 and "`" not in line[run_of:]:
            fence = run_of
            yield True, line
        elif fence is not None and run_of >= fence and not line[run_of:].strip():
            yield True, line
            fence = None
        else:
            yield fence is not None, line


def test_scores_of_steps_from_any_folder(tmp_path: Path) -> None:
    folder = Path(save_reward(tmp_path / "reward", "sorm"))
    (wanted,) = load_scorer(folder, device="cpu").score([problem(question=QUESTION)], [list(STEPS)])
    assert score_steps(folder, QUESTION, list(STEPS)) == pytest.approx(wanted)
    assert score_steps(folder, QUESTION, "\n".join(STEPS), template="Q: {question}\n") == pytest.approx(wanted)
    with pytest.raises(ValueError, match="was trained with the template"):
        score_steps(folder, QUESTION, STEPS, template="Ask. Q: {question}\n")
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("stepwise")["kind"] == "sorm"
    (folder / "config.json").write_text(json.dumps(config))  # a folder that others made
    assert score_steps(folder, QUESTION, STEPS, template="Q: {question}\n") == pytest.approx(wanted)
    with pytest.raises(ValueError, match=r"is no reward model: it has no config\.json with 'stepwise'"):
        score_steps(folder, QUESTION, STEPS)
    with pytest.raises(ValueError, match="does not fit"):
        score_steps(folder, "Ann has 7 pens. " * 400, STEPS, template="Q: {question}\n")


def test_a_folder_of_before_labels_had_names_still_opens(tmp_path: Path) -> None:
    folder = Path(save_reward(tmp_path / "reward", "orm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}))
    assert len(load_scorer(folder, device="cpu").score([problem()], [list(STEPS)])[0]) == 2
    assert read_facts(folder)["kind"] == "orm"
