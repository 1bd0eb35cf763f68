"""Solutions cut into steps, and steps as token ids.

A step is a line. The last step of a finished solution is its answer line (`#### n` in GSM8K's format). Token ids
come from the whole text at once, as a policy writes it; the end of a step is found through character offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ANSWER_MARK = "####"
# of one text that a policy wrote: what is longer comes from a policy that does not stop, and labelling takes memory
# and time with the square of the steps
MAX_STEPS, MAX_CHARACTERS = 256, 65536


def cut_text(text: str) -> str:
    """What is kept of a text that a policy wrote: its first MAX_STEPS lines that are not blank, and at most
    MAX_CHARACTERS characters, up to the end of a line.

    The rest is as if the policy had been stopped there: it is not graded, not stored, and has no steps.
    """
    if len(text) > MAX_CHARACTERS:
        text = text[: text.rfind("\n", 0, MAX_CHARACTERS) + 1] or text[:MAX_CHARACTERS]
    end = steps = 0
    for line in text.splitlines(keepends=True):
        end += len(line)
        steps += bool(line.strip())
        if steps == MAX_STEPS:
            return text[:end]
    return text


def split_steps(text: str) -> list[str]:
    """Cut a solution into its steps: the lines that are not blank, stripped, up to and with the answer line."""
    steps = []
    for line in text.splitlines():
        if line := line.strip():
            steps.append(line)
            if line.startswith(ANSWER_MARK):
                break
    return steps


def join_steps(steps: Sequence[str]) -> str:
    """The text of some steps, each ended by a line feed, so that texts of consecutive steps can be put together."""
    return "".join(step + "\n" for step in steps)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt and steps: `ids[:prompt_length]` is the prompt; `ends[i]` is the index of the last token
    of step i, where a reward model is read and trained (GLoRe sec. 3.1)."""

    ids: list[int]
    prompt_length: int
    ends: list[int]


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Ids of what a policy reads, with the tokenizer's own start token and without its end token.

    No special tokens are read out of the text: a question that holds `</s>` does not end there.
    """
    ids = tokenizer(prompt, split_special_tokens=True)["input_ids"]
    while ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of what follows a prompt: no special tokens are added, and none are read out of the text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_steps(
    tokenizer: PreTrainedTokenizerFast, prompt: str, steps: Sequence[str], max_length: int | None = None
) -> Encoded:
    """Encode a prompt and steps, and say where each step ends.

    Where a token would cover the end of one step and the start of the next, the step ends at the token before it:
    a reward model must not see what comes after. With `max_length`, ids are cut there and only the steps that end
    within it keep an entry in `ends`.

    Raises:
        ValueError: a step is empty or holds a line feed, or gets no token of its own.
    """
    for step in steps:
        if not step.strip() or "\n" in step:
            raise ValueError(f"a step must be one line that is not blank, not {step!r}")
    head = encode_prompt(tokenizer, prompt)
    encoding = tokenizer(
        join_steps(steps), add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    offsets = encoding["offset_mapping"]
    ends, token, stop = [], -1, 0
    for step in steps:
        stop += len(step) + 1
        before = token
        while token + 1 < len(offsets) and offsets[token + 1][1] <= stop:
            token += 1
        if token == before:
            raise ValueError(f"the tokenizer gives step {step!r} no token of its own")
        ends.append(len(head) + token)
    ids = head + encoding["input_ids"]
    if max_length is not None:
        ids, ends = ids[:max_length], [end for end in ends if end < max_length]
    return Encoded(ids, len(head), ends)
