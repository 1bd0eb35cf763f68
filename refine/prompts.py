"""What refiners read and write (GLoRe sec. 3.3): the question, the draft, and where it goes wrong.

A global refiner writes a whole solution; a local one goes on from the last good step, and its text ends with the
steps up to there once more, so that it writes on as it would in a solution; a control reads no draft. All of it stands
where the question stands in the template: in a chat within the user's turn, after which comes the instruction.
The marks are plain text, so that any tokenizer can carry them; the embedded world's has a token for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollouts.prompts import PLAIN, Template, parse_prompt, render_prompt
from rollouts.steps import Chat, join_steps

BAD = "[BAD]"
REFINE = "[REFINE]"
KINDS = ("global", "local", "control")


def render_refinement(
    kind: str, question: str, draft: Sequence[str], error_step: int | None, template: Template = PLAIN
) -> str | Chat:
    """What a refiner of this kind reads.

    A local one is given `error_step` (0-based): `[BAD]` stands before that step in the draft, the steps before it
    follow again after `[REFINE]`, and what it writes replaces that step and all after it. A global one is not told
    where; a control is not shown the draft. A mark that a policy wrote into its draft by itself is shown in round
    brackets, so that it is not taken for one of ours.

    Raises:
        ValueError: the kind is unknown, or a local refiner is given no step of the draft.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    shown, kept = [] if kind == "control" else [_unmarked(step) for step in draft], ()
    if kind == "local":
        if error_step is None or not 0 <= error_step < len(shown):
            raise ValueError(f"error_step={error_step!r} is no step of a draft of {len(shown)} steps")
        kept = kept_steps(kind, shown, error_step)
        shown[error_step] = BAD + shown[error_step]
    return render_prompt(join_steps([question.strip(), *shown, REFINE, *kept]), template)


def _unmarked(step: str) -> str:
    for mark in (BAD, REFINE):
        step = step.replace(mark, f"({mark[1:-1]})")
    return step


def parse_refinement(prompt: str | Chat, template: Template = PLAIN) -> tuple[str, tuple[str, ...], int | None]:
    """Question, draft and error step of a prompt that `render_refinement` made; a control's draft is empty.

    Nothing marks where the question ends, so it must be of one line.

    Raises:
        ValueError: the text has another form.
    """
    question, *lines = (text := parse_prompt(prompt, template)).split("\n")
    if lines.count(REFINE) != 1:
        raise ValueError(f"not a text for a refiner: {text!r}")
    end = lines.index(REFINE)
    draft, kept = lines[:end], tuple(lines[end + 1 :])
    marked = [i for i, line in enumerate(draft) if line.startswith(BAD)]
    if len(marked) > 1:
        raise ValueError(f"{len(marked)} steps are marked {BAD}: {text!r}")
    steps = tuple(line.removeprefix(BAD) for line in draft)
    error = marked[0] if marked else None
    if kept != kept_steps("local", steps, error):
        raise ValueError(f"not a text for a refiner: other steps follow {REFINE} than stand before {BAD}: {text!r}")
    return question, steps, error


def kept_steps(kind: str, draft: Sequence[str], error_step: int | None) -> tuple[str, ...]:
    """The steps of the draft that stay before what a refiner writes: those before the error for a local one."""
    return tuple(draft[:error_step]) if kind == "local" and error_step is not None else ()
