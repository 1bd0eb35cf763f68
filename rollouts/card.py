"""What the cards of all models have in common: an example, lines of Python that read it as the models here do with
nothing but transformers (`rollouts/steps.py` has the same with every check), and the problems behind a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollouts.steps import TODAY, Chat, encode_prompt
from stages.cards import ancestry
from stages.hub import PREFIX, is_hub
from stages.markdown import code_span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QUESTION = "Ann has 7 pens. Bob has 5 more pens than Ann. How many pens does Bob have?"
STEPS = ("Bob has 7 + 5 = <<7+5=12>>12 pens.", "#### 12")


def opening_lines(kind: str) -> list[str]:
    """Open a folder with a class of transformers: `tokenizer` and `model`."""
    return [
        "import torch",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        'folder = "."  # where this file is, or org/name on the hub',
        f"tokenizer, model = AutoTokenizer.from_pretrained(folder), {kind}.from_pretrained(folder).eval()",
    ]


def prompt_lines(tokenizer: PreTrainedTokenizerFast, prompt: str | Chat) -> list[str]:
    """Token ids `ids` of a prompt, those of `encode_prompt`; `as_text` are the options that read nothing special out
    of a text."""
    lines = ["as_text = {'add_special_tokens': False, 'split_special_tokens': True}"]
    if isinstance(prompt, Chat):
        options = "add_generation_prompt=True, tokenize=False"
        if "strftime_now" in str(tokenizer.chat_template):
            lines.insert(0, "import datetime")
            options += f", strftime_now={TODAY!r}.strftime"
        lines += [f"prompt = tokenizer.apply_chat_template({prompt.messages!r}, {options})"]
        return [*lines, "ids = tokenizer(prompt, add_special_tokens=False)['input_ids']"]
    content = tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    whole = encode_prompt(tokenizer, prompt)
    start = whole[: len(whole) - len(content)]
    before = f"{start} + " if start else ""
    return [*lines, f"prompt = {prompt!r}", f"ids = {before}tokenizer(prompt, **as_text)['input_ids']"]


def head_of(manifest: dict[str, Any], task: str, *tags: str) -> dict[str, Any]:
    """The first lines of a model's card; a model of the hub that it started from is named."""
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task, "tags": ["stepwise", *tags]}
    policy = manifest.get("parents", {}).get("policy")
    if policy and is_hub(policy["key"]):
        head["base_model"] = policy["key"].removeprefix(PREFIX).partition("@")[0]
    return head


def problems_behind(folder: Path, manifest: dict[str, Any]) -> str:
    """The problems that a model and all that it was made from have read, as Markdown: `gsm8k` (train), …."""
    manifests = [manifest, *(one.manifest for one in ancestry(folder, manifest) if one.manifest)]
    sources = [one["args"]["problems"] for one in manifests if isinstance(one.get("args", {}).get("problems"), dict)]
    named = [f"{code_span(one.get('source'))} ({code_span(one.get('split'))})" for one in sources]
    return ", ".join(dict.fromkeys(named)) or "not known"
