"""The card of a policy: its lines write with plain transformers what our sampler writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from refine.card import DRAFT, policy_card
from refine.prompts import render_refinement
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rollouts.card import QUESTION
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.protocol import Request, load_sampler
from stages.artifacts import CARD
from stages.cards import render_card
from stages.make import make
from tests.cards import head, run
from tests.families import FAMILIES, family
from tests.tiny import save_policy
from training.models import save_model


def card_of(folder: Path, examples: list[str], **prompt) -> str:
    args = {"examples": examples, "prompt": prompt}
    manifest = {"stage": "train_policy", "key": "0123456789abcdef", "args": args, "counts": {"examples": 3}}
    return render_card(folder, manifest, policy_card)


def written(folder: Path, prompt) -> str:
    sampler = load_sampler(str(folder), SamplerArgs(temperature=0.0, max_tokens=256))
    (sample,) = sampler.sample([Request("one", prompt)])
    return sample.text


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_the_lines_of_the_card_write_what_our_sampler_writes(name, kind, tmp_path, monkeypatch):
    torch.manual_seed(3)
    tokenizer = family(name)
    config = LlamaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "initializer_range": 0.2, "eos_token_id": tokenizer.eos_token_id},
    )
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = run(card_of(tmp_path, ["solutions"], kind=kind))
    prompt = render_prompt(QUESTION, PromptArgs(kind).template())
    assert found["text"].strip() and found["text"].strip() == written(tmp_path, prompt).strip()


@pytest.mark.parametrize("kind", ["global", "local", "control", "shuffled"])
def test_a_refiner_is_shown_what_it_reads(kind: str, tmp_path: Path) -> None:
    card = card_of(Path(save_policy(tmp_path / "policy")), [kind])
    prompt = render_refinement(kind, QUESTION, DRAFT, 0)
    assert f"prompt = {prompt!r}\n" in card and f"```\n{prompt}\n```" in card
    assert ("refiner" in card.split("##")[0]) and (("[BAD]" in card) == (kind == "local"))


def test_a_training_writes_the_card(tmp_path: Path) -> None:
    args = TrainPolicyArgs()
    args.problems.limit, args.model.hidden_size, args.model.layers = 12, 32, 1
    args.train.device, args.train.max_steps, args.validation_share = "cpu", 2, 0.2
    made, _ = make(TRAIN_POLICY, args, tmp_path)
    card = (made.path / CARD).read_text()
    assert head(made.path)["pipeline_tag"] == "text-generation"
    loss = made.manifest["counts"]["validation_cross_entropy"]
    assert f"held out: {loss:.4g} nats a token" in card and "`arithmetic` (`train`)" in card
