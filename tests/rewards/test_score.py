"""The scorer: one probability a step, the same in a batch as alone; the first error by its scores."""

from __future__ import annotations

import math

import pytest
import torch

from rewards.model import reward_loss, step_logits
from rewards.score import Scorer, first_error, load_scorer
from rollouts.prompts import render_prompt
from rollouts.steps import encode_steps
from tests.tiny import problem, save_policy, save_reward, tokenizer
from training.batches import Example, pad_batch

SOLUTIONS = [
    "<<7+5=12>>12\n#### 12",
    "<<7+5=12>>12\n<<12-5=7>>7\n<<7+7=14>>14\n#### 14",
    "",
    "#### 3",
    "\n  \n<<1+1=2>>2\n\n#### 2\nwhat comes after the answer is no step",
]
STEPS = [2, 4, 0, 1, 2]
PROBLEMS = [problem(f"p{i}", question=f"{'Ann has 7 pens. ' * i}How many pens does Bob have?") for i in range(5)]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Scorer:
    return load_scorer(save_reward(tmp_path_factory.mktemp("score") / "reward", "sorm", threshold=0.25), device="cpu")


def test_one_probability_a_step_the_same_in_any_batch(scorer):
    together = scorer.score(PROBLEMS, SOLUTIONS)
    assert [len(own) for own in together] == STEPS and together[2] == []
    assert all(0 < p < 1 for own in together for p in own) and len({p for own in together for p in own}) == 9
    for i, own in enumerate(together):
        assert scorer.score([PROBLEMS[i]], [SOLUTIONS[i]]) == [pytest.approx(own, abs=1e-6)]
    small = Scorer(scorer.model, scorer.tokenizer, "sorm", 0.25, batch_tokens=60)
    order = [3, 0, 4, 1, 2]
    shuffled = small.score([PROBLEMS[i] for i in order], [SOLUTIONS[i] for i in order])
    assert shuffled == [pytest.approx(together[i], abs=1e-6) for i in order]
    assert scorer.score([], []) == []


def test_each_score_is_the_heads_at_the_end_of_its_step(scorer):
    found = scorer.score(PROBLEMS[1:2], SOLUTIONS[1:2])[0]
    steps = SOLUTIONS[1].split("\n")
    for i in range(4):  # the steps that follow do not change the score of a step
        encoded = encode_steps(tokenizer(), render_prompt(PROBLEMS[1].question), steps[: i + 1])
        with torch.no_grad():
            logit = scorer.model(input_ids=torch.tensor([encoded.ids])).logits[0, -1, 0]
        assert found[i] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-6)


def test_steps_may_be_given_as_a_list_and_tokens_are_counted(scorer):
    before = scorer.tokens
    assert scorer.score(PROBLEMS[:1], [SOLUTIONS[0].split("\n")]) == scorer.score(PROBLEMS[:1], SOLUTIONS[:1])
    encoded = encode_steps(tokenizer(), render_prompt(PROBLEMS[0].question), SOLUTIONS[0].split("\n"))
    assert scorer.tokens - before == 2 * len(encoded.ids)
    assert (scorer.kind, scorer.threshold) == ("sorm", 0.25)


def test_what_does_not_fit_is_named(scorer):
    long = problem("long one", question="Ann has 7 pens. " * 30)
    with pytest.raises(ValueError, match=r"long one has \d+ tokens, the model reads 128"):
        scorer.score([PROBLEMS[0], long], SOLUTIONS[:2])
    with pytest.raises(ValueError, match="1 problems but 2 solutions"):
        scorer.score(PROBLEMS[:1], SOLUTIONS[:2])


def test_a_score_that_is_no_number_is_named(scorer, tmp_path):
    broken = load_scorer(save_reward(tmp_path / "reward", "orm"), device="cpu")
    with torch.no_grad():
        broken.model.score.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"the orm scores a solution of p0 \[nan"):
        broken.score(PROBLEMS[:2], SOLUTIONS[:2])


def test_a_policy_is_no_scorer(tmp_path):
    with pytest.raises(ValueError, match="policy is no reward model"):
        load_scorer(save_policy(tmp_path / "policy"))


def test_the_loss_is_the_cross_entropy_of_the_labelled_steps_alone(scorer):
    examples = [Example([5, 6, 7, 8], [1, 3], [1.0, 0.25]), Example([9, 10], [0], [0.0])]
    batch = pad_batch(examples, 0)
    with torch.no_grad():
        found = step_logits(scorer.model, batch)
        p = torch.sigmoid(found.double()).tolist()
        wanted = -math.log(p[0]) - 0.25 * math.log(p[1]) - 0.75 * math.log(1 - p[1]) - math.log(1 - p[2])
        assert reward_loss(scorer.model, batch).item() == pytest.approx(wanted, rel=1e-5)
        alone = scorer.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, [1, 3], 0]
    assert found.dtype == torch.float32 and found[:2].tolist() == pytest.approx(alone.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "threshold", "found"),
    [
        ([], 0.5, None),
        ([0.9, 0.8], 0.5, None),
        ([0.9, 0.4, 0.1], 0.5, 1),
        ([0.4, 0.9], 0.5, 0),
        ([0.5], 0.5, None),  # at the threshold a step is right
        ([0.9, 0.3], 0.2, None),
        ([0.0], 0.0, None),
    ],
)
def test_the_first_error_is_the_first_score_below(scores, threshold, found):
    assert first_error(scores, threshold) == found


def test_no_number_is_no_error():
    with pytest.raises(ValueError, match="step 1 "):
        first_error([0.9, math.nan], 0.5)
    assert first_error([0.1, math.nan], 0.5) == 0
    with pytest.raises(ValueError, match="threshold"):
        first_error([], math.nan)
