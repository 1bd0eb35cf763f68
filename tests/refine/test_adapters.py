"""Both training stages with an adapter: they leave a normal model that learned, and the adapter where asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.reward_model import make_reward_model
from rewards.scorer import Scorer, load_scorer
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.sampling.policies import load_policy
from rollouts.sampling.sample import SampleArgs
from stages.make import make
from stages.stage import Stage
from tests.tiny import problem, rollout, save_policy
from training.adapters import ADAPTER, LoraArgs
from training.loop import TrainArgs

PROBLEMS = [problem(f"p{i}", question=f"Ann has {i} pens. How many pens does Ann have?") for i in range(12)]
TRAIN = TrainArgs(device="cpu", tokens_per_step=800, tokens_per_batch=800, learning_rate=2e-2, epochs=6)
LORA = LoraArgs(rank=8, alpha=16, keep_adapter=True)
SOLUTIONS = [["<<1+2=3>>3", "<<9-1=8>>8", "#### 8"], ["<<1+2=3>>3", "<<9+1=10>>10", "#### 8"]]


def write_rollouts(_args, work) -> None:
    """Right where the second step takes 1 away, wrong where it adds 1."""
    work.write_rows("problems", PROBLEMS)
    rows = [
        rollout([f"<<{i}+{k}={i + k}>>{i + k}", *SOLUTIONS[sample % 2][1:]], sample % 2 == 0, sample, PROBLEMS[i].id)
        for i in range(len(PROBLEMS))
        for sample in range(6)
        for k in (2 + sample // 2,)  # no text twice
    ]
    work.write_rows("rows", rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    policy = save_policy(root / "policy", layers=2)
    sample = Stage("sample", 1, SampleArgs, write_rollouts)
    return {"policy": policy, "rollouts": str(make(sample, SampleArgs(policy=policy), root)[0].path)}


def test_a_reward_model_with_an_adapter_is_an_artifact_like_any_other(made, tmp_path):
    args = TrainRewardArgs(kind="orm", validation_share=0.2, train=TRAIN, lora=LORA, **made)
    reward, _ = make(TRAIN_REWARD, args, tmp_path)
    assert reward.manifest["counts"]["validation_final_auroc"] > 0.95
    scorer = load_scorer(reward.path, device="cpu")
    scores = scorer.score([PROBLEMS[1]] * 2, SOLUTIONS)
    assert scores[0][1] > 0.6 > 0.4 > scores[1][1]
    # the adapter on the policy, with the head that is saved beside it, scores what the merged folder does
    body, words = make_reward_model(made["policy"], "cpu")
    before = body.model.layers[0].self_attn.q_proj.weight.clone()
    adapted = PeftModel.from_pretrained(body, Path(reward.path) / ADAPTER).eval()
    again = Scorer(adapted, words, "orm", scorer.threshold).score([PROBLEMS[1]] * 2, SOLUTIONS)
    assert again == [pytest.approx(own, abs=1e-5) for own in scores]
    assert torch.equal(adapted.get_base_model().model.layers[0].self_attn.q_proj.weight, before)
    # trained further, it is a reward model with a head like any other
    further = dataclasses.replace(args, policy=str(reward.path), train=dataclasses.replace(TRAIN, max_steps=1))
    assert load_scorer(make(TRAIN_REWARD, further, tmp_path)[0].path, device="cpu").kind == "orm"


def test_a_policy_with_an_adapter_is_merged_too(made, tmp_path):
    lora = dataclasses.replace(LORA, keep_adapter=False, target_modules=["q_proj", "v_proj"])
    args = TrainPolicyArgs(
        policy=made["policy"], problems=ProblemArgs(limit=30), train=dataclasses.replace(TRAIN, max_steps=6), lora=lora
    )
    trained, _ = make(TRAIN_POLICY, args, tmp_path)
    old, new = (load_file(Path(folder) / "model.safetensors") for folder in (made["policy"], trained.path))
    changed = {name.rsplit(".", 2)[-2] for name in new if not torch.equal(new[name], old[name])}
    assert old.keys() == new.keys() and changed == {"q_proj", "v_proj"}
    assert not (Path(trained.path) / ADAPTER).exists()
    load_policy(str(trained.path), device="cpu")
