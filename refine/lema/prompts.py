"""What a corrector reads: an instruction, annotated examples, and a question with its wrong solution, a step a line.

Question: A box has 4 rows of 3 pens. …
Solution:
Step 1: 4 * 3 = 13
Step 2: #### 13
Correction:
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from refine.lema.fields import PARTS
from refine.lema.judge import bare_steps
from refine.lema.reply import LAYOUTS, render_correction
from rollouts.steps import Chat, split_steps
from stages.checks import check_choices
from stages.stage import MISSING

_QUESTION = "Question: "
_HEAD = {
    "plain": "Answer in this form, and write nothing else:",
    "json": "Answer with one JSON object, and write nothing else:",
}
_FORMS = {
    "plain": {
        "step": "Incorrect Step: Step K",
        "explanation": "Explanation: (what is wrong with it, in a sentence or two)",
        "solution": "Correct Solution:\n"
        "Step K: (the step as it should be; then the steps after it, each on a line of its own)\n"
        "#### (the final answer alone)",
    },
    "json": {
        "step": '"incorrect_step": K',
        "explanation": '"explanation": "(what is wrong with it, in a sentence or two)"',
        "solution": '"correct_solution": ["Step K: (the step as it should be)", "(then every step after it)", '
        '"#### (the final answer alone)"]',
    },
}


def _form(layout: str, parts: Sequence[str]) -> str:
    """How a reply with these fields is to look."""
    fields = [_FORMS[layout][part] for part in PARTS if part in parts]
    return f"{_HEAD[layout]}\n" + ("\n".join(fields) if layout == "plain" else f"{{{', '.join(fields)}}}")


@dataclass
class CorrectionExample:
    """An annotated example: a wrong solution, the step (from 1) that is wrong, why, and the lines from there on.
    `answer` is the right one."""

    question: str = MISSING
    wrong: str = MISSING
    step: int = MISSING
    explanation: str = MISSING
    right: str = MISSING
    answer: str = MISSING


@dataclass
class CorrectorPromptArgs:
    """How a corrector is asked: with `chat` as the user's turn (and `system` as the system's), else as a text.

    The form of the reply (`layout`: plain or json, with the fields `parts`) is described after the instruction. Where
    the reply does not name the step, the number of the first corrected one says which it is.
    """

    instruction: str = ""
    examples: list[CorrectionExample] = field(default_factory=list)
    layout: str = "plain"  #: plain fields or json
    parts: list[str] = field(default_factory=lambda: list(PARTS))  #: of step, explanation, solution
    chat: bool = False  #: as a turn of a conversation; a text for policies that are no chat models
    system: str | None = None

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense, or an example that no corrector could give."""
        check_choices(self, "ask.", layout=LAYOUTS)
        if set(self.parts) - set(PARTS) or len(set(self.parts)) < len(self.parts) or "solution" not in self.parts:
            raise ValueError(
                f"ask.parts={list(self.parts)} must be some of {', '.join(PARTS)}, with solution, each once"
            )
        if self.system is not None and not self.chat:
            raise ValueError(f"ask.system={self.system!r} is used with ask.chat=true only")
        for n, example in enumerate(self.examples):
            if not 1 <= example.step <= len(split_steps(example.wrong)):
                raise ValueError(f"ask.examples[{n}]: step {example.step} is no step of {example.wrong!r}")
            try:
                render_correction(example.step, example.explanation.strip(), split_steps(example.right))
            except ValueError as error:
                raise ValueError(f"ask.examples[{n}]: {error}") from error

    @property
    def stop(self) -> tuple[str, ...]:
        """What ends a reply: after examples, a policy would go on with a question of its own."""
        return () if self.chat else ("\n" + _QUESTION.rstrip(),)


def show_mistake(question: str, steps: Sequence[str], hint: int | None = None) -> str:
    """A question and its wrong solution, with the number of every step; `hint` is a step (from 1) to look at."""
    lines = [f"Step {n}: {step}" for n, step in enumerate(bare_steps(steps), start=1)]
    told = [f"Hint: a checker takes step {hint} for the first wrong one."] if hint is not None else []
    return "\n".join([_QUESTION + question.strip(), "Solution:", *lines, *told])


def ask_correction(question: str, steps: Sequence[str], args: CorrectorPromptArgs, hint: int | None) -> str | Chat:
    """What a corrector reads. A text ends with a line feed, so that no token reaches across its end."""
    texts = [f"{args.instruction.strip()}\n{_form(args.layout, args.parts)}".strip()]
    for one in args.examples:
        right = render_correction(one.step, one.explanation.strip(), split_steps(one.right), args.layout, args.parts)
        texts.append(f"{show_mistake(one.question, split_steps(one.wrong))}\nCorrection:\n{right}")
    text = "\n\n".join([*texts, f"{show_mistake(question, steps, hint)}\nCorrection:\n"])
    return Chat(text.rstrip("\n"), args.system) if args.chat else text
