"""What correctors read: the shipped examples are corrections that the filter keeps, in both layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from refine.lema.judge import judge_reply
from refine.lema.prompts import CorrectionExample, CorrectorPromptArgs, ask_correction, show_mistake
from refine.lema.reply import LAYOUTS
from rollouts.grading.answers import grade
from rollouts.records import Mistake, Problem
from rollouts.sampling.protocol import Sample
from rollouts.steps import Chat, split_steps

FOLDER = Path(__file__).parents[3] / "conf" / "lema" / "prompts"
FILES = sorted(FOLDER.glob("*.yaml"))


def load(path: Path, **changes) -> CorrectorPromptArgs:
    values = yaml.safe_load(path.read_text())
    examples = [CorrectionExample(**example) for example in values.pop("examples")]
    args = CorrectorPromptArgs(**values, examples=examples)
    args = replace(args, **changes)
    args.validate()
    return args


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_example_is_a_correction_that_is_kept(path: Path, layout: str) -> None:
    args = load(path, layout=layout)
    prompt = ask_correction("What now?", ["a", "#### b"], args, None)
    assert len(args.examples) == 4 and prompt.startswith(args.instruction) and prompt.endswith("\nCorrection:\n")
    shown = prompt.split("\n\nQuestion: ")[1:]
    assert len(shown) == 5
    for example, text in zip(args.examples, shown, strict=False):
        asked, _, reply = text.partition("\nCorrection:\n")
        problem = Problem("p", example.question, example.answer, None, "jsonl", "train")
        steps = tuple(split_steps(example.wrong))
        assert f"Question: {asked}" == show_mistake(example.question, steps)
        verdict = grade(example.wrong, example.answer)
        assert verdict.graded and not verdict.correct
        mistake = Mistake("m", "p", "a", "k", "r", steps, verdict.answer)
        found = judge_reply(problem, mistake, Sample("m", 0, reply, "stop", 1, 1, 0), "c", None)
        assert (found.reason, found.wrong_step, found.explanation) == (None, example.step, example.explanation)


def test_the_steps_are_numbered_and_a_hint_follows() -> None:
    text = show_mistake(" What? ", ["Step 1: a", "**Step 2.** b", "#### 3"], 2)
    assert text == (
        "Question: What?\nSolution:\nStep 1: a\nStep 2: b\nStep 3: #### 3\n"
        "Hint: a checker takes step 2 for the first wrong one."
    )


def test_a_chat_is_one_turn_of_the_user() -> None:
    args = load(FILES[0], chat=True, system="You are a teacher.")
    prompt = ask_correction("What?", ["a"], args, None)
    assert prompt == Chat(ask_correction("What?", ["a"], load(FILES[0]), None).rstrip("\n"), "You are a teacher.")
    assert args.stop == () and load(FILES[0]).stop == ("\nQuestion:",)


def test_examples_that_no_corrector_could_give_are_refused() -> None:
    good = load(FILES[0]).examples[0]
    for change, message in (
        ({"step": 9}, "ask.examples.0.: step 9 is no step"),
        ({"explanation": ""}, "ask.examples.0.: missing_explanation"),
        ({"right": "..."}, "ask.examples.0.: "),
    ):
        with pytest.raises(ValueError, match=message):
            CorrectorPromptArgs(examples=[replace(good, **change)]).validate()
    with pytest.raises(ValueError, match=r"ask.layout='xml' is none of plain, json"):
        CorrectorPromptArgs(layout="xml").validate()
    with pytest.raises(ValueError, match=r"is used with ask.chat=true only"):
        CorrectorPromptArgs(system="x").validate()
