"""Labels of the embedded world that tell a judge whom a step is about: is the person whose quantity it works out the
one asked for?

They are for judges so small that they do not learn to compare the two from labels of steps: in a solution that goes
another way than the gold one, everything else is as it should be. To compare is to see that `Ann` in the question and
`Ann has` in a step are one person. Both are words of their own to the world's tokenizer, with little in common in a
policy that never had to compare them; `liken_names` gives them something, and `training.models.add_matching` puts
below the policy what finds it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rewards.encode import LabelledSolution, Mark
from rollouts.world.claims import parse_question
from rollouts.world.facts import NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_FORM = re.compile(r" ?([A-Z][a-z]+)(?:,| has ?)?")  # words of the tokenizer in which a name stands
_PERSON = re.compile(r"\b([A-Z][a-z]+) has\b(?=.*<<)")


def name_labels(question: str, solution: LabelledSolution) -> LabelledSolution:
    """The solution with other labels for all steps but the last, which says whether the whole is right.

    They stand at the last person who has something before a step's equation, as in `As Ann has 3 pens and Bob has 2
    more pens than Ann, <<3+2=5>>5`, and at the end of that step: 1 where Bob is asked for. A step without an equation
    has none. Whether a step was right is left out: mixed with it, whom it is about was not learnt.

    Raises:
        ValueError: the question is not of the embedded world.
    """
    asked = parse_question(question).asked
    labels, marks = list(solution.labels), list[Mark]()
    for number, step in enumerate(solution.steps[:-1]):
        labels[number] = None
        if own := list(_PERSON.finditer(step)):
            labels[number] = float(own[-1][1] in asked)
            marks.append(Mark(number, own[-1].end(1), labels[number]))
    return replace(solution, labels=tuple(labels), marks=tuple(marks))


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
