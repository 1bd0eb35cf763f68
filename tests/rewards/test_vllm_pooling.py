"""A trained reward model in vLLM: loaded as a pooling model (token classification), it gives the same step scores.

Runs where vLLM is installed (`make test-vllm`). vLLM has no token classification of its own for these families: it
makes one of the causal model, with the head that it finds in the folder (`as_seq_cls_model`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

import torch
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, PreTrainedConfig, Qwen2Config

from rewards.card import reward_card
from rewards.encode import LabelledSolution, encode_labels
from rewards.losses import reward_loss
from rewards.reward_model import make_reward_model, save_reward_model
from rewards.scorer import load_scorer
from rollouts.backends.vllm import engine as vllm_engine
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.records import Problem
from rollouts.steps import split_steps
from rollouts.world.tokenizer import make_tokenizer
from stages.cards import render_card
from tests.cards import code
from training.attention.install import packed_attention
from training.models import save_model
from training.packing import pack_batch

# heads of 32: the smallest that vLLM has for a CPU
SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32},
    **{"max_position_embeddings": 512, "initializer_range": 0.1, "pad_token_id": 0, "eos_token_id": 1},
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=1),
    "gemma": GemmaConfig(**SHAPE, num_key_value_heads=1),
}


def solved() -> list[tuple[Problem, list[str]]]:
    return [(problem, split_steps(problem.solution)) for problem in load_problems(ProblemArgs(limit=24))]


def trained(config: PreTrainedConfig, folder: Path) -> str:
    """A reward model that has taken a few steps on labels by chance, saved as every one is."""
    tokenizer = make_tokenizer(ProblemArgs().world.max_value)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder / "policy")
    model, words = make_reward_model(str(folder / "policy"), "cpu")
    examples = [
        encode_labels(words, one.question, LabelledSolution(one.id, tuple(steps), labels), 512)
        for one, steps in solved()
        for labels in [tuple(float(bit) for bit in torch.randint(2, (len(steps),)))]
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with packed_attention(model.train()):
        for _ in range(12):
            optimizer.zero_grad()
            reward_loss(model, pack_batch([examples], words.pad_token_id)).backward()
            optimizer.step()
    save_reward_model(model.eval(), words, folder / "reward", "sorm", 0.5)
    return str(folder / "reward")


@pytest.mark.parametrize("name", CONFIGS)
def test_vllm_gives_the_same_step_scores(name: str, tmp_path: Path) -> None:
    vllm_engine.prepare()
    from vllm import LLM, PoolingParams, TokensPrompt

    vllm_engine.device_kind("auto")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in this process: it ends with the test
    path = trained(CONFIGS[name], tmp_path)
    scorer = load_scorer(path, "float32", "cpu")
    problems, steps = map(list, zip(*solved(), strict=True))
    ours = scorer.score(problems, steps)
    examples = [scorer.encode(*pair) for pair in zip(problems, steps, strict=True)]
    llm = LLM(path, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=512, block_size=32)
    assert llm.llm_engine.model_config.architecture.endswith("ForTokenClassification")
    for activation in (True, False):  # probabilities, or logits
        found = llm.encode(
            [TokensPrompt(prompt_token_ids=example.ids) for example in examples],
            PoolingParams(use_activation=activation),
            pooling_task="token_classify",
            use_tqdm=False,
        )
        for example, wanted, output in zip(examples, ours, found, strict=True):
            read = output.outputs.data.float()
            assert read.shape == (len(example.ids), 1)
            scores = read[example.positions, 0]
            scores = scores if activation else scores.sigmoid()
            assert scores.tolist() == pytest.approx(wanted, abs=1e-5)
    spread = torch.tensor([score for own in ours for score in own]).std()
    assert spread > 0.05  # they are not all the same


def test_the_lines_of_the_card_give_the_same_step_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_engine.prepare()
    vllm_engine.device_kind("auto")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    folder = Path(trained(CONFIGS["llama"], tmp_path))
    monkeypatch.chdir(folder)
    manifest = {"stage": "train_reward", "key": "0123456789abcdef"}
    card = render_card(folder, manifest, reward_card)
    made: dict[str, Any] = {}
    exec(code(card), made)
    wanted = made["scores"]
    here = "LLM(folder, enforce_eager=True, max_model_len=512, block_size=32, "  # what this CPU needs
    exec(code(card, 1).replace("LLM(folder, ", here), made)
    assert made["scores"] is not wanted and made["scores"] == pytest.approx(wanted, abs=1e-5)
