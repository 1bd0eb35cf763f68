"""The scorer: one probability a step, the same in a batch as alone; the first error by its scores."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2ForTokenClassification

from rewards.losses import reward_loss, step_logits
from rewards.metrics import first_error
from rewards.reward_model import make_reward_model
from rewards.scorer import ScoreError, Scorer, TooLong, load_scorer, score_all
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import render_prompt
from rollouts.records import Problem
from rollouts.steps import encode_steps, split_steps
from stages.processes import Processes
from stages.rows import read_rows
from stages.workspace import Quarantined, Untracked, Workspace
from tests.tiny import problem, save_policy, save_reward, tokenizer
from training.examples import Example, pad_batch

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


LONG = problem("long one", question="Ann has 7 pens. " * 40)


def test_what_does_not_fit_has_no_score_and_the_others_have(scorer):
    found = scorer.score([LONG, PROBLEMS[0], LONG, PROBLEMS[1]], [SOLUTIONS[0], *SOLUTIONS[:2], ""])
    alone = scorer.score(PROBLEMS[:1], SOLUTIONS[:1])
    assert found == [None, pytest.approx(alone[0], abs=1e-6), None, []]
    assert scorer.score(PROBLEMS[:1], ["<<7+5=12>>12\n" * 10_000]) == [None]
    with pytest.raises(TooLong, match=r"long one has \d+ tokens, the sorm reads 128"):
        scorer.encode(LONG, SOLUTIONS[1])
    with pytest.raises(ValueError, match="longer"):
        scorer.score(PROBLEMS[:1], SOLUTIONS[:2])


def test_a_score_that_is_no_number_is_named(scorer, tmp_path):
    broken = load_scorer(save_reward(tmp_path / "reward", "orm"), device="cpu")
    with torch.no_grad():
        broken.model.score.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"the orm scores a solution of p1 \[nan"):
        broken.score(PROBLEMS[:2], SOLUTIONS[:2])  # the longest is read first
    with torch.no_grad():
        broken.model.score.bias.fill_(math.inf)  # a probability of 1, were it let through
    with pytest.raises(ScoreError, match=r"the orm scores a solution of p0 \[inf, inf\] \(logits\)"):
        broken.score(PROBLEMS[:1], SOLUTIONS[:1])


def test_a_family_that_reads_no_packs_scores_the_same(tmp_path):
    config = GPT2Config(
        vocab_size=len(tokenizer()), n_embd=32, n_layer=2, n_head=2, n_positions=128, num_labels=1, eos_token_id=1
    )
    model = GPT2ForTokenClassification(config).eval()
    padded = Scorer(model, tokenizer(), "orm", 0.5, batch_tokens=150)
    together = padded.score(PROBLEMS, SOLUTIONS)
    assert [len(own) for own in together] == STEPS
    for i, own in enumerate(together):
        assert padded.score([PROBLEMS[i]], [SOLUTIONS[i]]) == [pytest.approx(own, abs=1e-6)]


def score_prefixes(scorer: Scorer, asked: Problem, steps: list[str]) -> list[float]:
    """The reference: a forward pass for each prefix, read at its end."""
    return [scorer.score([asked], [steps[: i + 1]])[0][-1] for i in range(len(steps))]


def test_one_pass_gives_what_a_pass_for_each_prefix_gives_for_far_fewer_tokens(tmp_path):
    model, words = make_reward_model(save_policy(tmp_path / "policy", context=512), "cpu")
    torch.nn.init.normal_(model.score.weight)
    worlds = load_problems(ProblemArgs(limit=30))
    steps = [split_steps(one.solution) for one in worlds]
    whole, reference = (Scorer(model.eval(), words, "sorm", 0.5) for _ in range(2))
    for one, own, found in zip(worlds, steps, whole.score(worlds, steps), strict=True):
        assert found == pytest.approx(score_prefixes(reference, one, own), abs=1e-6)
    assert reference.tokens > 3.5 * whole.tokens


def workspace(folder: Path, processes: Processes | None = None) -> Workspace:
    return Workspace(folder, {}, Untracked(), folder / "kept", processes)


def score_here(scorer: Scorer, work: Workspace) -> list[list[float]]:
    steps = [split_steps(text) for text in SOLUTIONS]
    try:
        return score_all(scorer, [f"s{i}" for i in range(5)], PROBLEMS, steps, work, "score it")
    finally:
        work.close()


def test_a_stage_that_was_killed_scores_only_what_is_missing(scorer, tmp_path, monkeypatch):
    wanted = scorer.score(PROBLEMS, SOLUTIONS)
    small = Scorer(scorer.model, scorer.tokenizer, "sorm", 0.25, batch_tokens=60)
    forward, passes = Scorer._forward, []

    def killed(self, examples):
        if len(passes) == 2:
            raise KeyboardInterrupt
        passes.append(len(examples))
        return forward(self, examples)

    monkeypatch.setattr(Scorer, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        score_here(small, workspace(tmp_path))
    monkeypatch.setattr(Scorer, "_forward", forward)
    before = small.tokens
    work = workspace(tmp_path)
    assert score_here(small, work) == [pytest.approx(own, abs=1e-6) for own in wanted]
    lengths = [len(small.encode(*pair).ids) for pair in zip(PROBLEMS, SOLUTIONS, strict=True)]
    read = sum(n for n, steps in zip(lengths, STEPS, strict=True) if steps)
    assert before > 0 and small.tokens == read == work.tokens  # nothing twice, and all of it counted
    assert "rounding" in work.notes["promise of score it"]


class Alone(Processes):
    """A process of several that does not wait for the others."""

    def wait(self) -> None: ...


def test_two_processes_share_the_work(scorer, tmp_path):
    shares = []
    for rank in range(2):
        own = Scorer(scorer.model, scorer.tokenizer, "sorm", 0.25)
        if rank == 0:  # the other is not there yet
            with pytest.raises(RuntimeError, match="0 of 1 samples of s1"):
                score_here(own, workspace(tmp_path, Alone(rank, 2)))
        else:
            found = score_here(own, workspace(tmp_path, Alone(rank, 2)))
        shares.append(own.tokens)
    assert found == [pytest.approx(own, abs=1e-6) for own in scorer.score(PROBLEMS, SOLUTIONS)]
    assert all(shares) and sum(shares) == own.tokens + shares[0]


def test_what_cannot_be_kept_is_refused(scorer, tmp_path):
    with pytest.raises(ValueError, match="2 solutions have 1 different names"):
        score_all(scorer, ["a", "a"], PROBLEMS[:2], [["#### 1"]] * 2, workspace(tmp_path), "x")
    broken = problem("odd", question="Ann\ud800")
    with pytest.raises(ValueError, match=r"x: none .*; a: the prompt holds the lone surrogate"):
        score_all(scorer, ["a"], [broken], [["#### 1"]], workspace(tmp_path), "x")


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


def test_a_stage_counts_and_names_what_it_cannot_score(scorer, tmp_path):
    work = Workspace(tmp_path, {}, Untracked())
    asked, steps = [LONG, PROBLEMS[0], PROBLEMS[1]], [["#### 12"], ["#### 12"], []]
    scores = score_all(scorer, ["long", "short", "empty"], asked, steps, work, "score")
    assert scores == [None, pytest.approx(scorer.score(PROBLEMS[:1], ["#### 12"])[0], abs=1e-6), []]
    assert work.counts["sorm_too_long"] == 1
    work.finish()
    (left_out,) = read_rows(tmp_path / "quarantine.parquet", Quarantined)
    assert left_out.id == "long" and "the sorm reads 128" in left_out.reason
    with pytest.raises(ValueError, match=r"the sorm reads 128"):
        score_all(scorer, ["long"], [LONG], [["#### 12"]], Workspace(tmp_path / "none", {}, Untracked()), "score")
