"""Labels within steps of the embedded world: is the person whose quantity a step works out the one asked for?

They are for judges so small that the ends of steps alone do not teach them to compare the two: in a solution that goes
another way than the gold one, everything else is as it should be. To compare is to see that `Ann` in the question and
`Ann has` in a step are one person. Both are words of their own to the world's tokenizer, with little in common in a
policy that never had to compare them; `liken_names` gives them something.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.encode import Mark
from rollouts.world.claims import parse_question
from rollouts.world.facts import NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FORM = re.compile(r" ?([A-Z][a-z]+)(?:,| has ?)?")  # words of the tokenizer in which a name stands
_PERSON = re.compile(r"\b([A-Z][a-z]+) has\b(?=.*<<)")


def name_labels(question: str, steps: Sequence[str]) -> tuple[Mark, ...]:
    """A label at the last person who has something before a step's equation, as in `As Ann has 3 pens and Bob has 2
    more pens than Ann, <<3+2=5>>5`: 1 where Bob is asked for.

    Raises:
        ValueError: the question is not of the embedded world.
    """
    asked = parse_question(question).asked
    found = ((number, list(_PERSON.finditer(step))) for number, step in enumerate(steps))
    return tuple(Mark(number, own[-1].end(1), float(own[-1][1] in asked)) for number, own in found if own)


def liken_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Add a vector to the embeddings of all words in which a name stands: another one for each name, as long as the
    embedding of a word is on average. Where a tokenizer has no such words, nothing changes."""
    import torch

    forms: dict[str, list[int]] = {}
    for word, number in tokenizer.get_vocab().items():
        match = _FORM.fullmatch(word)
        if match and match[1] in NAMES:
            forms.setdefault(match[1], []).append(number)
    embeddings = model.get_input_embeddings().weight
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        length = embeddings.norm(dim=1).mean()
        for name in sorted(forms):
            shared = torch.randn(embeddings.shape[1], generator=drawn).to(embeddings)
            embeddings[forms[name]] += shared * length / shared.norm()
