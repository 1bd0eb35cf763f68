"""What people reported of other graders: one table a kind, each named by the report that it stands for."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from rollouts.grading.answers import canonical, grade
from rollouts.solution import cut_solution

ROOT = Path(__file__).resolve().parents[3]
DISPLAY = ["6 * 3 = 18\nThe answer is:\n\\[\n18\n\\]", "The final answer is:\n$$\n18\n$$\n", "The answer is \\[ 18 \\]"]

# report: texts whose answer is 18
STATES_18 = {
    "PB11 a box that is only mentioned": [
        "I will mark it with \\boxed \n6 * 3 = 18\n#### 18",
        "Use \\boxed{} for it. 6 * 3 = 18\n#### 18",
    ],
    "PB13 a box that was only thought of": [
        "<think>It could be \\boxed{12}. No.</think>\n6 * 3 = 18\n#### 18",
        "<think>Perhaps \\boxed{12}?</think> The answer is 18.",
        "Perhaps \\boxed{12}?</think>\nThe answer is 18.",
        "<|channel|>analysis<|message|>\\boxed{12}<|end|><|start|>assistant<|channel|>final<|message|>\\boxed{18}",
    ],
    "PB15 another speaker on the answer's line": [
        "6 * 3 = 18\n#### 18Human: A class of 30 shares 4 pens.\n#### 4",
        "<answer>18</answer>Human: A class of 30 ... <answer>4</answer>",
        "The answer is 18.User: next?\nThe answer is 4.",
    ],
    "PB20 harmless words after the answer": [
        "#### 18\nNote: units should be dollars.",
        "The answer is 18.\nThis avoids the common mistake of adding first.",
        "#### 18\nEach bag actually holds 3.",
        "Step 1: 6 * 3 = 18. The answer is 18.\n\nExplanation: the first attempt made the mistake of adding.",
    ],
    "PB21 a line that begins with ANSWER": [
        "6 * 3 = 18\n\nANSWER: 18",
        "6 * 3 = 18\n**Answer:** 18",
        "6 * 3 = 18\n### Answer\n18",
        "6 * 3 = 18\n### Final Answer\n18 apples",
        "Step: Answer: 5\nno.\nAnswer: 18",
    ],
    "PB23 display mathematics over lines": DISPLAY,
    "PB25 the answer on the next line, or behind a word": [
        "6 * 3 = 18\n####\n18",
        "6 * 3 = 18\n#### Total: 18",
        "6 * 3 = 18\n#### 18 (eighteen)",
    ],
    "PB26 reasoning in the same sentence": [
        "The answer is 18, because 6 * 3 = 18.",
        "The answer is 6 * 3 = 18.",
        "The answer is 18 (6 * 3).",
        "The answer is that she has 18 pens.",
    ],
}


@pytest.mark.parametrize("report", STATES_18)
def test_the_answer_is_read_and_stands_in_the_last_step(report):
    for text in STATES_18[report]:
        solution = cut_solution(text)
        assert grade(text, "18").correct, text
        assert grade(solution, "18").correct and "18" in solution.steps[-1], solution
        assert not any(grade(text, other).correct for other in ("4", "5", "12", "30")), text


# report: text, reference, right; all of them are graded
COMPARED = {
    "PB17 units within the box": [
        ("\\boxed{5\\text{ m/s}}", "5", True),
        ("\\boxed{5}", "5\\text{ m/s}", True),
        ("\\boxed{35 cm}", "35", True),
        ("\\boxed{28 pct}", "28\\%", True),
        ("\\boxed{9.8\\ \\mathrm{m/s^2}}", "9.8", True),
        ("\\boxed{5m}", "5", False),
    ],
    "PB27 bold around the sentence": [
        ("**Final Answer: Evelyn**", "Evelyn", True),
        ("**The answer is east.**", "\\text{east}", True),
        ("✅ Final Answer: **73**", "73", True),
    ],
    "PB29 several answers": [
        ("The solutions are \\boxed{3} and \\boxed{5}.", "3, 5", True),
        ("The solutions are \\boxed{3} and \\boxed{5}.", "5", False),
        ("\\boxed{x=1, x=2}", "1, 2", True),
        ("\\boxed{x = 1 \\text{ or } x = 2}", "1, 2", True),
        ("\\boxed{-2 \\text{ and } 5}", "-2, 5", True),
        ("\\boxed{1,-3}", "1,-2", False),
    ],
    "PB30 intervals, lists, tiny values, plus-minus": [
        ("\\boxed{D=(0,1.5)}", "D=(0,1)", False),
        ("\\boxed{D=(0,1)}", "D=(0,1)", True),
        ("\\boxed{n=1,2,3}", "n=2,3,4", False),
        ("\\boxed{\\frac{1}{26!}}", "\\frac{1}{24!}", False),
        ("\\boxed{2021}", "\\pm 2021", False),
        ("\\boxed{-5, 5}", "\\pm 5", True),
        ("\\boxed{1:00}", "12:00", False),
    ],
    "digits that stood apart": [
        (form.format(f"3{space}4"), number, False)
        for form in ("#### {}", "\\boxed{{{}}}")
        for space in ("  ", "\\quad ", "~~", " $", "\\text{}", "****", " .", "\u2028", "\\left.")
        for number in ("34", "3.4", "7", "12")
    ],
}


@pytest.mark.parametrize("report", COMPARED)
def test_answers_are_compared_as_people_would(report):
    for text, reference, right in COMPARED[report]:
        verdict = grade(text, reference)
        assert verdict.graded and verdict.correct is right, (text, reference, verdict)


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("2+3=5\n#### 5\nTom has 6 pens.\n#### 6", ("2+3=5", "#### 5"), "5"),
        (
            "2 + 2 = 4\n#### 4\nLet me redo it. 2 + 3 = 5\n#### 5",
            ("2 + 2 = 4", "#### 4", "Let me redo it. 2 + 3 = 5", "#### 5"),
            "5",
        ),
        ("The answer is 4.\nIt is nice.", ("The answer is 4.",), "4"),
        ("#### 4\nWait, no.", ("#### 4", "Wait, no."), None),
        ("#### Step 1: add\n2 + 3 = 5\n#### 5", ("#### Step 1: add", "2 + 3 = 5", "#### 5"), "5"),
        ("6 * 3 = 18\n####\n18", ("6 * 3 = 18", "#### 18"), "18"),
        (DISPLAY[0], ("6 * 3 = 18", "The answer is: \\[ 18 \\]"), "18"),
        ("<think>2 + 2\n= 4", (), None),
    ],
)
def test_verdict_and_steps_speak_of_the_same_answer(text, steps, answer):
    """PB01: models go on after their answer, and the parts of one system disagree."""
    assert cut_solution(text)[:2] == (steps, answer)


def test_a_limit_on_memory_below_the_worker_s_own_is_kept():
    """PB40: clusters set `ulimit -v`, and a limit above the hard one cannot be set."""
    script = 'from rollouts.grading.answers import grade; print(grade("\\\\boxed{x+y}", "y+x").correct)'
    command = ["bash", "-c", 'ulimit -v 3500000; exec "$0" -c "$1"', sys.executable, script]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr


def test_equal_values_have_one_canonical_form():
    assert {canonical(answer) for answer in ("1/2", "0.5", "\\frac{1}{2}", "x=\\frac12", "$0.50")} == {Fraction(1, 2)}
    assert canonical("2, 1") == canonical("x = 1 \\text{ or } x = 2") != canonical("(1, 2)")
    assert canonical("\\text{East}") == canonical("east") != canonical("west")
    assert canonical("3  4") not in (canonical("34"), canonical("7"))


@pytest.mark.parametrize("after", ["what comes after the answer is no step", "Each answer is a number of pens."])
def test_words_after_a_number_take_it_not_back(after: str) -> None:
    assert grade(f"1+1=2\n#### 2\n{after}", "2").correct


def test_another_number_does() -> None:
    assert grade("1+1=2\n#### 2\nThe answer is 3.", "2").rule == "hash:retracted"
