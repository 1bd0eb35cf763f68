"""Solutions cut into steps, and where each step ends in token ids: exact, also where a token covers two steps."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.prompts import render_prompt
from rollouts.steps import (
    MAX_CHARACTERS,
    MAX_STEPS,
    Encoded,
    cut_text,
    encode_prompt,
    encode_steps,
    encode_text,
    join_steps,
    split_steps,
)
from rollouts.world.args import WorldArgs
from rollouts.world.tokenizer import make_tokenizer
from tests.worlds import some_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT = "Q: How many pens?\n"


# text


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        *(
            ("", []),
            ("\n \n\t\n", []),
            ("a", ["a"]),
            ("a\n", ["a"]),
            ("a\nb", ["a", "b"]),
            ("\n a \n\n b\r\n", ["a", "b"]),
        ),
        *(
            ("a\n#### 5\nb", ["a", "#### 5"]),
            ("#### 5\n#### 6", ["#### 5"]),
            ("####", ["####"]),
            ("  ####5\nb", ["####5"]),
        ),
        *(("a #### 5\nb", ["a #### 5"]), ("### 5\nb", ["### 5", "b"]), ("##### 5\nb", ["##### 5"])),
        # PB08
        *(("a\u2028b", ["a\u2028b"]), ("x = \x0crac{1}{2}\nc\rd", ["x = \x0crac{1}{2}", "c\rd"])),
        *(("a\rb\x0cc\x85d", ["a\rb\x0cc\x85d"]), ("a b", ["a b"])),
    ],
)
def test_text_is_cut_into_lines_up_to_the_answer(text, steps):
    assert split_steps(text) == steps


def test_a_text_is_kept_up_to_the_limits():
    line = "<<7+5=12>>12\n\n"
    kept = cut_text(line * MAX_STEPS + "#### 12\n")
    assert kept == (line * MAX_STEPS)[:-1] and len(split_steps(kept)) == MAX_STEPS
    whole = line * (MAX_STEPS - 1) + "#### 12"
    assert cut_text(whole) == whole
    # never within a line, where a number may stand, but for a line that is too long by itself
    assert cut_text("a\n" + "1" * MAX_CHARACTERS) == "a\n"
    assert cut_text("1" * (MAX_CHARACTERS + 1)) == "1" * MAX_CHARACTERS
    assert cut_text(" \n" * 100_000) == " \n" * (MAX_CHARACTERS // 2)


@given(st.text())
def test_a_text_within_the_limits_is_kept_whole(text):
    assert cut_text(text) == text


def test_reasoning_before_a_solution_is_no_step_of_it():
    thought = "".join(f"maybe {i} pens\n" for i in range(2 * MAX_STEPS))
    for text in (f"<think>\n{thought}</think>\n1+1=2\n#### 2", f"{thought * 12}</think>\n1+1=2\n#### 2"):
        assert cut_text(text) == text and split_steps(cut_text(text)) == ["1+1=2", "#### 2"]
    many = f"<think>\n{thought}</think>\n" + "1+1=2\n" * (MAX_STEPS + 9)
    assert len(split_steps(cut_text(many))) == MAX_STEPS
    # the tag of a next problem makes no reasoning of what stands before it
    after = "1+1=2\n" * 999 + "#### 2\nQ: Next?\n<think>\nIt is 3.\n</think>\n#### 3"
    assert len(split_steps(cut_text(after))) == MAX_STEPS


def test_steps_are_put_together():
    assert join_steps([]) == ""
    assert join_steps(["a", "#### 5"]) == "a\n#### 5\n"
    assert join_steps(["a"]) + join_steps(["b"]) == join_steps(["a", "b"])


@given(st.text())
def test_there_and_back(text):
    steps = split_steps(text)
    assert split_steps(join_steps(steps)) == steps
    assert all(step and step == step.strip() and "\n" not in step for step in steps)


# ids: the embedded tokenizer, in which the line feed that ends a step is a token


@cache
def words() -> PreTrainedTokenizerFast:
    return make_tokenizer(50)


def test_the_exact_ids_of_steps():
    def ids(*tokens: str) -> list[int]:
        assert words().unk_token_id not in words().convert_tokens_to_ids(tokens)
        return words().convert_tokens_to_ids(tokens)

    head = ids("Q", ":", " How", " many", " pens", "?", "\n")
    first, last = ids("7", "+", "5", "=", "12", ">>", "12", "\n"), ids("#### ", "12", "\n")
    assert encode_prompt(words(), PROMPT) == head
    assert encode_text(words(), "7+5=12>>12\n#### 12\n") == first + last
    encoded = encode_steps(words(), PROMPT, ["7+5=12>>12", "#### 12"])
    assert encoded == Encoded(head + first + last, 7, [14, 17])
    assert encode_steps(words(), PROMPT, []) == Encoded(head, 7, [])


def test_the_end_of_a_step_is_its_line_feed():
    line_feed = words().convert_tokens_to_ids("\n")
    for problem in some_problems(WorldArgs(), 50):
        prompt, steps = render_prompt(problem.question), split_steps(problem.solution)
        encoded = encode_steps(words(), prompt, steps)
        assert encoded.ids == words()(prompt + join_steps(steps))["input_ids"]
        assert encoded.prompt_length == len(encode_prompt(words(), prompt))
        places = [i for i, token in enumerate(encoded.ids) if token == line_feed and i >= encoded.prompt_length]
        assert encoded.ends == places


def test_the_start_of_a_solution_has_the_same_ids():
    (problem,) = some_problems(WorldArgs(min_steps=4), 1)
    steps = split_steps(problem.solution)
    whole = encode_steps(words(), PROMPT, steps)
    for n in range(len(steps) + 1):
        part = encode_steps(words(), PROMPT, steps[:n])
        assert (part.ids, part.ends) == (whole.ids[: len(part.ids)], whole.ends[:n])


def test_long_solutions_are_cut():
    steps = ["7", "8", "9"]
    whole = encode_steps(words(), PROMPT, steps)
    assert (len(whole.ids), whole.prompt_length, whole.ends) == (13, 7, [8, 10, 12])
    assert encode_steps(words(), PROMPT, steps, 13) == whole
    for length, ends in ((12, [8, 10]), (9, [8]), (8, []), (4, [])):
        assert encode_steps(words(), PROMPT, steps, length) == Encoded(whole.ids[:length], 7, ends)


@pytest.mark.parametrize("step", ["", " ", "\t", "a\nb", "a\n", "\n"])
def test_a_step_is_one_line(step):
    with pytest.raises(ValueError, match="a step must be one line that is not blank, not "):
        encode_steps(words(), PROMPT, ["7", step])


# ids: byte-pair tokenizers, trained here


def train_bpe(texts: list[str], size: int, use_regex: bool, ends: bool = True) -> PreTrainedTokenizerFast:
    """Without the regex a token may hold anything, also a line feed between its neighbours."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@cache
def merging() -> PreTrainedTokenizerFast:
    """Learns the two tokens "1\\n2" and "\\n3", and few others."""
    tokenizer = train_bpe(["1\n2"] * 50 + ["\n3"] * 20, 261, use_regex=False)
    assert {"1Ċ2", "Ċ3"} <= set(tokenizer.get_vocab())
    return tokenizer


def pieces(encoded: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The text between the ends of the steps."""
    starts = [encoded.prompt_length, *(end + 1 for end in encoded.ends)]
    return [tokenizer.decode(encoded.ids[a:b]) for a, b in zip(starts, [*starts[1:], None], strict=True)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["51", "24"], ["5", "1\n24\n", ""]),  # the token "1\n2" sees the next step: the first ends before it
        (["5", "34"], ["5", "\n34\n", ""]),  # so does "\n3"
        (["51", "34"], ["51\n", "34\n", ""]),  # here "1\n" is one
        (["51", "2", "34"], ["5", "1\n2", "\n34\n", ""]),
        (["51", "54"], ["51\n", "54\n", ""]),
        (["51", "251", "25"], ["5", "1\n25", "1\n25\n", ""]),
        (["4", "4", "4"], ["4\n", "4\n", "4\n", ""]),
    ],
)
def test_a_token_of_two_steps_belongs_to_the_second(steps, expected):
    encoded = encode_steps(merging(), "4", steps)
    assert pieces(encoded, merging()) == expected
    assert encoded.ids[: encoded.prompt_length] == encode_prompt(merging(), "4")
    assert encoded.ids[encoded.prompt_length :] == encode_text(merging(), join_steps(steps))


@pytest.mark.parametrize("steps", [["1", "24"], ["4", "1", "2"]])
def test_a_step_without_a_token_of_its_own_is_refused(steps):
    """All of it stands in a token that goes on into the next step."""
    with pytest.raises(ValueError, match="the tokenizer gives step '1' no token of its own"):
        encode_steps(merging(), "4", steps)


@cache
def trained(use_regex: bool, size: int) -> PreTrainedTokenizerFast:
    texts = [p.question + "\n" + p.solution + "\n" for p in some_problems(WorldArgs(seed=1), 150)]
    return train_bpe([*texts, "½ pens\n\n  5 €\n"], size, use_regex)


@pytest.mark.parametrize(("use_regex", "size"), [(True, 400), (False, 400), (False, 1500)])
def test_ends_in_tokenizers_as_people_train_them(use_regex, size):
    tokenizer, crossed = trained(use_regex, size), 0
    for problem in some_problems(WorldArgs(), 60):
        steps = [*split_steps(problem.solution)[:-1], "½ €½", "#### 5"]
        encoded = encode_steps(tokenizer, PROMPT, steps)
        assert encoded.ids == encode_prompt(tokenizer, PROMPT) + encode_text(tokenizer, join_steps(steps))
        assert tokenizer.decode(encoded.ids[encoded.prompt_length :]) == join_steps(steps)
        assert len(encoded.ends) == len(steps) and encoded.ends == sorted(set(encoded.ends))
        assert encoded.ends[-1] == len(encoded.ids) - 1
        for n, end in enumerate(encoded.ends):
            upto = tokenizer.decode(encoded.ids[encoded.prompt_length : end + 1])
            after = tokenizer.decode(encoded.ids[encoded.prompt_length : end + 2])
            assert join_steps(steps[: n + 1]).startswith(upto), "a step's end has seen what comes after"
            assert after == upto or len(after) > len(join_steps(steps[: n + 1])) or n == len(steps) - 1
            crossed += upto != join_steps(steps[: n + 1])
    assert (crossed == 0) is use_regex


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1).map(str.strip).filter(lambda s: s and len(s.splitlines()) == 1), max_size=5))
def test_any_step_in_a_byte_level_tokenizer(steps):
    tokenizer = trained(True, 400)
    encoded = encode_steps(tokenizer, PROMPT, steps)
    assert pieces(encoded, tokenizer) == [*(step + "\n" for step in steps), ""]


# special tokens


def test_a_prompt_starts_as_the_tokenizer_wants_and_never_ends():
    tokenizer = trained(True, 400)
    ids = encode_prompt(tokenizer, "Ann")
    assert ids == [tokenizer.bos_token_id, *encode_text(tokenizer, "Ann")]
    assert tokenizer("Ann")["input_ids"] == [*ids, tokenizer.eos_token_id]
    assert encode_prompt(tokenizer, "") == [tokenizer.bos_token_id]
    assert encode_steps(tokenizer, "Ann", ["a"]).ids[0] == tokenizer.bos_token_id
    bare = train_bpe(["Ann"], 258, use_regex=True, ends=False)
    bare.bos_token = None
    assert encode_prompt(bare, "Ann") == encode_text(bare, "Ann") == bare("Ann")["input_ids"]


@pytest.mark.parametrize("text", ["a</s>b", "</s>", "<s>a", "a</s>"])
def test_special_tokens_are_not_read_out_of_text(text):
    tokenizer = trained(True, 400)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert special.isdisjoint(encode_text(tokenizer, text))
    assert special.isdisjoint(encode_prompt(tokenizer, text)[1:])
    encoded = encode_steps(tokenizer, PROMPT, [text, "b"])
    assert special.isdisjoint(encoded.ids[1:])
    assert pieces(encoded, tokenizer) == [text + "\n", "b\n", ""]
    assert special & set(tokenizer(text, add_special_tokens=False)["input_ids"])  # and none is so by itself


def test_the_end_token_of_the_embedded_world_is_not_read_out_of_text():
    assert words().eos_token_id not in encode_prompt(words(), "Q: Ann has <eos> pens.\n")
    assert words().eos_token_id not in encode_steps(words(), PROMPT, ["<eos>", "#### 5<eos>"]).ids
