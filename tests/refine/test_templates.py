"""One prompt for every stage: a policy that is asked in a template is continued, trained, judged and refined in it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from refine.prompts import render_refinement
from refine.revise import REVISE, ReviseArgs
from refine.train_policy import (
    TRAIN_POLICY,
    TrainPolicyArgs,
    collect_rows,
    hold_out,
    pair_texts,
    rollout_texts,
    solution_texts,
)
from rewards.labels.audit import AUDIT_LABELS, AuditArgs
from rewards.labels.stepwise import LABEL_STEPS, LabelArgs, drawn_alike
from rewards.reward_model import make_reward_model, read_facts
from rewards.scorer import load_scorer
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.problems.load import load_problems
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.records import Candidate, Problem, RefinementPair, Rollout, StepLabels
from rollouts.sampling.args import SamplerArgs
from rollouts.sampling.policies import load_policy
from rollouts.sampling.sample import SAMPLE, SampleArgs
from rollouts.steps import Chat, encode_steps, end_token, join_steps, split_steps
from stages.artifacts import Artifact
from stages.make import make
from tests.refine.lema.made import make_sample, write_script
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, make_model, problem, rollout, tokenizer
from training.args import TrainArgs
from training.completions import Text
from training.models import save_model

# in the embedded world's words a turn of the user is `[BAD]…` and a line feed, one of the assistant `[REFINE]…<pad>`
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '<pad>' }}{% else %}"
    "{{ '[BAD]' + m['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[REFINE]' }}{% endif %}"
)
PROMPTS = {
    "few_shot": PromptArgs("few_shot", "Q: How many?\n<<1+2=3>>3\n#### 3"),
    "chat": PromptArgs("chat", instruction="How many?"),
}
PROBLEMS = ProblemArgs(limit=4)
SCRIPTED = SamplerArgs(backend="scripted", max_tokens=400)
TRAIN = TrainArgs(max_steps=2, device="cpu")


def text_of(prompt: str | Chat) -> str:
    """What a scripted policy finds its texts by."""
    return prompt.user if isinstance(prompt, Chat) else prompt


@pytest.fixture(scope="module", params=PROMPTS)
def prompt(request) -> PromptArgs:
    return PROMPTS[request.param]


@pytest.fixture(scope="module")
def policy(prompt, tmp_path_factory) -> Path:
    """A tiny model with a script that knows prompts of this template only; what follows a stop string is no part of
    an answer."""
    folder, template = tmp_path_factory.mktemp("policy"), prompt.template()
    words = tokenizer().__class__.from_pretrained(_saved(folder / "words"))
    words.chat_template = CHAT
    save_model(make_model(context=512), words, folder)
    script = {}
    for one in load_problems(PROBLEMS):
        gold = split_steps(one.solution)
        wrong = [*gold[:-1], "#### 49"]
        asked = text_of(render_prompt(one.question, template))
        script[asked] = [join_steps(gold), join_steps(wrong)]
        for n in range(1, len(wrong)):
            script[asked + join_steps(wrong[:n])] = [join_steps(gold[n:]) + "\nQ: How many?"]
        errors = [("local", error) for error in range(len(gold))]  # a model that knows nothing says where
        for kind, error in (("global", None), ("control", None), *errors):
            draft = text_of(render_refinement(kind, one.question, gold, error, template))
            script[draft] = [join_steps(gold) + "\nQ: How many?"]
    (folder / "script.json").write_text(json.dumps(script))
    return folder


def _saved(folder: Path) -> Path:
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(prompt, policy, tmp_path_factory) -> dict[str, Artifact]:
    root, own = tmp_path_factory.mktemp("artifacts"), str(policy)
    drawn = SampleArgs(policy=own, problems=PROBLEMS, sampler=SCRIPTED, prompt=prompt, n=2)
    found = {"rollouts": make(SAMPLE, drawn, root)[0]}
    source = str(found["rollouts"].path)
    labels = LabelArgs(
        rollouts=source, policy=own, sampler=SCRIPTED, prompt=prompt, search="exhaustive", rule="any", continuations=2
    )
    found["labels"] = make(LABEL_STEPS, labels, root)[0]
    audit = AuditArgs(str(found["labels"].path), own, SCRIPTED, continuations=2, prompt=prompt, rule="any")
    found["audit"] = make(AUDIT_LABELS, audit, root)[0]
    orm = TrainRewardArgs(
        "orm", own, source, prompt=prompt, balance="none", validation_share=0.25, train=TRAIN, max_length=400
    )
    found["orm"] = make(TRAIN_REWARD, orm, root)[0]
    greedy = replace(SCRIPTED, temperature=0.0, device="cpu")
    refined = ReviseArgs(
        drafts=source, global_refiner=own, local_refiner=own, control=own, orm=str(found["orm"].path),
        where=["none", "orm"], sampler=greedy, prompt=prompt,
    )  # fmt: skip
    found["revise"] = make(REVISE, refined, root)[0]
    return found | {"root": root, "args": {"labels": labels, "revise": refined, "orm": orm}}


def test_problems_are_asked_and_prefixes_continued_in_the_template(made):
    rows = made["rollouts"].rows(Rollout)
    assert [row.correct for row in rows] == [True, False] * 4
    labels = [row for row in made["labels"].rows(StepLabels) if not row.correct]
    assert all(row.labels == (True,) * (len(row.steps) - 1) + (False,) for row in labels) and len(labels) == 4
    counts = made["audit"].manifest["counts"]
    assert counts["label_error"] == 0 and "differs" not in made["audit"].manifest.get("notes", {})


def test_a_completion_ends_before_the_next_example(prompt, made):
    refined = [one for one in made["revise"].rows(Candidate) if one.kind == "global"]
    assert len(refined) == 4 and all(one.correct for one in refined)
    assert any("Q:" in one.text for one in refined) is (prompt.kind == "chat")


def test_rollouts_of_another_template_are_no_evidence(made, policy):
    class Policy:
        key = made["rollouts"].manifest["parents"]["policy"]["key"]

    args = made["args"]["labels"]
    assert drawn_alike(made["rollouts"], Policy, args)
    assert not drawn_alike(made["rollouts"], Policy, replace(args, prompt=PromptArgs()))


def test_an_audit_in_another_template_says_so(prompt, made, policy):
    other = {"*": ["#### 49"]}
    (copy := made["root"] / "other").mkdir()
    (copy / "script.json").write_text(json.dumps(other))
    args = AuditArgs(str(made["labels"].path), str(copy), SCRIPTED, continuations=2, rule="any")
    artifact, _ = make(AUDIT_LABELS, args, made["root"])
    assert f"prompt={prompt.kind} and not plain" in artifact.manifest["notes"]["differs"]


def test_a_reward_model_reads_the_template_that_it_was_trained_with(prompt, made):
    path, template = made["orm"].path, prompt.template()
    assert read_facts(path)["template"] == template.facts()
    scorer, one = load_scorer(path, device="cpu"), problem()
    asked = render_prompt(QUESTION, template)
    encoded = encode_steps(scorer.tokenizer, asked, ["7", "#### 12"])
    example = scorer.encode(one, ["7", "#### 12"])
    assert (example.ids, example.positions) == (encoded.ids, encoded.ends)
    steps = ids("7", "\n", "#### ", "12", "\n")
    if prompt.kind == "chat":
        assert example.ids[0] == ids("[BAD]")[0] and example.ids[-6:] == ids("[REFINE]") + steps
    else:
        assert example.ids[-5 - len(PROMPT_TOKENS) :] == ids(*PROMPT_TOKENS) + steps
    assert load_scorer(path, device="cpu", template=template).score([one], ["7\n#### 12"]) == scorer.score(
        [one], ["7\n#### 12"]
    )


def test_a_reward_model_of_another_template_is_refused_in_one_line(made, tmp_path):
    path = str(made["orm"].path)
    refused = rf"reward model {path} was trained with the template .*, not with 'Q: \{{question\}}\\n'"
    with pytest.raises(ValueError, match=refused):
        load_scorer(path, device="cpu", template=PromptArgs().template())
    with pytest.raises(ValueError, match=refused):
        make_reward_model(path, "cpu")
    with pytest.raises(ValueError, match=refused):
        make(REVISE, replace(made["args"]["revise"], prompt=PromptArgs(), where=["orm"]), tmp_path)


def test_another_chat_template_is_another_tokenizer(prompt, made):
    if prompt.kind != "chat":
        pytest.skip("a text goes through no chat template")
    _, words = make_reward_model(str(made["orm"].path), "cpu", prompt.template())
    folder = made["root"] / "changed"
    shutil.copytree(made["orm"].path, folder)
    words.chat_template = CHAT.replace("[BAD]", "[REFINE]")
    words.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"the tokenizer of reward model .* is not the one"):
        load_scorer(folder, device="cpu")


def test_texts_of_training_are_asked_in_the_template(prompt):
    template = prompt.template()
    solved = replace(problem("p", "Why?"), solution="7\n#### 7")
    asked = render_prompt("Why?", template)
    assert solution_texts([solved], template) == [Text(asked, "7\n#### 7\n")]
    right = rollout(["7", "#### 7"], True, 0, "p")
    assert rollout_texts({"p": solved}, [right], 1, template) == [Text(asked, "7\n#### 7\n")]
    pair = RefinementPair("local/1", "p", "local", "Why?", ("a", "c"), 1, ("d", "#### 1"))
    (text,) = pair_texts([pair], ["local"], template)
    assert text == Text(render_refinement("local", "Why?", ("a", "c"), 1, template), "d\n#### 1\n")


def test_held_out_texts_are_those_of_whole_questions(prompt, policy, tmp_path):
    """Every text begins alike, with the examples or the turn of the user; what counts is the question."""
    problems = [problem(f"p{i}", f"{i % 5}?\nIt is no. {i}.") for i in range(20)]
    script = write_script(tmp_path / "policy", {"*": ["a"]})
    source = make_sample(tmp_path, script, [rollout(["7"], True, 0, one.id) for one in problems], problems)
    args = TrainPolicyArgs(policy=str(policy), examples=["rollouts"], rollouts=str(source.path), prompt=prompt)
    work = SimpleNamespace(parents={"rollouts": source, "more_rollouts": []}, count=lambda **_: None)
    train, held = hold_out(collect_rows(args, work), 0.2, 0)
    assert len(held) == 4 and len({row.question for row in held}) == 1 and len(train) == 16


def test_a_policy_that_is_trained_in_a_chat_ends_its_turn(prompt, policy, tmp_path):
    args = TrainPolicyArgs(policy=str(policy), problems=PROBLEMS, prompt=prompt, train=TRAIN, max_length=400)
    model, words = load_policy(str(make(TRAIN_POLICY, args, tmp_path)[0].path), device="cpu")
    ends = model.generation_config.eos_token_id
    asked = render_prompt(QUESTION, prompt.template())
    if prompt.kind == "chat":
        assert ends == sorted({words.eos_token_id, words.pad_token_id}) and end_token(words, asked) in ends
    else:
        assert ends in (words.eos_token_id, [words.eos_token_id])


def test_problems_come_back_whole(made):
    assert made["rollouts"].rows(Problem, "problems") == load_problems(PROBLEMS)
