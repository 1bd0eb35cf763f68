"""Corrections as training texts: a question with its wrong solution in, what a corrector should have written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine.lema.fields import PARTS
from refine.lema.judge import render_kept
from refine.lema.prompts import CorrectorPromptArgs, ask_correction
from rollouts.prompts import PromptArgs
from rollouts.records import Correction, Problem
from training.completions import Text


@dataclass
class CorrectionTextArgs:
    """What a policy that learns from corrections reads before the question, and which fields it writes beside the
    corrected solution. `ask_as_trained` asks it in the same words.
    """

    instruction: str = "The solution of this question is wrong. Correct it."
    wrong_step: bool = True  #: write which step is wrong
    explanation: bool = True  #: write what is wrong with it

    @property
    def parts(self) -> tuple[str, ...]:
        """The fields of the output, in the paper's order."""
        left_out = {"step": not self.wrong_step, "explanation": not self.explanation}
        return tuple(part for part in PARTS if not left_out.get(part))


def ask_as_trained(args: CorrectionTextArgs, prompt: PromptArgs) -> CorrectorPromptArgs:
    """How the stage `correct` asks a policy that was trained on these texts. In a chat the user's turn has all that is
    read."""
    return CorrectorPromptArgs(
        args.instruction, parts=list(args.parts), chat=prompt.kind == "chat", system=prompt.system
    )


def correction_texts(
    problems: Mapping[str, Problem], corrections: Sequence[Correction], args: CorrectionTextArgs, prompt: PromptArgs
) -> dict[Text, str]:
    """The texts of the corrections that are kept, without duplicates, each with its question."""
    ask = ask_as_trained(args, prompt)
    found = {}
    for one in corrections:
        if one.reason is None:
            question = problems[one.problem_id].question
            read = ask_correction(question, one.mistake, ask, None)
            found[Text(read, render_kept(one, parts=args.parts) + "\n")] = question
    return found
