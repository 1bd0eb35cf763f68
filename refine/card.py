"""The card of a policy: what it reads, and how to use it with plain transformers and in vLLM."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from refine.prompts import KINDS, render_refinement
from rollouts.card import QUESTION, head_of, opening_lines, problems_behind, prompt_lines
from rollouts.prompts import PromptArgs, render_prompt
from rollouts.sampling.policies import load_tokenizer
from rollouts.steps import Chat
from stages.cards import Card, number
from stages.markdown import code_block, code_span
from stages.text import visible

WRITES = {
    "global": "A global refiner: it reads a question and a draft, and writes a whole new solution.",
    "local": "A local refiner: it reads a question and a draft with its first error marked, and goes on from there.",
    "control": "A control of the refiners: it reads no draft, and writes a solution.",
    "shuffled": "A control of the refiners: it reads the draft of another problem, and writes a solution.",
}
DRAFT = ("Bob has 7 - 5 = <<7-5=2>>2 pens.", "#### 2")
VLLM = """\
from vllm import LLM, SamplingParams, TokensPrompt

llm = LLM(folder)
(output,) = llm.generate([TokensPrompt(prompt_token_ids=ids)], SamplingParams(temperature=0, max_tokens=256))
text = output.outputs[0].text"""


def policy_card(folder: Path, manifest: dict[str, Any]) -> Card:
    """What the card of a policy's folder says beyond that of every artifact."""
    kinds, counts = list(manifest["args"]["examples"]), manifest.get("counts", {})
    prompt = _example(kinds, manifest["args"].get("prompt") or {})
    lines = opening_lines("AutoModelForCausalLM") + prompt_lines(load_tokenizer(str(folder)), prompt)
    lines += [
        "given = torch.tensor([ids])",
        "made = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=256)",
        "text = tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)",
    ]
    code, vllm = code_block("\n".join(lines), "python"), code_block(VLLM, "python")
    turns = prompt.messages if isinstance(prompt, Chat) else [{"role": "text", "content": prompt}]
    trained = f"Trained on {number(counts.get('examples', 0))} texts: {', '.join(map(code_span, kinds))}."
    sections = {
        "To use": f"{code}\n\nIn vLLM, with `ids` from above:\n\n{vllm}",
        "What it reads": "\n\n".join(f"{turn['role']}:\n\n{code_block(visible(turn['content']))}" for turn in turns),
        "Data": f"{trained} Problems behind it: {problems_behind(folder, manifest)}.",
        "Measured": _measured(counts),
    }
    written = [WRITES[kind] for kind in kinds if kind in WRITES] or [
        "A policy: it reads a question, and writes a solution."
    ]
    return Card(
        f"Policy {code_span(manifest['key'])}",
        " ".join(written),
        head_of(manifest, "text-generation", *kinds),
        sections,
    )


def _example(kinds: list[str], prompt: dict[str, Any]) -> str | Chat:
    known = {field.name for field in dataclasses.fields(PromptArgs)}
    template = PromptArgs(**{name: value for name, value in prompt.items() if name in known}).template()
    kind = next((kind for kind in kinds if kind in KINDS), None)
    return render_prompt(QUESTION, template) if kind is None else render_refinement(kind, QUESTION, DRAFT, 0, template)


def _measured(counts: dict[str, Any]) -> str:
    """What a policy gets right is a matter of other stages; here only what its training measured."""
    loss = counts.get("validation_cross_entropy")
    told = "" if loss is None else f"Cross-entropy on texts of questions held out: {number(loss)} nats a token. "
    return (
        f"{told}How often it is right is measured on its samples, with intervals: by the stages `sample` and `report`."
    )
