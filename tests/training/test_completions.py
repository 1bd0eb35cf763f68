"""Completion loss: exact ids and positions (the prompt is never trained), and the value against a plain sum."""

from __future__ import annotations

import pytest
import torch

from rollouts.prompts import render_prompt
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, make_model, tokenizer
from training.completions import Text, completion_loss, encode_completion, encode_completions
from training.examples import Example, pad_batch

TEXT = Text(render_prompt(QUESTION), "<<7+5=12>>12\n#### 12\n")


def test_the_completion_and_its_end_are_trained_and_the_prompt_never():
    example = encode_completion(tokenizer(), TEXT)
    written = ["<<", "7", "+", "5", "=", "12", ">>", "12", "\n", "#### ", "12", "\n", "<eos>"]
    assert example.ids == ids(*PROMPT_TOKENS, *written)
    # position 20 is the prompt's line feed: it predicts the completion's first token
    assert len(PROMPT_TOKENS) == 21
    assert example.positions == [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32]
    assert example.targets == ids(*written)


def test_an_empty_completion_trains_the_end_alone():
    example = encode_completion(tokenizer(), Text("Q: Ann\n", ""))
    assert example == Example(ids("Q", ":", " Ann", "\n", "<eos>"), [3], ids("<eos>"), prompt=4)


def test_no_prompt_is_refused():
    with pytest.raises(ValueError, match="'x'"):
        encode_completion(tokenizer(), Text("", "x"))


def test_too_long_texts_are_left_out_and_counted():
    short = Text("Q: Ann\n", "#### 12\n")
    assert len(encode_completion(tokenizer(), short).ids) == 8
    kept, lost = encode_completions(tokenizer(), [TEXT, short, TEXT], 8)
    assert kept == [encode_completion(tokenizer(), short)] and lost == 2
    assert encode_completions(tokenizer(), [short], 7) == ([], 1)
    assert encode_completions(tokenizer(), [], 7) == ([], 0)


def test_the_loss_is_the_sum_over_completions_token_by_token():
    model = make_model()
    examples = [encode_completion(tokenizer(), text) for text in (TEXT, Text("Q: Ann\n", "#### 12\n"))]
    with torch.no_grad():
        found = completion_loss(model, pad_batch(examples, 0))
        wanted = 0.0
        for example in examples:
            likelihood = model(input_ids=torch.tensor([example.ids])).logits[0].log_softmax(-1)
            start = len(example.ids) - len(example.targets)
            wanted -= sum(likelihood[at - 1, example.ids[at]].item() for at in range(start, len(example.ids)))
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_what_the_prompt_says_next_does_not_matter_to_the_loss():
    """Only the completion's tokens are targets: making the model sure of the prompt changes nothing."""
    example = encode_completion(tokenizer(), TEXT)
    batch = pad_batch([example], 0)
    model = make_model()
    with torch.no_grad():
        logits = model(input_ids=batch.ids).logits
    logits.requires_grad_()

    class Fixed:
        def __call__(self, **_):
            return type("Out", (), {"logits": logits})

    completion_loss(Fixed(), batch).backward()
    touched = logits.grad[0].abs().sum(-1).nonzero()[:, 0].tolist()
    assert touched == example.positions
