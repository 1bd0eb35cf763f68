"""What refiners read, there and back; its tokens, and that only what they write is trained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine.prompts import BAD, REFINE, kept_steps, render_refinement
from rollouts.prompts import PLAIN, PromptArgs, parse_prompt, render_prompt
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, tokenizer

DRAFT = ("<<7+5=13>>13", "#### 13")


def test_each_kind_by_hand():
    assert render_refinement("global", " Why? ", DRAFT, None) == "Q: Why?\n<<7+5=13>>13\n#### 13\n[REFINE]\n"
    assert render_refinement("local", "Why?", DRAFT, 0) == "Q: Why?\n[BAD]<<7+5=13>>13\n#### 13\n[REFINE]\n"
    assert (
        render_refinement("local", "Why?", DRAFT, 1) == "Q: Why?\n<<7+5=13>>13\n[BAD]#### 13\n[REFINE]\n<<7+5=13>>13\n"
    )
    assert render_refinement("control", "Why?", DRAFT, None) == "Q: Why?\n[REFINE]\n"
    assert render_refinement("shuffled", "Why?", DRAFT, None) == render_refinement("global", "Why?", DRAFT, None)
    # a global refiner is not told where the error is, nor is a control
    assert render_refinement("global", "Why?", DRAFT, 1) == render_refinement("global", "Why?", DRAFT, None)
    assert render_refinement("global", "Why?", (), None) == render_refinement("control", "Why?", DRAFT, 0)


steps = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\n"), min_size=1).filter(
        lambda step: BAD not in step and REFINE not in step
    ),
    max_size=5,
)
questions = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])).map(str.strip).filter(bool)


EXAMPLES = "Q: How many?\n7 + 5 = 12\n#### 12"
TEMPLATES = {
    "plain": PromptArgs().template(),
    "few_shot": PromptArgs("few_shot", EXAMPLES).template(),
    "chat": PromptArgs("chat", instruction="Solve it.\n#### 18", system="Be brief.").template(),
}


def parse_refinement(prompt, template=PLAIN):
    """Question, draft and error step of what a refiner reads; the steps before the error must follow again."""
    question, *lines = parse_prompt(prompt, template).split("\n")
    end = lines.index(REFINE)
    marked = [i for i, line in enumerate(lines[:end]) if line.startswith(BAD)]
    draft, error = tuple(line.removeprefix(BAD) for line in lines[:end]), marked[0] if marked else None
    assert len(marked) < 2 and tuple(lines[end + 1 :]) == draft[: error or 0]
    return question, draft, error


@pytest.mark.parametrize("name", TEMPLATES)
@given(questions, steps, st.data())
def test_there_and_back(name, question, draft, data):
    template = TEMPLATES[name]
    for kind, shown in (("global", tuple(draft)), ("control", ())):
        prompt = render_refinement(kind, question, draft, None, template)
        assert parse_refinement(prompt, template) == (question, shown, None)
    if draft:
        error = data.draw(st.integers(0, len(draft) - 1))
        prompt = render_refinement("local", question, draft, error, template)
        assert parse_refinement(prompt, template) == (question, tuple(draft), error)


def test_what_a_refiner_reads_stands_where_the_question_stands():
    shown = "Why?\n<<7+5=12>>12\n[BAD]#### 13\n[REFINE]\n<<7+5=12>>12"
    draft = ("<<7+5=12>>12", "#### 13")
    chat = render_refinement("local", "Why?", draft, 1, TEMPLATES["chat"])
    assert (chat.user, chat.system) == (f"{shown}\n\nSolve it.\n#### 18", "Be brief.")
    assert render_refinement("local", "Why?", draft, 1, TEMPLATES["few_shot"]) == f"{EXAMPLES}\n\nQ: {shown}\n"


def test_a_mark_that_a_policy_wrote_is_not_taken_for_ours():
    draft = (f"{BAD}7", REFINE, "#### 7")
    text = render_refinement("local", "Why?", draft, 2)
    assert parse_refinement(text) == ("Why?", ("(BAD)7", "(REFINE)", "#### 7"), 2)
    assert text.count(BAD) == text.count(REFINE) == 1


@pytest.mark.parametrize("error", [None, -1, 2, 7])
def test_a_local_refiner_needs_a_step_of_the_draft(error):
    with pytest.raises(ValueError, match=f"error_step={error} is no step of a draft of 2 steps"):
        render_refinement("local", "Why?", DRAFT, error)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="'lokal'"):
        render_refinement("lokal", "Why?", DRAFT, 0)


def test_the_steps_that_stay():
    assert kept_steps("local", DRAFT, 1) == DRAFT[:1]
    assert (
        kept_steps("local", DRAFT, 0) == kept_steps("global", DRAFT, None) == kept_steps("control", DRAFT, None) == ()
    )
    assert kept_steps("local", DRAFT, None) == ()


def test_marks_are_tokens_and_the_draft_is_never_trained():
    from training.completions import Text, encode_completion

    prompt = render_refinement("local", QUESTION, DRAFT, 1)
    assert prompt.startswith(render_prompt(QUESTION))
    example = encode_completion(tokenizer(), Text(prompt, "#### 12\n"))
    draft = ["<<", "7", "+", "5", "=", "13", ">>", "13", "\n", "[BAD]", "#### ", "13", "\n", "[REFINE]", "\n"]
    kept = ["<<", "7", "+", "5", "=", "13", ">>", "13", "\n"]
    written = ["#### ", "12", "\n", "<eos>"]
    assert example.ids == ids(*PROMPT_TOKENS, *draft, *kept, *written)
    assert example.positions == [44, 45, 46, 47]  # 21 of the question, 15 of the draft and 9 kept come before
    assert example.targets == ids(*written)
