"""What a policy that learns from corrections reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from refine.lema.fields import PARTS
from refine.lema.judge import judge_reply
from refine.lema.prompts import ask_correction
from refine.lema.texts import CorrectionTextArgs, ask_as_trained, correction_texts
from rollouts.grading.answers import grade
from rollouts.prompts import PromptArgs
from rollouts.records import Correction, Mistake
from rollouts.sampling.protocol import Sample
from rollouts.steps import Chat
from tests.refine.lema.made import PROBLEMS, QUESTION, REPLY, WRONG
from training.completions import Text

BY_ID = {problem.id: problem for problem in PROBLEMS}


def correction(text: str = REPLY, parts: Sequence[str] = PARTS) -> Correction:
    mistake = Mistake("m", "p0", "a", "k", "r", WRONG, "15")
    return judge_reply(PROBLEMS[0], mistake, Sample("m", 0, text, "stop", 1, 1, 0), "c", None, parts)


READ = (
    "Mend it.\nAnswer in this form, and write nothing else:\n{form}\n\n"
    f"Question: {QUESTION}\nSolution:\nStep 1: 4 * 3 = 12\nStep 2: 12 + 2 = 15\nStep 3: #### 15\nCorrection:\n"
)
STEP, WHY = "Incorrect Step: Step K\n", "Explanation: (what is wrong with it, in a sentence or two)\n"
NEW = (
    "Correct Solution:\nStep K: (the step as it should be; then the steps after it, each on a line of its own)\n"
    "#### (the final answer alone)"
)
OWN_STEP, OWN_WHY, OWN_NEW = REPLY.split("\n", 2)


@pytest.mark.parametrize(
    ("settings", "form", "written"),
    [
        ({}, STEP + WHY + NEW, f"{REPLY}\n"),
        ({"explanation": False}, STEP + NEW, f"{OWN_STEP}\n{OWN_NEW}\n"),
        ({"wrong_step": False}, WHY + NEW, f"{OWN_WHY}\n{OWN_NEW}\n"),
        ({"wrong_step": False, "explanation": False}, NEW, f"{OWN_NEW}\n"),
    ],
)
def test_what_is_read_and_written(settings: dict[str, bool], form: str, written: str) -> None:
    args = CorrectionTextArgs("Mend it.", **settings)
    assert correction_texts(BY_ID, [correction()], args, PromptArgs()) == {
        Text(READ.format(form=form), written): QUESTION
    }


def test_only_kept_ones_and_each_once() -> None:
    kept, dropped = correction(), correction(REPLY.replace("14", "13"))
    assert dropped.reason == "wrong_answer"
    assert (
        len(correction_texts(BY_ID, [dropped, kept, replace(kept, id="m/1")], CorrectionTextArgs(), PromptArgs())) == 1
    )


@pytest.mark.parametrize("prompt", [PromptArgs(), PromptArgs("chat", instruction="Solve it.", system="Be brief.")])
@pytest.mark.parametrize("left_out", [{}, {"explanation": False}, {"wrong_step": False}])
def test_a_policy_is_asked_in_the_words_that_it_was_trained_on_and_its_reply_is_read(left_out, prompt) -> None:
    args = CorrectionTextArgs(**left_out)
    (text,) = correction_texts(BY_ID, [correction()], args, prompt)
    ask = ask_as_trained(args, prompt)
    ask.validate()
    assert text.prompt == ask_correction(QUESTION, WRONG, ask, None)
    assert isinstance(text.prompt, Chat) == (prompt.kind == "chat")
    found = correction(text.completion, ask.parts)
    assert (found.reason, found.wrong_step, found.steps) == (None, 2, correction().steps)


@pytest.mark.parametrize("masked", [False, True])
def test_a_policy_can_learn_to_take_back_a_step_without_learning_the_step(masked: bool) -> None:
    args = CorrectionTextArgs(shape="revise", mask_wrong=masked)
    (text,) = correction_texts(BY_ID, [correction()], args, PromptArgs())
    assert text.prompt == f"Q: {QUESTION}\n"
    assert text.completion == ("4 * 3 = 12\n12 + 2 = 15\nWait, step 2 is wrong. 12 + 2 is 14.\n12 + 2 = 14\n#### 14\n")
    assert text.completion[slice(*text.unlearnt)] == ("12 + 2 = 15\n" if masked else "")
    assert grade(text.completion, "14").correct
    with pytest.raises(ValueError, match="mask_wrong has no effect: with shape=correct"):
        CorrectionTextArgs(mask_wrong=True).validate()


def test_a_reply_that_does_not_say_where_it_begins_names_no_step() -> None:
    assert correction("Explanation: It is 14.\nCorrect Solution:\n#### 14", ["explanation", "solution"]).reason == (
        "missing_step"
    )
