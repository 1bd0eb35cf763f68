"""Random texts as policies write them, of pieces that mean something to the cut, and what holds of every cut."""

from __future__ import annotations

from hypothesis import strategies as st

from rollouts.grading.answers import grade
from rollouts.grading.wording import clean
from rollouts.solution import STOP_MARKERS, cut_solution
from rollouts.steps import join_steps, split_steps

PIECES = [
    *(
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "\u2028",
        "\x0c",
        "\r",
        "\t",
        "#### ",
        "####",
        "#### Step 1",
        "#### Final Answer",
        "### ",
    ),
    *("Answer:", "ANSWER: ", "**Answer:** ", "### Answer", "The answer is ", "the final answer is: ", "Final Answer: "),
    *(
        "\\boxed{",
        "\\boxed",
        "}",
        "\\[",
        "\\]",
        "$$",
        "$",
        "<answer>",
        "</answer>",
        "**",
        "```",
        "(",
        ")",
        "=",
        ",",
        ".",
    ),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>final<|message|>", "<|channel|>analysis<|message|>"),
    *(
        "analysis",
        "assistantfinal",
        "<|end|>",
        "<|im_end|>",
        "</s>",
        "Human:",
        "User: ",
        "Question:",
        "Q: ",
        "Problem 2:",
    ),
    *("### Question", "**Problem 3.**", "Step 1: ", "6 * 3 = 18", "18", "4", "-5", "1/2", "18 apples", "Evelyn", "x"),
    *(
        "Wait, ",
        "Actually, ",
        "Let me redo it. ",
        "That is wrong. ",
        "because ",
        " or ",
        " and ",
        "Let's see:",
        "Tom has ",
    ),
    *("Therefore ", "that she has ", "Total: ", "I hope it is correct", "No, ", "should be 12", "(6 * 3)", " Sure. "),
]

texts = st.lists(st.sampled_from([*PIECES, *STOP_MARKERS, "\n", "\n", "18"]), max_size=24).map("".join) | st.text(
    st.characters(exclude_categories=[]), max_size=80
)


def check_cut(text: str) -> None:
    """What holds of every text: the answer stands in the last step, and steps joined and cut give the same again."""
    once = cut_solution(text)
    again = cut_solution(join_steps(once.steps))
    assert again.steps == once.steps, (text, once, again)
    assert again.answer == once.answer, (text, once, again)
    assert split_steps(text) == list(once.steps)
    assert all(step and step == step.strip() and "\n" not in step for step in once.steps)
    if once.answer is not None:
        for part in once.answer.split(", "):
            assert part in clean_spaces(once.steps[-1]), (text, once)
    verdict = grade(text, "918273.5")
    assert not verdict.correct and verdict.answer == once.answer, (text, verdict)


def clean_spaces(step: str) -> str:
    """A step as its answer is taken out of it: tags are spaces in both."""
    return step if "<" not in step else clean(f"{step} {step}") + step


def check_continuation(prefix: list[str], text: str) -> None:
    """Steps that were kept stay as they are, whatever is written after them."""
    assert cut_solution(text, prefix).steps[: len(prefix)] == tuple(prefix)
