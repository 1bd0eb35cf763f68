"""What refiners read and write (GLoRe sec. 3.3): the question, the draft, and where it goes wrong.

A global refiner writes a whole solution, a local one goes on from the last good step. One control reads no draft, the
other (`shuffled`) the draft of another problem, which says nothing. What a local one reads ends with the good steps
once more, so that it goes on as in a solution. For a draft a, b, c with its error at step 1 (0-based) it reads, a line
each: the question, a, [BAD]b, c, [REFINE], a.

All of it stands where the question stands in the template; in a chat that is the user's turn, before the instruction.
The marks are plain text, which any tokenizer can read; that of the embedded world has a token for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollouts.prompts import PLAIN, Template, render_prompt
from rollouts.steps import Chat, join_steps

BAD = "[BAD]"
REFINE = "[REFINE]"
KINDS = ("global", "local", "control", "shuffled")


def render_refinement(
    kind: str, question: str, draft: Sequence[str], error_step: int | None, template: Template = PLAIN
) -> str | Chat:
    """What a refiner of this kind reads.

    A local one is told the `error_step` (0-based); what it writes replaces that step and all after it. A mark that a
    policy wrote into its draft by itself is shown in round brackets, so that it is not taken for one of ours.

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


def kept_steps(kind: str, draft: Sequence[str], error_step: int | None) -> tuple[str, ...]:
    """The steps of the draft that stay before what a refiner writes: those before the error for a local one."""
    return tuple(draft[:error_step]) if kind == "local" and error_step is not None else ()
