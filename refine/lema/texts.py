"""Corrections as training texts: a question with its wrong solution in, what a corrector should have written out; or
the question in, and a solution that goes wrong, says so and goes on rightly out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refine.lema.fields import PARTS
from refine.lema.judge import render_kept
from refine.lema.prompts import CorrectorPromptArgs, ask_correction
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Correction, Problem
from rollouts.steps import join_steps
from stages.checks import check_choices
from training.completions import Text

SHAPES = ("correct", "revise")


@dataclass
class CorrectionTextArgs:
    """What a policy that learns from corrections reads before the question, and which fields it writes beside the
    corrected solution. `ask_as_trained` asks it in the same words.

    With `shape` revise it reads the question alone, as for any solution, and writes the steps up to the wrong one, a
    line that says what is wrong (`render_remark`), and the steps from there on; with `mask_wrong` the wrong step has no
    part in the loss, so that it is not learnt.
    """

    instruction: str = "The solution of this question is wrong. Correct it."
    wrong_step: bool = True  #: write which step is wrong
    explanation: bool = True  #: write what is wrong with it
    shape: str = "correct"  #: or revise
    mask_wrong: bool = False  #: with shape=revise, leave the wrong step out of the loss

    def validate(self) -> None:
        """Raise ValueError naming the first setting that has no effect."""
        check_choices(self, "correction.", shape=SHAPES)
        if self.mask_wrong and self.shape != "revise":
            raise ValueError(
                f"correction.mask_wrong has no effect: with shape={self.shape} the wrong steps are read only"
            )

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


def render_remark(step: int, explanation: str, parts: Sequence[str] = PARTS) -> str:
    """The line between a wrong step (from 1) and its correction: `Wait, step 2 is wrong. 12 + 2 is 14.`"""
    head = f"Wait, step {step} is wrong." if "step" in parts else "Wait, this is wrong."
    return f"{head} {explanation}".rstrip() if "explanation" in parts else head


def render_revision(correction: Correction, parts: Sequence[str] = PARTS) -> tuple[str, tuple[int, int]]:
    """A solution that goes wrong, says so, and goes on rightly, a step a line; and where in it the wrong step is."""
    kept = join_steps(correction.mistake[: correction.wrong_step - 1])
    wrong = join_steps([correction.mistake[correction.wrong_step - 1]])
    rest = [
        render_remark(correction.wrong_step, correction.explanation, parts),
        *correction.steps[correction.wrong_step - 1 :],
    ]
    return kept + wrong + join_steps(rest), (len(kept), len(kept) + len(wrong))


def correction_texts(
    problems: Mapping[str, Problem], corrections: Sequence[Correction], args: CorrectionTextArgs, prompt: PromptArgs
) -> dict[Text, str]:
    """The texts of the corrections that are kept, without duplicates, each with its question."""
    ask, template = ask_as_trained(args, prompt), prompt.template()
    found = {}
    for one in corrections:
        if one.reason is None:
            question = problems[one.problem_id].question
            if args.shape == "revise":
                text, wrong = render_revision(one, args.parts)
                found[Text(render_prompt(question, template), text, wrong if args.mask_wrong else (0, 0))] = question
                continue
            read = ask_correction(question, one.mistake, ask, None)
            found[Text(read, render_kept(one, parts=args.parts) + "\n")] = question
    return found
