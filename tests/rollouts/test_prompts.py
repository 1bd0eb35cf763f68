"""Prompts and solutions, there and back, in every template."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rollouts.grading.answers import extract
from rollouts.prompts import (
    PLAIN,
    PromptArgs,
    parse_prompt,
    read_template,
    render_prompt,
)
from rollouts.steps import Chat, join_steps, split_steps

QUESTION = "Ann has 7 pens. How many pens does Ann have?"
CONF = Path(__file__).parents[2] / "conf" / "prompt"
TEMPLATES = {
    path.stem: PromptArgs(**yaml.safe_load(path.read_text())).template() for path in sorted(CONF.glob("*.yaml"))
} | {"bare chat": PromptArgs("chat").template(), "system": PromptArgs("chat", system="Be brief.").template()}


def test_a_prompt():
    assert render_prompt(QUESTION) == f"Q: {QUESTION}\n"
    assert render_prompt(f"  {QUESTION}\n") == f"Q: {QUESTION}\n"
    assert parse_prompt(f"Q: {QUESTION}\n") == QUESTION


@pytest.mark.parametrize("name", TEMPLATES)
@given(question=st.text())
def test_a_question_comes_back(name, question):
    template = TEMPLATES[name]
    assert parse_prompt(render_prompt(question, template), template) == question.strip()


def test_the_templates_that_come_with_the_package():
    assert TEMPLATES["plain"] == PromptArgs().template() == PLAIN
    few_shot, chat = TEMPLATES["few_shot"], TEMPLATES["chat"]
    text = render_prompt(QUESTION, few_shot)
    assert text.endswith(f"\n\nQ: {QUESTION}\n") and text.startswith("Q: ")
    *examples, asked = text.split("\n\n")
    assert len(examples) == 4 and asked == render_prompt(QUESTION)
    for example in examples:  # each is asked as the question is, and leaves an answer that is read
        head, solution = example.split("\n", 1)
        assert parse_prompt(head + "\n") and extract(solution)[0] == split_steps(solution)[-1].removeprefix("#### ")
    prompt = render_prompt(QUESTION, chat)
    assert prompt.user.startswith(f"{QUESTION}\n\nSolve ") and prompt.user.endswith("\n#### 18")
    assert [turn["role"] for turn in prompt.messages] == ["user"]
    system = render_prompt(QUESTION, TEMPLATES["system"])
    assert system.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]


def test_after_examples_a_completion_ends_at_the_next_heading():
    assert TEMPLATES["few_shot"].stop == ("\nQ:",)
    assert f"#### 3\n\n{render_prompt(QUESTION)}".find(TEMPLATES["few_shot"].stop[0]) == len("#### 3\n")
    assert all(template.stop == () for name, template in TEMPLATES.items() if name != "few_shot")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_comes_back_from_its_facts(name):
    assert read_template(TEMPLATES[name].facts()) == TEMPLATES[name]


@pytest.mark.parametrize(
    "facts",
    [
        None,
        7,
        [],
        "",
        "Q: \n",
        "Question: {question}",
        "Q: {question} {question}\n",
        {"user": "{question}"},
        {"user": 7, "system": None},
    ],
)
def test_facts_of_another_form_are_refused(facts):
    with pytest.raises(ValueError, match="not a template of a question: "):
        read_template(facts)


EXAMPLE = "Q: How many?\n7 + 5 = 12\n#### 12"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (PromptArgs("caht"), "prompt.kind='caht' is none of plain, few_shot, chat"),
        (PromptArgs("few_shot"), "prompt.kind=few_shot needs prompt.examples"),
        (PromptArgs("plain", EXAMPLE), "prompt.examples is used by prompt=few_shot only, not by plain"),
        (PromptArgs("few_shot", EXAMPLE, "Solve."), "prompt.instruction is used by prompt=chat only, not by few_shot"),
        (PromptArgs("plain", system="Hi."), "prompt.system is used by prompt=chat only, not by plain"),
        (PromptArgs("chat", instruction="{question}"), "prompt.instruction must not hold {question}"),
        (PromptArgs("few_shot", "How many?\n#### 12"), "prompt.examples: each is .* not 'How many"),
        (PromptArgs("few_shot", "Q: How many?\n7"), "not 'Q: How many.*7'"),
        (PromptArgs("few_shot", "Q: How many?"), "not 'Q: How many"),
        (PromptArgs("few_shot", f"{EXAMPLE}\nmore"), "not 'Q: How many"),
        (PromptArgs("few_shot", f"{EXAMPLE}\n\n\n{EXAMPLE}"), "and then a blank line; not ''|not '.nQ"),
    ],
)
def test_a_setting_that_is_not_used_or_has_another_form_is_refused(args, message):
    with pytest.raises(ValueError, match=message) as caught:
        args.template()
    assert "\n" not in str(caught.value)


def test_a_prompt_of_another_template_is_refused():
    for prompt, template in (
        (Chat(QUESTION), PLAIN),
        (f"Q: {QUESTION}\n", TEMPLATES["few_shot"]),
        (f"Q: {QUESTION}\n", TEMPLATES["bare chat"]),
        (Chat(QUESTION), TEMPLATES["system"]),
        (Chat(QUESTION), TEMPLATES["chat"]),
    ):
        with pytest.raises(ValueError, match="not a prompt that asks for a solution: "):
            parse_prompt(prompt, template)


@pytest.mark.parametrize("prompt", ["", "\n", "Q:", QUESTION, f"Q: {QUESTION}", f"{QUESTION}\n", f"A: {QUESTION}\n"])
def test_another_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="not a prompt that asks for a solution: "):
        parse_prompt(prompt)


def test_a_solution():
    assert join_steps(["<<7+5=12>>12", "#### 12"]) == "<<7+5=12>>12\n#### 12\n"
    assert split_steps("<<7+5=12>>12\n\n #### 12 \nQ: more") == ["<<7+5=12>>12", "#### 12"]
    assert join_steps([]) == "" and split_steps("") == []


@given(st.text())
def test_steps_come_back(text):
    steps = split_steps(text)
    assert split_steps(join_steps(steps)) == steps


@given(st.lists(st.sampled_from(["<<7+5=12>>12", "#### 12", "x", "The answer is 12"]), max_size=4))
def test_a_rendered_solution_is_graded_by_its_last_line(steps):
    """A prompt that a policy goes on with does not hide the answer that it gave."""
    text = join_steps(split_steps("\n".join(steps)))
    assert extract(text + render_prompt(QUESTION)) == extract(text)
