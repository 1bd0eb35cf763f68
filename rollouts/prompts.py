"""What a policy reads to solve a problem, and what it writes.

What refiners read is in `refine/prompts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollouts.steps import join_steps, split_steps

_HEAD = "Q: "


def render_prompt(question: str) -> str:
    """The prompt that asks for a solution; it ends with a line feed, so that no token reaches across its end."""
    return f"{_HEAD}{question.strip()}\n"


def parse_prompt(prompt: str) -> str:
    """The question of a prompt that `render_prompt` made.

    Raises:
        ValueError: the prompt has another form.
    """
    if not prompt.startswith(_HEAD) or not prompt.endswith("\n"):
        raise ValueError(f"not a prompt that asks for a solution: {prompt!r}")
    return prompt[len(_HEAD) : -1]


def render_solution(steps: Sequence[str]) -> str:
    """The text a policy writes for a solution, without the end-of-text token."""
    return join_steps(steps)


def parse_solution(text: str) -> tuple[str, ...]:
    """The steps of a text that a policy wrote."""
    return tuple(split_steps(text))
