"""Prompts and steps as token ids.

What a step is, `rollouts/solution.py` says. A prompt and what follows it are encoded apart, and all steps at once; the
end of a step is found through character offsets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rollouts.solution import cut_solution, reasoning_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

ANSWER_MARK = "####"
# of one text that a policy wrote: what is longer comes from a policy that does not stop, and labelling takes memory
# and time with the square of the steps
MAX_STEPS, MAX_CHARACTERS = 256, 65536
MAX_REASONING = 1 << 20  # characters of what a model thinks before its solution, which has no steps
_PROBE = "an answer"  # stands for an assistant's turn where a chat template is asked how such a turn ends
TODAY = date(2024, 7, 26)  # for templates that write the date: the ids of a prompt must not change overnight


def cut_text(text: str) -> str:
    """What is kept of a text that a policy wrote: its first MAX_STEPS lines that are not blank, and at most
    MAX_CHARACTERS characters, up to the end of a line. Reasoning before a solution does not count, up to MAX_REASONING
    characters: `<think>` … `</think>` of 300 lines and 2 steps are kept as they are.

    The rest is as if the policy had been stopped there: it is not graded, not stored, and has no steps.
    """
    if len(text) <= MAX_CHARACTERS and text.count("\n") < MAX_STEPS:
        return text
    begin = reasoning_end(text[:MAX_REASONING])
    kept = text[:begin] + _first_lines(text[begin:])
    # where the cut finds the solution in what stands before, it is as long as that
    return kept if len(cut_solution(kept).steps) <= MAX_STEPS else _first_lines(text)


def _first_lines(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        text = text[: text.rfind("\n", 0, MAX_CHARACTERS) + 1] or text[:MAX_CHARACTERS]
    end = steps = 0
    for line in text.split("\n"):
        end += len(line) + 1
        steps += bool(line.strip())
        if steps == MAX_STEPS:
            return text[:end]
    return text


def split_steps(text: str) -> list[str]:
    """The steps of a solution: the lines that count, up to and with the one that states the answer (`cut_solution`)."""
    return list(cut_solution(text).steps)


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


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt for a chat model: the turn of the system (None: there is none) and that of the user."""

    user: str
    system: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as servers and chat templates take them."""
        turns = (("system", self.system), ("user", self.user))
        return [{"role": role, "content": text} for role, text in turns if text is not None]


def encode_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str | Chat) -> list[int]:
    """Ids of what a policy reads, with one start token where the policy has any (`start_token`), no end token.

    A chat is what the tokenizer's chat template makes of it, up to where the assistant's turn begins. No special tokens
    are read out of the text: a question that holds `</s>` does not end there.

    Raises:
        ValueError: the tokenizer has no chat template, or its template refuses these turns.
    """
    if isinstance(prompt, Chat):
        rendered = _apply_template(tokenizer, prompt.messages, add_generation_prompt=True)
        return tokenizer(rendered, add_special_tokens=False, split_special_tokens=False)["input_ids"]
    ids = tokenizer(prompt, split_special_tokens=True)["input_ids"]
    start = start_token(tokenizer)
    ids = ids if start is None else [start, *ids]
    while ids and tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids


@lru_cache(maxsize=8)
def start_token(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The start token that prompts need and that the tokenizer does not add; None where there is no such token.

    Some tokenizers leave out the start token that their model has always seen (Gemma 4), without which it writes
    nonsense. It is taken for needed unless there is a chat template that does not write it, or it is the end token too
    (GPT-2). `"bos_token": null` in tokenizer_config.json says that there is none.
    """
    start, template = tokenizer.bos_token_id, tokenizer.chat_template
    if start is None or start == tokenizer.eos_token_id or tokenizer("a")["input_ids"][:1] == [start]:
        return None
    if template is not None and "bos_token" not in str(template):
        return None
    logger.warning(
        "prompts begin with %s, which the tokenizer %s has and does not add: if its model was not trained so, set "
        "bos_token to null in its tokenizer_config.json",
        tokenizer.bos_token,
        tokenizer.name_or_path,
    )
    return start


def end_token(tokenizer: PreTrainedTokenizerFast, prompt: str | Chat) -> int:
    """The id with which a policy ends what it writes after this prompt: in a chat the special token with which the
    template ends an assistant's turn, such as `<|im_end|>`.

    Raises:
        ValueError: see `encode_prompt`.
    """
    if isinstance(prompt, Chat):
        turns = [*prompt.messages, {"role": "assistant", "content": _PROBE}]
        _, found, tail = _apply_template(tokenizer, turns).rpartition(_PROBE)
        ids = tokenizer(tail if found else "", add_special_tokens=False, split_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in _special_tokens(tokenizer)), tokenizer.eos_token_id)
    return tokenizer.eos_token_id


def _apply_template(tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], **options: Any) -> str:
    """The text of a conversation. A special token within a turn is broken up by a space: it is text there."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ValueError(f"prompt=chat: the tokenizer {tokenizer.name_or_path or ''} has no chat template")
    harmless = []
    for turn in turns:
        text = turn["content"]
        for token in _special_tokens(tokenizer).values():
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        harmless.append(turn | {"content": text})
    try:
        return tokenizer.apply_chat_template(harmless, tokenize=False, strftime_now=TODAY.strftime, **options)
    except TemplateError as error:
        raise ValueError(f"prompt=chat: the chat template of {tokenizer.name_or_path} refuses it: {error}") from error


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    return {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of what follows a prompt: no special tokens are added, and none are read out of the text."""
    return encode_after(tokenizer, text)[0]


def encode_after(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text that follows another, and which characters (start, stop) each covers.

    Tokenizers of Llama's kind put a space before whatever they encode; in the middle of a text there is none. So the
    text is encoded behind a line feed, whose own tokens are dropped. Where a token covers the line feed and more, there
    is no such space, and the text is encoded by itself.
    """
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    behind = tokenizer("\n" + text, **options)
    ids, offsets = behind["input_ids"], behind["offset_mapping"]
    first = next((n for n, (_, stop) in enumerate(offsets) if stop > 1), len(ids))
    if first < len(ids) and offsets[first][0] < 1:
        alone = tokenizer(text, **options)
        return alone["input_ids"], alone["offset_mapping"]
    return ids[first:], [(start - 1, stop - 1) for start, stop in offsets[first:]]


def encode_steps(
    tokenizer: PreTrainedTokenizerFast, prompt: str | Chat, steps: Sequence[str], max_length: int | None = None
) -> Encoded:
    """Encode a prompt and steps, and say where each step ends.

    Where a token would cover the end of one step and the start of the next, the step ends at the token before it:
    a reward model must not see what comes after. With `max_length`, ids are cut there and only the steps that end
    within it keep an entry in `ends`.

    Raises:
        ValueError: a step is empty or holds a line feed, or gets no token of its own; or see `encode_prompt`.
    """
    for step in steps:
        if not step.strip() or "\n" in step:
            raise ValueError(f"a step must be one line that is not blank, not {step!r}")
    head = encode_prompt(tokenizer, prompt)
    written, offsets = encode_after(tokenizer, join_steps(steps))
    ends, token, stop = [], -1, 0
    for step in steps:
        stop += len(step) + 1
        before = token
        while token + 1 < len(offsets) and offsets[token + 1][1] <= stop:
            token += 1
        if token == before:
            raise ValueError(f"the tokenizer gives step {step!r} no token of its own")
        ends.append(len(head) + token)
    ids = head + written
    if max_length is not None:
        ids, ends = ids[:max_length], [end for end in ends if end < max_length]
    return Encoded(ids, len(head), ends)
