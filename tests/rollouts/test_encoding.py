"""Exact token ids of prompts and of what follows them, for tokenizers as Llama, Gemma and Qwen2 have them."""

from __future__ import annotations

from copy import deepcopy

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rollouts.prompts import PromptArgs, render_prompt
from rollouts.sampling.protocol import Request, end_tokens, prompt_ids
from rollouts.steps import Chat, encode_prompt, encode_steps, encode_text, end_token
from tests.families import FAMILIES, family
from training.completions import Text, encode_completion

PROMPT, STEPS = "Q: Ann has 7 pens.\n", ("Bob has 12 pens.", "#### 12")
WRITTEN = "Bob has 12 pens.\n#### 12\n"
LLAMA = ["<s>", "▁Q:", "▁Ann", "▁has", "▁7", "▁pens.", "<0x0A>"]
# by hand: no `▁` before Bob, which follows a line feed; encoded by itself it would be one token, ▁Bob
LLAMA_WRITTEN = ["Bo", "b", "▁has", "▁12", "▁pens.", "<0x0A>", "##", "##", "▁12", "<0x0A>"]
EXPECTED = {
    "llama": (LLAMA, LLAMA_WRITTEN),
    "legacy_llama": (LLAMA, LLAMA_WRITTEN),
    "gemma": (
        ["<bos>", "Q:", "▁Ann", "▁has", "▁7", "▁pens.", "\n"],
        ["Bob", "▁has", "▁12", "▁pens.", "\n", "####", "▁12", "\n"],
    ),
    "qwen2": (
        ["Q", ":", "ĠAnn", "Ġhas", "Ġ", "7", "Ġpens", ".", "Ċ"],
        [*("Bob", "Ġhas", "Ġ", "1", "2", "Ġpens", ".", "Ċ"), *("####", "Ġ", "1", "2", "Ċ")],
    ),
}
START = {"llama": "<s>", "legacy_llama": "<s>", "gemma": "<bos>", "qwen2": None}
ENDS = {"llama": "</s>", "legacy_llama": "</s>", "gemma": "<end_of_turn>", "qwen2": "<|im_end|>"}
CHAT = Chat("Ann has 7 pens.")


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_not_to_be_learnt_is_read_and_has_no_target(name: str) -> None:
    tokenizer, cut = family(name), (len("Bob has 12 pens.\n"), len(WRITTEN))
    learnt, part = (encode_completion(tokenizer, Text(PROMPT, WRITTEN, where)) for where in ((0, 0), cut))
    assert part.ids == learnt.ids and learnt.targets == learnt.ids[learnt.prompt :]
    assert [part.ids[place + 1] for place in part.positions] == part.targets
    assert part.targets[-1] == part.ids[-1]  # the end is learnt
    assert "12" in tokenizer.decode(learnt.targets[-4:]) and "#" not in tokenizer.decode(part.targets)
    middle = encode_completion(tokenizer, Text(PROMPT, WRITTEN, (0, cut[0])))
    assert tokenizer.decode(middle.targets[:-1]).strip().startswith("##")


def tokens(name: str, ids: list[int]) -> list[str]:
    return family(name).convert_ids_to_tokens(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_completion_by_hand(name):
    tokenizer, (head, written) = family(name), EXPECTED[name]
    assert tokens(name, encode_prompt(tokenizer, PROMPT)) == head
    assert tokens(name, encode_text(tokenizer, WRITTEN)) == written
    encoded = encode_steps(tokenizer, PROMPT, STEPS)
    assert tokens(name, encoded.ids) == head + written and encoded.prompt_length == len(head)
    feed = written[-1]
    assert encoded.ends == [i for i, token in enumerate(head + written) if token == feed and i >= len(head)]
    trained = encode_completion(tokenizer, Text(PROMPT, WRITTEN))
    assert tokens(name, trained.ids) == [*head, *written, tokenizer.eos_token]
    assert prompt_ids(tokenizer, Request("a", PROMPT, WRITTEN)) == encoded.ids


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("written", [WRITTEN, "12\n", " 12\n", "½ <s> Ann\n", "#### 12\n", "  Ann", "\tAnn"])
def test_put_together_they_are_the_ids_of_the_whole_text(name, written):
    """PB59: no space that nobody wrote stands at the seam."""
    tokenizer = family(name)
    whole = tokenizer(PROMPT + written, split_special_tokens=True)["input_ids"]
    assert encode_prompt(tokenizer, PROMPT) + encode_text(tokenizer, written) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_has_no_tokens_and_a_line_feed_is_one(name):
    assert encode_text(family(name), "") == []
    assert len(encode_text(family(name), "\n")) == 1


@pytest.mark.parametrize(
    ("adds", "template", "starts"),
    [
        *((adds, template, 1) for adds in (True, False) for template in (None, "{{ bos_token }}{{ messages }}")),
        (True, "{{ messages }}", 1),
        (False, "{{ messages }}", 0),
    ],
)
def test_a_prompt_has_one_start_token_whether_or_not_the_tokenizer_adds_it(adds, template, starts, caplog):
    """PB58: a model that has always seen its start token writes nonsense without it."""
    made = byte_tokenizer(adds)
    made.chat_template = template
    for prompt in ("Q: x\n", "<bos>Q: x\n"):  # what stands in a prompt is text
        ids = encode_prompt(made, prompt)
        assert ids[:starts].count(made.bos_token_id) == ids.count(made.bos_token_id) == starts
        assert prompt_ids(made, Request("a", prompt)) == encode_steps(made, prompt, STEPS).ids[: len(ids)] == ids
    assert caplog.text.count("set bos_token to null") == (starts == 1 and not adds)


def test_an_end_token_begins_no_prompt():
    made = byte_tokenizer(False, eos_token="<bos>")
    assert made.bos_token_id not in encode_prompt(made, PROMPT)


def byte_tokenizer(adds: bool, **options: str) -> PreTrainedTokenizerFast:
    """Bytes and `<bos>`, which its post-processor adds or not."""
    model = Tokenizer(models.BPE({sign: n for n, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.add_special_tokens(["<bos>"])
    if adds:
        model.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<bos>", **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_is_what_the_template_makes_of_it(name):
    tokenizer = family(name)
    ids = encode_prompt(tokenizer, CHAT)
    theirs = tokenizer.apply_chat_template(CHAT.messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == theirs and tokenizer.decode(ids).replace(" ", "").endswith(
        {"gemma": "model\n", "qwen2": "assistant\n"}.get(name, "[/INST]")
    )
    start = tokenizer.bos_token_id
    assert (start is None) == (START[name] is None)
    if start is not None:
        assert ids[0] == start and ids.count(start) == 1
    # the answer begins as in the text of the whole conversation
    rendered = tokenizer.apply_chat_template(CHAT.messages, add_generation_prompt=True, tokenize=False)
    whole = tokenizer(rendered + WRITTEN, add_special_tokens=False)["input_ids"]
    assert encode_steps(tokenizer, CHAT, STEPS).ids == whole
    assert prompt_ids(tokenizer, Request("a", CHAT, WRITTEN)) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_ends_as_the_template_ends_it(name):
    tokenizer = family(name)
    (end,) = tokenizer.convert_tokens_to_ids([ENDS[name]])
    assert end_token(tokenizer, CHAT) == end and end_token(tokenizer, PROMPT) == tokenizer.eos_token_id
    trained = encode_completion(tokenizer, Text(CHAT, WRITTEN))
    assert trained.ids[-1] == trained.targets[-1] == end
    assert trained.ids[:-1] == encode_steps(tokenizer, CHAT, STEPS).ids
    assert end_tokens(tokenizer, Request("a", CHAT)) == [end] and end_tokens(tokenizer, Request("a", PROMPT)) == []


def test_a_template_that_shows_no_answer_ends_with_the_end_token():
    tokenizer = deepcopy(family("gemma"))
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    assert end_token(tokenizer, CHAT) == tokenizer.eos_token_id


@pytest.mark.parametrize("name", FAMILIES)
def test_no_special_token_is_read_out_of_a_turn(name):
    tokenizer = family(name)
    special = ENDS[name]
    ids = encode_prompt(tokenizer, Chat(f"Ann has {special} pens."))
    (end,) = tokenizer.convert_tokens_to_ids([special])
    assert ids.count(end) == encode_prompt(tokenizer, CHAT).count(end)
    assert f"{special[0]} {special[1:]}" in tokenizer.decode(ids)


def test_a_system_turn_comes_first_or_is_refused_in_one_line():
    chat = Chat("Ann has 7 pens.", "Be brief.")
    text = family("qwen2").decode(encode_prompt(family("qwen2"), chat))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAnn")
    with pytest.raises(ValueError, match=r"prompt=chat: the chat template of .* refuses it: System role not supported"):
        encode_prompt(family("gemma"), chat)


def test_a_tokenizer_without_a_chat_template_is_refused_in_one_line():
    bare = deepcopy(family("llama"))
    bare.chat_template = None
    for call in (lambda: encode_prompt(bare, CHAT), lambda: end_token(bare, CHAT)):
        with pytest.raises(ValueError, match=r"^prompt=chat: the tokenizer .* has no chat template$"):
            call()


def test_a_template_that_writes_the_date_gives_the_same_ids_every_day():
    dated = deepcopy(family("qwen2"))
    dated.chat_template = "Today is {{ strftime_now('%d %b %Y') }}. {{ messages[0]['content'] }}"
    assert dated.decode(encode_prompt(dated, CHAT)) == "Today is 26 Jul 2024. Ann has 7 pens."


def test_the_question_of_a_chat_stands_before_the_instruction():
    prompt = render_prompt("Ann has 7 pens.", PromptArgs("chat", instruction="How many?").template())
    assert prompt == Chat("Ann has 7 pens.\n\nHow many?")
