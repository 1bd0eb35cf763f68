"""The embedded world's tokenizer: every word known, texts there and back, one token a number, saved and loaded."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine.prompts import BAD, KINDS, REFINE, render_refinement
from rollouts.prompts import render_prompt
from rollouts.steps import join_steps, split_steps
from rollouts.world.args import WorldArgs
from rollouts.world.facts import ITEMS, NAMES
from rollouts.world.tokenizer import END, MARKS, PAD, UNKNOWN, add_words, make_tokenizer
from tests.worlds import some_problems, world_args

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@cache
def tokenizer(max_value: int = 120) -> PreTrainedTokenizerFast:
    return make_tokenizer(max_value)


def tokens(text: str) -> list[str]:
    return tokenizer().convert_ids_to_tokens(tokenizer()(text)["input_ids"])


def test_a_number_is_the_same_token_wherever_it_stands():
    text = "Q: Ann has 7 pens. Bob has 12 more pens than Ann. Tom has as many pens as Ann shared equally among 3.\n"
    assert "".join(tokens(text)) == text
    assert [token for token in tokens(text) if any(map(str.isdigit, token))] == ["7", "12", "3"]
    for text in ("7+12=19>>19", "(7+12)*2", "7-12/3"):
        assert "".join(tokens(text)) == text and {"7", "12"} <= set(tokens(text))
    assert tokens("#### 19\n") == ["#### ", "19", "\n"]
    assert tokens(f"{BAD}\n{REFINE}\n") == [BAD, "\n", REFINE, "\n"]


def test_a_person_with_what_they_have_is_one_token():
    assert tokens("Q: Ann has 7 pens. Tom has as many pens as Ann shared equally among 3.\n") == [
        *("Q", ":", " Ann has ", "7", " pens", ".", " Tom has", " as", " many", " pens", " as", " Ann"),
        *(" shared", " equally", " among ", "3", ".", "\n"),
    ]


def test_the_marks_are_those_of_the_refiners():
    assert set(MARKS) == {BAD, REFINE}


def check(text: str) -> None:
    ids = tokenizer()(text)["input_ids"]
    assert tokenizer().unk_token_id not in ids, text
    assert tokenizer().eos_token_id not in ids and tokenizer().pad_token_id not in ids
    assert tokenizer().decode(ids) == text
    assert tokenizer().decode(ids, skip_special_tokens=True) == text


@settings(max_examples=80, deadline=None)
@given(world_args(), st.integers(0, 10))
def test_every_text_of_the_world_is_known_and_comes_back(args: WorldArgs, place: int):
    for problem in some_problems(args, 5):
        steps = split_steps(problem.solution)
        check(render_prompt(problem.question) + join_steps(steps))
        for kind in KINDS:
            check(render_refinement(kind, problem.question, steps, place % len(steps)) + join_steps(steps))


def test_every_name_and_item_is_known_in_every_place():
    problems = some_problems(WorldArgs(), 1500)
    assert {name for p in problems for name in NAMES if name in p.question} == set(NAMES)
    assert {item for p in problems for item in ITEMS if item in p.question} == set(ITEMS)
    for problem in problems:
        check(render_prompt(problem.question) + join_steps(split_steps(problem.solution)))


def test_prompt_and_solution_are_encoded_alone_as_together():
    for problem in some_problems(WorldArgs(), 100):
        prompt, solution = render_prompt(problem.question), problem.solution + "\n"
        first, second = (tokenizer()(text)["input_ids"] for text in (prompt, solution))
        assert first + second == tokenizer()(prompt + solution)["input_ids"]


def test_other_text_is_unknown():
    assert tokens("x")[0] == UNKNOWN
    assert tokens("120") == ["120"] and tokens("121") == [UNKNOWN] and tokens("Annabel") == [UNKNOWN]
    small = tokenizer(9)
    assert small.convert_ids_to_tokens(small("9 10")["input_ids"])[::2] == ["9", UNKNOWN]
    assert len(tokenizer(120)) - len(small) == 111


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_text_raises(text):
    tokenizer().decode(tokenizer()(text)["input_ids"])


def test_special_tokens():
    special = tokenizer()
    assert (special.pad_token, special.eos_token, special.unk_token) == (PAD, END, UNKNOWN)
    assert special.convert_tokens_to_ids([PAD, END, UNKNOWN]) == [0, 1, 2]
    assert special.decode([5, 1, 0, 0], skip_special_tokens=True) == special.decode([5])
    batch = special(["Ann has 7 pens.", "Ann"], padding=True)["input_ids"]
    assert len(batch[0]) == len(batch[1]) and batch[1][1:] == [0] * (len(batch[0]) - 1)


def test_the_same_settings_give_the_same_ids():
    assert make_tokenizer(120).get_vocab() == tokenizer().get_vocab()
    assert sorted(tokenizer().get_vocab().values()) == list(range(len(tokenizer())))


@pytest.mark.parametrize("loader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_it_is_saved_as_a_normal_tokenizer(tmp_path, loader):
    import transformers

    tokenizer().save_pretrained(tmp_path)
    loaded = getattr(transformers, loader).from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == (PAD, END, UNKNOWN)
    for problem in some_problems(WorldArgs(), 50):
        text = render_refinement("local", problem.question, split_steps(problem.solution), 0)
        assert loaded(text)["input_ids"] == tokenizer()(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_words_that_are_added_come_after_those_that_are_known(tmp_path):
    text = "Incorrect Step: Step 2\nExplanation: It takes a wrong number, 4711.\n"
    before = tokenizer()
    assert before.unk_token_id in before(text).input_ids
    after = add_words(before, [text, "Q: Ann has 7 pens.\n"])
    assert after.decode(after(text).input_ids) == text and after.unk_token_id not in after(text).input_ids
    assert {word: after.get_vocab()[word] for word in before.get_vocab()} == before.get_vocab()
    assert (after.pad_token, after.eos_token, after.unk_token) == (PAD, END, UNKNOWN)
    after.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == after(text).input_ids
    assert add_words(before, ["Q: Ann has 7 pens.\n"]) is before


def test_a_tokenizer_of_parts_of_words_stays_as_it_is():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    parts = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])), unk_token="a")
    assert add_words(parts, ["words"]) is parts
