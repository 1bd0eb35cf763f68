"""Labels within steps, and a reward model that is trained on them and has a layer that its policy has not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rewards.encode import LabelledSolution, Mark, encode_labels, encode_solutions
from rewards.labels.corrupt import CORRUPT_SOLUTIONS, CorruptArgs
from rewards.labels.names import liken_names, name_labels
from rewards.reward_model import make_reward_model
from rewards.train import TRAIN_REWARD, TrainRewardArgs
from rollouts.problems.args import ProblemArgs
from rollouts.steps import encode_steps
from rollouts.world.args import WorldArgs
from stages.make import make
from tests.tiny import save_policy, tokenizer
from training.adapters import LoraArgs
from training.args import TrainArgs

QUESTION = "Ann has 3 pens. Bob has 2 more pens than Ann. Eva has 4 more pens than Bob. How many pens does Eva have?"
STEPS = (
    "As Ann has 3 pens and Bob has 2 more pens than Ann, <<3+2=5>>5",
    "As Bob has 5 pens and Eva has 4 more pens than Bob, <<5+4=9>>9",
    "#### 9",
)
PROBLEMS = ProblemArgs("arithmetic", limit=24, world=WorldArgs(size=400))


def test_the_person_of_each_step_is_the_one_asked_for_or_not():
    wrong = LabelledSolution("p", STEPS, (1.0, 1.0, 0.0))
    found = name_labels(QUESTION, wrong)
    assert [(STEPS[mark.step][: mark.stop].split()[-1], mark.label) for mark in found.marks] == [("Bob", 0), ("Eva", 1)]
    assert found.labels == (0.0, 1.0, 0.0)  # whom each step is about; the last says still what it said
    other = name_labels(QUESTION.replace("does Eva", "does Bob"), wrong)
    assert [mark.label for mark in other.marks] == [1.0, 0.0] and other.labels == (1.0, 0.0, 0.0)
    without = name_labels(QUESTION, LabelledSolution("p", ("Eva has it.", "#### 9"), (1.0, 1.0)))  # no equation
    assert (without.labels, without.marks) == ((None, 1.0), ())
    with pytest.raises(ValueError, match="not a question of the arithmetic world"):
        name_labels("Why?", wrong)


def test_a_mark_stands_at_the_token_of_its_last_letter():
    words = tokenizer()
    marked = name_labels(QUESTION, LabelledSolution("p", STEPS, (1.0, 1.0, 0.0)))
    solution = dataclasses.replace(marked, labels=(1.0, None, 0.0))
    example = encode_labels(words, QUESTION, solution, 512)
    read = [words.convert_ids_to_tokens(example.ids[at]) for at in example.positions]
    assert list(zip(read, example.targets, strict=True)) == [(" Bob has ", 0), ("\n", 1), (" Eva has ", 1), ("\n", 0)]
    assert example.positions[1] == len(encode_steps(words, f"Q: {QUESTION}\n", STEPS[:1]).ids) - 1
    assert example.positions[3] == len(example.ids) - 1
    # what stands beyond the longest text is lost, marks as well as the ends of steps
    short = dataclasses.replace(solution, marks=(*solution.marks, Mark(0, len(STEPS[0]), 1.0)))
    most = example.positions[1] + 1
    (left,), _, lost = encode_solutions(words, {"p": QUESTION}, [short], most)
    assert left.positions == sorted(set(left.positions)) and max(left.positions) < most
    assert lost == 2 + len(short.marks) - len(left.positions)


def test_all_forms_of_a_name_get_the_same_vector(tmp_path):
    policy, words = save_policy(tmp_path), tokenizer()
    before, after = (make_reward_model(policy, "cpu")[0] for _ in range(2))
    liken_names(after, words, 0)
    moved = (after.model.embed_tokens.weight - before.model.embed_tokens.weight).detach()
    ann, bob = ([word.format(name) for word in (" {} has ", " {} has", " {}", " {},")] for name in ("Ann", "Bob"))
    known = words.get_vocab()
    shared = {name: moved[[known[word] for word in own if word in known]] for name, own in (("Ann", ann), ("Bob", bob))}
    assert all(len(own) >= 3 and torch.allclose(own, own[:1].expand_as(own), atol=1e-6) for own in shared.values())
    assert not torch.allclose(shared["Ann"][0], shared["Bob"][0])
    length = before.model.embed_tokens.weight.norm(dim=1).mean()
    torch.testing.assert_close(shared["Ann"][0].norm(), length)
    others = [number for word, number in known.items() if word in (" has", "7", "\n", " more", " pens", "<<")]
    assert not moved[others].any()


def test_added_layers_change_nothing_at_first(tmp_path):
    policy = save_policy(tmp_path, layers=2)
    torch.manual_seed(0)
    ids = torch.randint(5, 40, (2, 30))
    alone, deeper = (make_reward_model(policy, "cpu", added_layers=count)[0].eval() for count in (0, 2))
    with torch.no_grad():
        before, after = (model.model(input_ids=ids).last_hidden_state for model in (alone, deeper))
    assert torch.equal(before, after)
    assert (deeper.config.num_hidden_layers, len(deeper.model.layers)) == (4, 4)
    assert [layer.self_attn.layer_idx for layer in deeper.model.layers] == [0, 1, 2, 3]
    assert all(layer.self_attn.config is deeper.config for layer in deeper.model.layers)
    deeper.score.weight.data.fill_(0.1)
    deeper(input_ids=ids).logits.sum().backward()
    own, other = deeper.model.layers[2:]
    assert not torch.equal(own.self_attn.q_proj.weight, other.self_attn.q_proj.weight)  # drawn, and no copies
    again = make_reward_model(policy, "cpu", added_layers=2)[0].model.layers[3]
    assert torch.equal(again.self_attn.q_proj.weight, other.self_attn.q_proj.weight)
    assert own.self_attn.o_proj.weight.grad.abs().sum() > 0 and own.mlp.down_proj.weight.grad.abs().sum() > 0


def test_a_deeper_judge_learns_from_names_and_opens_again(tmp_path):
    policy = save_policy(tmp_path / "policy", layers=2, context=512, look_back=[1])
    corrupted, _ = make(CORRUPT_SOLUTIONS, CorruptArgs(PROBLEMS, ["branch", "early", "past"], 1), tmp_path)
    fast = TrainArgs(max_steps=2, tokens_per_step=512, tokens_per_batch=512, dtype="float32", device="cpu")
    args = TrainRewardArgs("sorm", policy, labels=str(corrupted.path), train=fast)
    plain, _ = make(TRAIN_REWARD, args, tmp_path)
    made, _ = make(TRAIN_REWARD, dataclasses.replace(args, names=True, added_layers=1), tmp_path)
    more, fewer = made.manifest["counts"], plain.manifest["counts"]
    assert more["labels"] > fewer["labels"] and more["labels_lost"] == fewer["labels_lost"] == 0
    # the manifest counts held-out labels at the ends of steps alone: both are measured alike
    assert more["validation_problems"] == fewer["validation_problems"]
    again, _ = make_reward_model(str(made.path), "cpu")
    # two below, those of the policy, one above; going on from there adds nothing
    assert again.config.num_hidden_layers == 5 and again.score.weight.abs().sum() > 0
    on, _ = make(TRAIN_REWARD, dataclasses.replace(args, policy=str(made.path), names=True), tmp_path)
    assert make_reward_model(str(on.path), "cpu")[0].config.num_hidden_layers == 5
    orm = TrainRewardArgs("orm", policy, rollouts="r", names=True)
    adapter = LoraArgs(rank=2)
    for wrong in (
        orm,
        *(dataclasses.replace(args, names=True, **one) for one in ({"shuffled_labels": True}, {"lora": adapter})),
    ):
        with pytest.raises(ValueError, match="names=true is for a sorm that is trained whole on its own labels"):
            wrong.validate()
    with pytest.raises(ValueError, match="added_layers"):
        dataclasses.replace(args, added_layers=-1).validate()


def test_layers_of_another_kind_are_refused(tmp_path):
    from transformers import GPT2Config, GPT2Model

    from training.models import add_layers

    model = GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=16))
    with pytest.raises(ValueError, match="added_layers=1: a gpt2 cannot have more layers"):
        add_layers(model, 1, 0)
