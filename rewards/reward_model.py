"""A reward model: a policy's body with a scalar head, made, saved and opened as a normal Hugging Face folder that says
in its config what it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewards.head import open_with_head
from rewards.metrics import Threshold, threshold_at
from rollouts.prompts import PLAIN, Template, read_template, render_prompt
from rollouts.sampling.policies import (
    HEADS,
    check_finite,
    check_weights,
    load_tokenizer,
    naming,
    open_folder,
    pick_device,
    pick_dtype,
)
from rollouts.steps import encode_prompt, encode_text, join_steps
from stages.files import read_json
from training.models import add_layers, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FACTS = "stepwise"  # the field of a reward model's config.json that says what it reads
KINDS = ("orm", "sorm", "implicit")  # implicit: a causal LM without a head (`rewards/implicit.py`)
RIGHT = "right: sigmoid(logit), not softmax"  # the one label: a pipeline would show its softmax, which is always 1
SEPARATOR = join_steps([""])  # what ends a step: with another text there, scores mean nothing
_PROBE = (
    "Q: Ann has 7 pens, and Zoë 1,234.5 more.\nHow  many do both have?\n<<7+1241.5=1248.5>>1248.5\n#### 1248.5\n"
    "  def f(x):\treturn x**2 # ½ ≤ π, 你好 🙂 </s><eos>\n"
)


def make_reward_model(
    policy: str,
    device: str = "auto",
    template: Template = PLAIN,
    added_layers: int = 0,
    seed: int = 0,
    dtype: str = "float32",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A policy's body in `dtype` with a new scalar head in float32 (token classification, one label, no dropout
    anywhere).

    The head starts at zero, so that every probability starts at one half. Where `policy` is a reward model already,
    its head is kept: training goes on. `added_layers` are put on top of the policy's, drawn with
    `seed` (`training.models.add_layers`).

    Raises:
        ValueError: the folder lacks something, a weight is missing or not finite, there is no such head or no such
            layer for this kind of model, or it is a reward model that reads something else.
    """
    import torch
    from transformers import AutoConfig

    tokenizer, place = load_tokenizer(policy), pick_device(device)
    part = "body for a reward model"
    config = open_folder(AutoConfig, policy, part, num_labels=1)
    config.classifier_dropout = 0.0  # 0.1 where it is not named; most configs do not know the argument
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    model, loading = open_with_head(policy, part, config, pick_dtype(dtype, place))
    if getattr(config, FACTS, None) is not None:
        check_facts(getattr(config, FACTS), tokenizer, policy, template)
    missing, wrong = set(loading["missing_keys"]), list(loading["mismatched_keys"])
    head = {name for name, _ in model.named_parameters() if name.startswith(HEADS)}
    if not head or missing not in (head, set()) or wrong:
        lacks = f"missing {sorted(missing - head)[:5]}, mismatched {wrong[:5]}"
        raise ValueError(f"policy {policy} does not fill a reward model: {lacks}")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in missing:
                weight.zero_()
    check_weights(model, tokenizer, policy)
    if added_layers:
        add_layers(model, added_layers, seed)
    return model.to(place), tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerFast, template: Template = PLAIN) -> str:
    """A hash of what a tokenizer does: its vocabulary, and how it cuts a text with numbers, spaces and odd letters; for
    a chat also that text within its chat template."""
    words = sorted(tokenizer.get_vocab().items())
    prompt = render_prompt(_PROBE, template) if template.chat else _PROBE
    cuts = [encode_prompt(tokenizer, prompt), encode_text(tokenizer, _PROBE)]
    return hashlib.sha256(json.dumps([words, cuts]).encode()).hexdigest()


def save_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    kind: str,
    threshold: Threshold,
    template: Template = PLAIN,
    final_threshold: float | None = None,
) -> None:
    """Save a reward model as a normal Hugging Face folder. Its config says how to use it: its kind (orm or sorm), its
    thresholds (`rewards/thresholds.py`; without a `final_threshold` it is that of the last position), what it reads,
    and the tokenizer that it was trained with.

    Raises:
        ValueError: a weight is not finite, or the tokenizer does not come back from the folder as it was.
    """
    check_finite(model, str(folder))
    tokenizer.save_pretrained(folder)
    where = list(map(float, threshold)) if isinstance(threshold, Sequence) else float(threshold)
    when = threshold_at(threshold, -1) if final_threshold is None else final_threshold
    made = {"kind": kind, "threshold": where, "final_threshold": float(when)}
    made |= {"template": template.facts(), "separator": SEPARATOR}
    setattr(model.config, FACTS, made | {"tokenizer": fingerprint(tokenizer, template)})
    model.config.id2label, model.config.label2id = {0: RIGHT}, {RIGHT: 0}
    save_model(model, tokenizer, folder)
    check_facts(getattr(model.config, FACTS), load_tokenizer(str(folder)), str(folder), template)


def read_facts(path: str | Path) -> dict[str, Any]:
    """What a reward model's folder says of it: {kind, threshold, final_threshold, template, separator, tokenizer}. A
    folder of before there were two has its one threshold as both.

    Raises:
        ValueError: the folder is not one of `save_reward_model`.
    """
    facts, file = _facts(path), Path(path) / "config.json"
    if facts is None:
        raise ValueError(f"{path} is no reward model: it has no config.json with {FACTS!r} in it")
    known = isinstance(facts, dict) and facts.get("kind") in KINDS
    where = facts.get("threshold") if known else None
    all_ = [*(where if isinstance(where, list) else [where])]
    all_ += [facts.get("final_threshold", all_[-1] if all_ else None)] if known else []
    if not known or len(all_) < 2 or not all(isinstance(one, float) and 0 <= one <= 1 for one in all_):
        raise ValueError(
            f"{file}: {FACTS!r} must name a kind ({', '.join(KINDS)}) and thresholds in [0, 1], not {facts}"
        )
    return facts | {"final_threshold": all_[-1]}


def says_how(path: str | Path) -> bool:
    """Whether the config of a folder says how its model is read."""
    return _facts(path) is not None


def _facts(path: str | Path) -> Any:
    file = Path(path) / "config.json"
    config = read_json(file) if file.is_file() else None
    return config.get(FACTS) if isinstance(config, dict) else None


def check_facts(
    facts: dict[str, Any], tokenizer: PreTrainedTokenizerFast, path: str, template: Template | None = None
) -> None:
    """Raise ValueError where a reward model was trained with another `template` than this one (None: its own is taken),
    another separator or another tokenizer."""
    with naming(path, "template of a reward model"):
        own = read_template(facts.get("template"))
    ours = own.facts() if template is None else template.facts()
    for name, given in (("template", ours), ("separator", SEPARATOR)):
        if facts.get(name) != given:
            raise ValueError(f"reward model {path} was trained with the {name} {facts.get(name)!r}, not with {given!r}")
    if facts.get("tokenizer") != fingerprint(tokenizer, own):
        raise ValueError(f"the tokenizer of reward model {path} is not the one that it was trained with")


def load_reward_model(
    path: str, dtype: str = "auto", device: str = "auto", template: Template | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """Open a reward model in evaluation mode, with its facts (`read_facts`); it reads its own template, which must be
    `template` where that is given.

    Raises:
        ValueError: the folder is not one of `save_reward_model`, its head or other weights are missing, too many, of
            another shape or not finite, or it was trained on other texts or with another tokenizer.
    """
    facts, tokenizer = read_facts(path), load_tokenizer(path)
    if facts["kind"] == "implicit":
        raise ValueError(f"{path} is an implicit reward model, read beside its reference: rerank.implicit takes it")
    check_facts(facts, tokenizer, path, template)
    model, unexpected = open_judge(path, tokenizer, dtype, device)
    if unexpected or model.config.num_labels != 1:
        raise ValueError(f"reward model {path} has weights too many: {unexpected[:5] or 'a head of several labels'}")
    return model, tokenizer, facts


def open_judge(
    path: str, tokenizer: PreTrainedTokenizerFast, dtype: str, device: str
) -> tuple[PreTrainedModel, list[str]]:
    """Any model with a head of token classification, in evaluation mode; and weights of its folder that it lacks a
    place for. The head computes in float32, whatever `dtype` is.

    Raises:
        ValueError: weights are missing, of another shape or not finite.
    """
    from transformers import AutoConfig

    place, part = pick_device(device), "reward model"
    config = open_folder(AutoConfig, path, part)
    model, loading = open_with_head(path, part, config, pick_dtype(dtype, place))
    if loading["missing_keys"] or loading["mismatched_keys"]:
        raise ValueError(f"{path} lacks weights: {sorted(loading['missing_keys'])[:5]}")
    check_weights(model, tokenizer, path)
    return model.to(place).eval(), sorted(loading["unexpected_keys"])
