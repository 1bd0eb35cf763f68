"""Shared beginnings: the same logits, losses and gradients as examples one by one, for fewer tokens."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, GPT2Config

from rewards.losses import reward_loss, step_logits
from rewards.scorer import Scorer, load_scorer
from stages.processes import current
from tests.tiny import Log, make_model, problem, save_reward
from tests.training.runs import args_of, close, model_with_dropout, on_two, train, weights
from tests.training.test_attention import CONFIGS, assert_same, make, run, variable_length_reference
from training.attention.install import packed_attention
from training.completions import completion_loss, target_logits
from training.distributed import Engine
from training.examples import Batch, Example, pad_batch
from training.loader import StepLoader
from training.packing import plan_packs
from training.plan import plan_steps, split_over_ranks
from training.prefix_sharing import Families, can_share, count_own, merge_prefixes, share_batch


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


def _tokens(count: int, rng: random.Random) -> list[int]:
    return [rng.randrange(2, 97) for _ in range(count)]


def _targeted(ids: list[int], prompt: int, rng: random.Random) -> Example:
    """Targets anywhere, also where tokens are shared; each example has its own."""
    positions = sorted(rng.sample(range(len(ids)), min(4, len(ids))))
    return Example(ids, positions, [float(rng.randrange(97)) for _ in positions], prompt)


def forest(seed: int = 0) -> list[Example]:
    """A prompt of nine, a deep tree, examples that are others or their beginnings, and some that share nothing."""
    rng = random.Random(seed)
    wide, deep = _tokens(12, rng), _tokens(9, rng)
    found = [(wide + _tokens(rng.randint(1, 14), rng), 12) for _ in range(9)]
    trunk = deep
    for _ in range(4):
        trunk = trunk + _tokens(9, rng)
        found += [(trunk + _tokens(3, rng), 9), (trunk, 9)]
    found += [(trunk, 9), (trunk, 9), (trunk[:-2], 9)]
    found += [(_tokens(count, rng), 0) for count in (1, 3, 30)]
    rng.shuffle(found)
    return [_targeted(ids, prompt, rng) for ids, prompt in found]


FOREST = forest()


def families_of(count: int, each: int, seed: int = 0) -> list[Example]:
    """Solutions of some problems, the last part of which is to be predicted; half go on from one another."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        before = _tokens(rng.randint(8, 12), rng)
        prompt = len(before)
        for i in range(each):
            start = before if i % 2 else before[:prompt]
            ids = start + _tokens(rng.randint(2, 9), rng)
            before = ids
            found.append(Example(ids, list(range(prompt - 1, len(ids) - 1)), ids[prompt:], prompt))
    rng.shuffle(found)
    return found


@pytest.mark.parametrize("targets_only", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_sharing_gives_what_padding_gives(name, targets_only):
    reference, ours = make(CONFIGS[name], "eager"), make(CONFIGS[name], "sdpa")
    batch, padded = share_batch(FOREST, 0, targets_only), pad_batch(FOREST, 0)
    assert batch.ids.numel() < 0.6 * sum(len(e.ids) for e in FOREST)
    with packed_attention(ours):
        torch.testing.assert_close(target_logits(ours, batch), target_logits(reference, padded), rtol=1e-5, atol=2e-5)
        assert_same(run(ours, batch), run(reference, padded))
        ours.gradient_checkpointing_enable()
        assert_same(run(ours, batch), run(reference, padded))


@pytest.mark.parametrize("targets_only", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_a_reward_model_too(name, targets_only):
    config = type(CONFIGS[name])(**CONFIGS[name].to_dict() | {"num_labels": 1, "classifier_dropout": 0.0})
    examples = [replace(e, targets=[t / 97 for t in e.targets]) for e in FOREST]
    model = make(config, "sdpa", AutoModelForTokenClassification)
    wanted, logits = run(model, pad_batch(examples, 0), reward_loss), step_logits(model, pad_batch(examples, 0))
    with packed_attention(model):
        batch = share_batch(examples, 0, targets_only)
        torch.testing.assert_close(step_logits(model, batch), logits, rtol=1e-5, atol=2e-5)
        assert_same(run(model, batch, reward_loss), wanted)


def test_two_of_the_same_with_different_labels():
    config = type(CONFIGS["llama"])(**CONFIGS["llama"].to_dict() | {"num_labels": 1, "classifier_dropout": 0.0})
    model = make(config, "sdpa", AutoModelForTokenClassification)
    ids = list(range(1, 21))
    examples = [Example(ids, [9, 19], [1.0, 0.0]), Example(ids, [9, 19], [0.0, 0.25])]
    with packed_attention(model):
        batch = share_batch(examples, 0, True)
        assert batch.ids.tolist() == [ids] and batch.positions.tolist() == [9, 19, 9, 19]
        assert batch.targets.tolist() == [1.0, 0.0, 0.0, 0.25]
        assert_same(run(model, batch, reward_loss), run(model, pad_batch(examples, 0), reward_loss))


@pytest.mark.parametrize("targets_only", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_branch_sees_nothing_of_the_others(name, targets_only):
    model = make(CONFIGS[name], "sdpa").eval()
    number = next(i for i, own in enumerate(count_own(FOREST)) if FOREST[i].prompt == 12 and own > 8)
    changed = list(FOREST)
    example = FOREST[number]
    changed[number] = replace(example, ids=example.ids[:12] + [96 - token for token in example.ids[12:]])

    def logits(examples: list[Example]) -> list[torch.Tensor]:
        counts = [len(e.positions) for e in examples]
        with torch.no_grad(), packed_attention(model):
            return list(target_logits(model, share_batch(examples, 0, targets_only)).split(counts))

    gaps = [float((a - b).abs().max()) for a, b in zip(logits(FOREST), logits(changed), strict=True)]
    assert gaps[number] > 0.1 and max(gap for i, gap in enumerate(gaps) if i != number) < 1e-5


def test_the_last_layer_works_for_targets_only():
    model = make(CONFIGS["llama"], "sdpa").eval()
    batch, seen = share_batch(FOREST, 0, True), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _module, given, _made: seen.append(given[0].shape[1]))
    with torch.no_grad():
        with packed_attention(model):
            model(**batch.inputs())
        model(**pad_batch(FOREST, 0).inputs())
    assert seen[:2] == [batch.ids.numel(), len(set(batch.positions.tolist()))]
    assert seen[2] == seen[3] and not model.model.layers[-1]._forward_hooks  # and as before afterwards


def test_a_row_by_hand():
    one, two = list(range(10, 22)), [*range(10, 19), 7]
    examples = [Example(ids, [len(ids) - 1], [float(i)]) for i, ids in enumerate([one, two, one[:9], one, [10, 11]])]
    row = merge_prefixes(examples)
    # sorted: [10, 11], then the nine tokens, then the two that go on from them; two tokens are too few to share
    assert row.ids == [10, 11, *range(10, 19), 7, 19, 20, 21]
    assert row.depths == [0, 1, *range(9), 9, 9, 10, 11] and row.shared == [9, 9, 0, 12, 0]
    assert row.paths[1] == [*range(2, 11), 11] and row.paths[0] == row.paths[3] == [*range(2, 11), 12, 13, 14]
    batch = share_batch(examples, 3)
    assert batch.ids.tolist() == [row.ids] and batch.position_ids.tolist() == [row.depths]
    assert batch.positions.tolist() == [14, 11, 10, 14, 1] and batch.targets.tolist() == [0, 1, 2, 3, 4]
    assert [*batch.to(batch.ids.device).packing.groups] == [(1, 9, 9), (1, 2, 2), (2, 3, 12)]
    assert count_own(examples) == [3, 1, 9, 0, 2]


def test_what_shares_nothing_is_a_plain_pack():
    examples = [Example([i, 5, 6], [1], [0.0]) for i in range(1, 4)]
    batch = share_batch(examples, 0)
    assert batch.ids.tolist() == [[1, 5, 6, 2, 5, 6, 3, 5, 6]] and batch.inputs()["max_length_q"] == 3


trees = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(1, 2), min_size=1, max_size=30)), min_size=1)


@given(trees, st.integers(1, 90))
def test_rows_read_no_more_than_they_may(spec, budget):
    examples = [Example([family + 5] * 10 + rest, [0], [1.0], 10) for family, rest in spec]
    families = Families(examples)
    rows = families.rows(range(len(examples)), budget)
    assert sorted(itertools.chain(*rows)) == list(range(len(examples)))
    for row in rows:
        assert families.tokens_read(row) == len(merge_prefixes([examples[i] for i in row]).ids)
        assert families.tokens_read(row) <= budget or len({tuple(examples[i].ids) for i in row}) == 1
    assert families.rows(range(len(examples)), budget) == rows


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 60)), max_size=100), st.integers(1, 300), st.integers(0, 3)
)
def test_families_are_planned_together(spec, tokens, epoch):
    families, lengths = [family for family, _ in spec], [length for _, length in spec]
    packs = plan_packs(lengths, tokens, 1, epoch, families)
    assert sorted(itertools.chain(*packs)) == list(range(len(spec)))
    assert all(len(pack) == 1 or sum(lengths[i] for i in pack) <= tokens for pack in packs)
    for family in set(families):
        size = sum(length for one, length in spec if one == family)
        assert size > tokens or sum(family in {families[i] for i in pack} for pack in packs) == 1
    assert plan_packs(lengths, tokens, 1, epoch, families) == packs
    # where each is a family of its own, nothing changes
    assert plan_packs(lengths, tokens, 1, epoch, range(len(spec))) == plan_packs(lengths, tokens, 1, epoch)


def test_steps_hold_as_many_examples_as_without_and_mix_families():
    examples = families_of(60, 4)
    lengths, families = [len(e.ids) for e in examples], Families(examples).of
    assert len(set(families)) == 60
    args = args_of(tokens_per_step=400, tokens_per_batch=400)
    shared, plain = plan_steps(lengths, args, families), plan_steps(lengths, args)
    assert abs(len(shared) - len(plain)) <= 2
    for step in shared:
        assert sum(lengths[i] for pack in step for i in pack) <= 400
    assert plan_steps(lengths, args, families) == shared != plan_steps(lengths, args_of(seed=1), families)
    neighbours = [{families[i] for pack in step for i in pack} for step in shared]
    again = [
        {families[i] for pack in step for i in pack} for step in plan_steps(lengths, replace(args, epochs=2), families)
    ]
    assert again[: len(shared)] == neighbours and again[len(shared) :] != neighbours  # other company in each epoch


@pytest.mark.parametrize(("count", "each"), [(1, 40), (2, 20), (3, 13), (40, 1)])
def test_processes_read_about_equally_much(count, each):
    """Whole families where there are many; one family alone is cut, even into single examples."""
    examples = families_of(count, each)
    families, lengths = Families(examples), [len(e.ids) for e in examples]
    chosen = list(range(len(examples)))
    assert split_over_ranks([chosen], lengths, 1, 0, families) == [families.by_family(chosen)]
    for processes in (2, 4):
        shares = [[*itertools.chain(*share)] for share in split_over_ranks([chosen], lengths, processes, 0, families)]
        assert sorted(itertools.chain(*shares)) == chosen
        reads = [families.tokens_read(share) for share in shares]
        assert max(reads) <= 1.6 * families.tokens_read(chosen) / processes
        if count == 40:
            assert sum(reads) == families.tokens_read(chosen)


EXAMPLES = families_of(12, 5)
STEPS = {"tokens_per_step": 240, "tokens_per_batch": 60, "epochs": 2, "learning_rate": 3e-3}


def test_training_takes_the_same_steps_with_and_without(tmp_path):
    runs = {}
    for layout in ("packed", "padded"):
        log = Log()
        model, done = train(tmp_path / layout, EXAMPLES, log=log, layout=layout, **STEPS)
        runs[layout] = (weights(model), [row["loss"] for row in log.rows], done.figures)
    (one, losses, figures), (other, expected, without) = runs.values()
    close(one, other)
    assert losses == pytest.approx(expected, abs=1e-5) and len(losses) == figures["steps"] == without["steps"] == 10
    assert figures["trained_tokens"] == without["trained_tokens"] and figures["examples"] == without["examples"]
    # each token that is read serves several examples
    assert figures["useful_tokens"] > 1.4 > 1 > without["useful_tokens"]
    plain = train(tmp_path / "plain", EXAMPLES, share_prefixes=False, **STEPS)[1].figures
    assert plain["useful_tokens"] <= 1 and plain["trained_tokens"] == figures["trained_tokens"]


def test_micro_batches_change_nothing(tmp_path):
    steps = STEPS | {"epochs": 1, "pack_tokens": 120}
    found = [
        weights(train(tmp_path / str(most), EXAMPLES, make_model(layers=2), **steps | {"tokens_per_batch": most})[0])
        for most in (30, 1000)
    ]
    close(*found)


def _as_one(expected: dict[str, torch.Tensor], folder: Path, shard: str, steps: dict) -> None:
    model, done = train(folder, EXAMPLES, make_model(layers=2), shard=shard, **steps)
    close(weights(model), expected)
    assert done.figures["useful_tokens"] > 1.2
    assert current().count == 2


@pytest.mark.parametrize("shard", ["none", "fsdp2"])
def test_two_processes_train_as_one(shard, tmp_path):
    steps = STEPS | {"epochs": 1, "gradient_checkpointing": shard == "fsdp2"}
    expected = weights(train(tmp_path / "one", EXAMPLES, make_model(layers=2), **steps)[0])
    on_two(_as_one, expected, tmp_path / "two", shard, steps)


def test_a_model_with_dropout_shares_nothing(tmp_path):
    model = model_with_dropout()
    args = args_of(**STEPS)
    engine = Engine(model, args, current())
    with packed_attention(model):
        assert StepLoader(EXAMPLES, args, 0, engine).shared is None
        assert can_share(model, training=False)
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.0
        feed = StepLoader(EXAMPLES, args, 0, engine)
        assert feed.shared is not None
        model.model.layers[0].mlp.down_proj = torch.nn.Sequential(
            model.model.layers[0].mlp.down_proj, torch.nn.Dropout(0.1)
        )
        assert not can_share(model, training=True)
    figures = train(tmp_path, EXAMPLES, model_with_dropout(), **STEPS)[1].figures
    assert figures["useful_tokens"] <= 1


def test_another_family_shares_nothing():
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0.0)
    assert not can_share(make(config, "sdpa"), training=False)
    assert not can_share(make(CONFIGS["llama"], "eager"), training=False)
    assert can_share(make(CONFIGS["llama"], "sdpa"), training=True)


def test_half_precision_too():
    model = make(CONFIGS["llama, fewer keys"], "sdpa")

    def lowered(model, batch: Batch) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return completion_loss(model, batch)

    wanted = run(model, pad_batch(FOREST, 0))
    for targets_only in (False, True):
        with packed_attention(model):
            value, gradients = run(model, share_batch(FOREST, 0, targets_only), lowered)
        assert float(value) == pytest.approx(float(wanted[0]), rel=0.02)
        gap = sum(float((gradients[name] - g).square().sum()) for name, g in wanted[1].items())
        assert gap < 0.01 * sum(float(g.square().sum()) for g in wanted[1].values())


@pytest.mark.parametrize("name", ["llama, fewer keys", "qwen2, window"])
def test_variable_length_attention_gets_whole_examples(name, monkeypatch):
    model = make(CONFIGS[name], "sdpa")
    wanted = run(model, pad_batch(FOREST, 0))
    monkeypatch.setattr("training.attention.attend._variable_length", lambda: variable_length_reference)
    monkeypatch.setattr("training.attention.attend.Attend.fused", lambda *_: True)
    with packed_attention(model):
        assert_same(run(model, share_batch(FOREST, 0)), wanted)


def test_scores_are_the_same_for_fewer_tokens(tmp_path):
    scorer = load_scorer(save_reward(tmp_path, "orm"), device="cpu")
    plain = Scorer(scorer.model, scorer.tokenizer, "orm", 0.5, share_prefixes=False)
    texts = [f"<<7+5={n}>>{n}\n<<{n}+{m}=9>>9\n#### {m}\n" for n in (12, 13) for m in (3, 4, 5)]
    problems = [problem(str(i)) for i in range(6)]
    wanted, found = plain.score(problems, texts), scorer.score(problems, texts)
    assert [len(own) for own in found] == [3] * 6
    assert [*itertools.chain(*found)] == pytest.approx([*itertools.chain(*wanted)], abs=1e-6)
    whole = [scorer.encode(p, text) for p, text in zip(problems, texts, strict=True)]
    assert plain.tokens == sum(len(e.ids) for e in whole)
    assert scorer.tokens == len(merge_prefixes(whole).ids) < 0.6 * plain.tokens
