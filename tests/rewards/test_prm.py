"""Models of others as judges: read at the right tokens, by exact ids, and refused where the separator is another."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rewards.formats import StepRecord
from rewards.prm import PRMArgs, PRMError, load_judge
from tests.tiny import PROMPT_TOKENS, QUESTION, ids, save_policy, save_reward, tokenizer

RECORD = StepRecord(QUESTION, ("<<7+5=12>>12", "#### 12"), (1.0, 1.0), id="one")
SHORT = StepRecord("Ann has 7 pens.", ("<<7+5=12>>12",), (1.0,), id="two")
STEP, ANSWER = ["<<", "7", "+", "5", "=", "12", ">>", "12"], ["#### ", "12"]
TOKENS = [*PROMPT_TOKENS, *STEP, "\n", *ANSWER, "\n"]
TRL = PRMArgs(head="token_classification", prompt="Q: {question}\n", separator="\n", device="cpu")
SHEPHERD = PRMArgs(
    head="causal_lm", prompt="{question} ", step="Step {n}: {step} ", separator="ки", between="\n", pieces=False
)


def save_classifier(folder: Path, labels: int) -> str:
    from transformers import AutoModelForTokenClassification

    torch.manual_seed(3)
    body = save_policy(folder / "body")
    model = AutoModelForTokenClassification.from_pretrained(body, num_labels=labels)
    with torch.no_grad():
        model.score.weight.normal_()
    model.save_pretrained(folder / "prm")
    tokenizer().save_pretrained(folder / "prm")
    return str(folder / "prm")


def save_bytes(folder: Path, *more: str) -> str:
    """A causal LM whose tokens are bytes, as Llama 3 reads what is rare in its texts, and `more` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from training.models import ModelArgs, make_policy, save_model

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<pad>")
    words.add_tokens(list(more))
    torch.manual_seed(5)
    model = make_policy(ModelArgs(hidden_size=32, layers=1, heads=2, feed_forward=64, context=128), words, 0)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
    save_model(model, words, folder)
    return str(folder)


@pytest.mark.parametrize("labels", [1, 2])
def test_token_classification_is_read_at_the_separator(tmp_path, labels):
    path = save_classifier(tmp_path, labels)
    judge = load_judge(replace(TRL, model=path))
    start = [] if tokenizer().bos_token_id is None else [tokenizer().bos_token_id]
    wanted = [*start, *ids(*TOKENS)]
    ends = [len(wanted) - 4, len(wanted) - 1]
    with torch.no_grad():
        logits = judge.model(input_ids=torch.tensor([wanted])).logits[0, ends].double()
    p = logits[:, 0].sigmoid() if labels == 1 else logits.softmax(-1)[:, 1]
    found, short = judge.judge([RECORD, SHORT])
    assert found == pytest.approx(p.tolist(), abs=1e-6) and len(short) == 1
    assert judge.judge([SHORT]) == [pytest.approx(short, abs=1e-6)]  # the batch makes no difference
    if labels == 2:
        other = load_judge(replace(TRL, model=path, positive_label=0)).judge([RECORD])
        assert other == [pytest.approx([1 - score for score in found], abs=1e-6)]
    assert judge.judge([]) == [] and judge.judge([StepRecord("Why?", (), ())]) == [[]]


def test_a_causal_lm_says_plus_or_minus_at_the_tag(tmp_path):
    path = save_bytes(tmp_path / "prm", "ки")
    judge = load_judge(replace(SHEPHERD, model=path))
    record = StepRecord("Why?", ("a", "bc"), (1.0, 1.0), id="one")
    words = judge.tokenizer
    wanted = words("Why? Step 1: a ки\nStep 2: bc ки")["input_ids"]
    tag = words.get_vocab()["ки"]
    ends = [i for i, token in enumerate(wanted) if token == tag]
    assert ends == [15, 28]
    with torch.no_grad():
        logits = judge.model(input_ids=torch.tensor([wanted])).logits[0, ends]
    plus, minus = (words.get_vocab()[sign] for sign in "+-")
    p = torch.sigmoid(logits[:, plus] - logits[:, minus])  # a softmax of two
    assert judge.judge([record]) == [pytest.approx(p.tolist(), abs=1e-5)]


def test_a_separator_that_is_several_tokens_is_refused(tmp_path):
    path = save_bytes(tmp_path / "prm")
    with pytest.raises(ValueError, match=r"prm.separator='ки' is 4 tokens \[.*\] of .*prm, not 1: the model was not"):
        load_judge(replace(SHEPHERD, model=path))
    with pytest.raises(ValueError, match=r"prm.positive='good' is 4 tokens \['g', 'o', 'o', 'd'\] of"):
        load_judge(replace(SHEPHERD, model=path, separator="k", positive="good"))
    with pytest.raises(ValueError, match=r"prm.positive='\+' and prm.negative='\+' are one token"):
        load_judge(replace(SHEPHERD, model=path, separator="k", negative="+"))
    assert load_judge(replace(SHEPHERD, model=path, separator_tokens=4)).judge([SHORT])[0][0] > 0


def test_tokens_that_a_model_lacks_are_refused(tmp_path):
    """PB60: scores of such a model would be tiny numbers, a softmax over words that it was not trained to say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = save_bytes(tmp_path / "prm", "<extra_0>")
    args = replace(SHEPHERD, model=path, separator="<extra_0>")
    assert load_judge(args).judge([SHORT])  # + and - are bytes
    with pytest.raises(PRMError, match=r"prm\.positive='good' is 4 tokens .* of .*, not 1: the model was not trained"):
        load_judge(replace(args, positive="good"))
    with pytest.raises(PRMError, match=r"prm\.separator='<extra_1>' is 9 tokens .*, not 1"):
        load_judge(replace(args, separator="<extra_1>"))
    # a tokenizer that reads whatever it lacks as one token
    known = {token: n for n, token in enumerate(("<unk>", "<eos>", "<pad>", "+", "<extra_0>"))}
    plain = Tokenizer(models.WordLevel(known, "<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(path)
    with pytest.raises(PRMError, match=r"prm\.negative='-' is no token that the tokenizer of .* knows"):
        load_judge(args)


def test_a_separator_that_its_place_changes_is_refused(tmp_path):
    # as "\n\n" after a full stop is one token with it, to many a tokenizer
    path = save_bytes(tmp_path / "prm", ".\n")
    args = replace(SHEPHERD, model=path, separator="\n", step="{step}.", between="")
    with pytest.raises(ValueError, match=r"separator after step 0 of solution two is read as .*try prm.pieces=true"):
        load_judge(args).judge([SHORT])
    assert len(load_judge(replace(args, pieces=True)).judge([SHORT])[0]) == 1
    path = save_bytes(tmp_path / "other", "\nStep")
    args = replace(SHEPHERD, model=path, separator="\n", step="{step}", between="Step")
    with pytest.raises(ValueError, match="no token ends with the separator after step 0 of solution one"):
        load_judge(args).judge([RECORD])


def test_texts_that_would_be_read_as_the_template_are_refused(tmp_path):
    path = save_bytes(tmp_path / "prm")
    args = replace(SHEPHERD, model=path, separator="\n", prompt="<eos>{question}<eos>")
    judge = load_judge(args)
    assert len(judge.judge([SHORT])[0]) == 1
    end = judge.tokenizer.eos_token_id
    assert judge._encode(SHORT)[0].count(end) == 2
    with pytest.raises(ValueError, match="solution one holds the text '<eos>', by which the template is read"):
        judge.judge([replace(RECORD, steps=("7", "<eos>"))])
    # where the template has none, a text's is not read as one either
    plain = load_judge(replace(args, prompt="{question} "))
    assert plain._encode(replace(SHORT, steps=("a<eos>",)))[0].count(end) == 0


def test_what_does_not_fit_has_no_score(tmp_path):
    path = save_classifier(tmp_path, 2)
    judge = load_judge(replace(TRL, model=path))
    long = StepRecord(QUESTION * 10, ("#### 12",), (1.0,), id="gsm8k-9")
    assert judge.judge([long, RECORD, long]) == [None, pytest.approx(judge.judge([RECORD])[0], abs=1e-6), None]
    with torch.no_grad():
        judge.model.score.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"prm scores solution one \[nan, nan\]"):
        judge.judge([RECORD])


def test_models_that_are_no_such_judge_are_refused(tmp_path):
    with pytest.raises(ValueError, match="tells 3 labels apart, not 1 or 2"):
        load_judge(replace(TRL, model=save_classifier(tmp_path / "three", 3)))
    with pytest.raises(ValueError, match=r"policy lacks weights: \['score"):
        load_judge(replace(TRL, model=save_policy(tmp_path / "policy")))
    with pytest.raises(ValueError, match="is a reward model"):
        load_judge(replace(SHEPHERD, model=save_reward(tmp_path / "reward", "sorm")))


def test_ours_reads_a_step_a_line(tmp_path):
    from rewards.scorer import load_scorer
    from tests.tiny import problem

    path = save_reward(tmp_path / "reward", "sorm", threshold=0.3)
    judge = load_judge(PRMArgs(path, device="cpu", lines="join"))
    scorer = load_scorer(path, device="cpu")
    assert judge.threshold == 0.3
    assert judge.judge([RECORD]) == scorer.score([problem()], [RECORD.steps])
    lines = replace(RECORD, steps=("<<7+5=12>>12", "####\n12"))
    assert judge.judge([lines]) == scorer.score([problem()], [("<<7+5=12>>12", "#### 12")])
    with pytest.raises(ValueError, match="one: step 1 has several lines"):
        load_judge(PRMArgs(path, device="cpu")).judge([lines])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (PRMArgs(head="tokens"), "prm.head='tokens' is none of stepwise, "),
        (PRMArgs(lines="cut"), "prm.lines='cut'"),
        (replace(TRL, separator=""), "prm.separator must be given"),
        (replace(TRL, prompt="Q:"), r"prm.prompt='Q:' must hold \{question\} once"),
        (replace(TRL, step="{n}: {text}"), r"prm.step='\{n\}: \{text\}' is no template: KeyError"),
        (replace(TRL, step="{step"), "is no template"),
        (replace(TRL, positive_label=2), "prm.positive_label must be in \\[0, 1\\], not 2"),
    ],
)
def test_settings_that_make_no_sense(args, message):
    with pytest.raises(ValueError, match=message):
        args.validate()


def test_the_settings_in_conf_are_those_tested():
    from experiments.commands.config import read_yaml

    conf = Path(__file__).parents[2] / "conf" / "prm"
    found = PRMArgs(**read_yaml(conf / "math_shepherd.yaml"))
    assert found == SHEPHERD
    assert PRMArgs(**read_yaml(conf / "trl.yaml")) == replace(TRL, prompt="{question}", device="auto")


def test_line_feeds_can_be_said_on_the_command_line():
    from hydra import compose, initialize_config_module

    importlib.import_module("experiments.evaluate_prm")  # registers the schema
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("evaluate_prm", ["prm=trl", 'prm.separator="\n\n"'])
    assert config.prm.separator == "\n\n"
