"""The embedded world's tokenizer: one token a word and one a number, saved as a normal Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rollouts.world.facts import ITEMS, NAMES, TEMPLATES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
MARKS = ("[BAD]", "[REFINE]")  # `refine/prompts.py` says what they mean

# A word keeps the space before it, and the one after it where a number follows, so that a number is the same token in
# a question ("has 7 pens") and in an equation ("<<7+5=12>>"), and joining the tokens gives the text back. A person
# with what they have ("Ann has") is one token, which stands beside the number that belongs to it: so small a model
# copies from neighbours long before it learns to look further. For the same reason a name with a comma is one token:
# the equation that follows begins with that person's quantity.
_SPLIT = (
    r"\n| ?<<|>>|#### ?|\[[A-Z]+\]|\d+| ?[A-Z][a-z]+ has(?: (?=\d))?"
    r"| ?[A-Z][a-z]+,| ?[A-Za-z]+ (?=\d)| ?[A-Za-z]+|[^\n]"
)


def make_tokenizer(max_value: int) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the world and the numbers 0 … `max_value`; other text is unknown to it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    splitter = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    words: dict[str, None] = dict.fromkeys([PAD, END, UNKNOWN, *MARKS])
    words.update(dict.fromkeys(str(number) for number in range(max_value + 1)))
    for text in _texts():
        words.update(dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(text)))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer)


def add_words(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of these texts, in ids after those of the words that it knows already.

    It is the same one where it knows them all, or is none of words: others know every text.
    """
    from tokenizers import Tokenizer

    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    if facts["model"]["type"] != "WordLevel":
        return tokenizer
    known, split = facts["model"]["vocab"], tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    before = len(known)
    for text in texts:
        for word, _ in split(text):
            known.setdefault(word, len(known))
    return tokenizer if len(known) == before else _wrap(Tokenizer.from_str(json.dumps(facts)))


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> list[str]:
    """Texts that hold every word of the world in every place where it can stand."""
    texts = ["Q: How many", "In total have, <<1+2=3>>3\n#### 3\n", "<<8/4-2*1=0>>0", "([REFINE])"]
    for item in ITEMS:
        texts.append(f"Q: {item}. How many {item} does Ann have? How many {item} do Ann and Bob have together?\n")
        for template in TEMPLATES.values():
            texts.append("Q: " + template.format(name="Ann", number=1, item=item, a="Bob", b="Ben"))
    texts.extend(f"Q: {name} has 1 than {name}.\nAs {name} has as than {name}, <<" for name in NAMES)
    return texts
