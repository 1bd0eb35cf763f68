"""The card of a reward model: how it is read, with plain transformers and in vLLM, and what it is worth.

A softmax over its one label, as the library's pipeline takes it, is 1.0 for every token: the card has the lines that
give scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewards.metrics import show_threshold
from rewards.reward_model import RIGHT, read_facts
from rollouts.card import QUESTION, STEPS, head_of, opening_lines, problems_behind, prompt_lines
from rollouts.prompts import read_template, render_prompt
from rollouts.sampling.policies import load_tokenizer
from stages.cards import Card, number
from stages.markdown import code_block, code_span, table

KINDS = {
    "orm": "An outcome reward model (ORM): after each step of a solution, the probability of a right answer.",
    "sorm": (
        "A stepwise outcome reward model (SORM): after each step of a solution, the probability that a right answer "
        "can still be reached from there."
    ),
}
PIPELINE = (
    '`pipeline("token-classification")` says 1.0 of every token: it takes a softmax, and there is one label. A score '
    "is the sigmoid of a logit, at the last token of a step:"
)
VLLM = """\
from vllm import LLM, PoolingParams, TokensPrompt

llm = LLM(folder, runner="pooling", dtype="float32")  # the default rounds the weights
logits_only = PoolingParams(use_activation=False)
(output,) = llm.encode([TokensPrompt(prompt_token_ids=ids)], logits_only, pooling_task="token_classify")
scores = output.outputs.data.float()[ends, 0].sigmoid().tolist()"""
MEASURES = {
    "first_error_f1": "F1 of the first error",
    "first_error_accuracy": "first error named exactly, or that there is none",
    "accuracy": "steps judged as their labels say",
    "auroc": "AUROC over steps",
    "final_accuracy": "whole solutions judged rightly",
    "final_auroc": "AUROC over whole solutions",
    "pairwise_accuracy": "right above wrong, same problem",
    "brier": "Brier score over steps",
    "calibration_error": "expected calibration error over steps",
    "cross_entropy": "cross-entropy over steps (nats)",
}


def reward_card(folder: Path, manifest: dict[str, Any]) -> Card:
    """What the card of a reward model's folder says beyond that of every artifact."""
    facts = read_facts(folder)
    head = head_of(manifest, "token-classification", facts["kind"], "reward-model")
    vllm = f"In vLLM, with `ids` and `ends` from above:\n\n{code_block(VLLM, 'python')}"
    code = f"{PIPELINE}\n\n{code_block(scoring_code(folder, facts), 'python')}"
    sections = {"To use": f"{code}\n\n{vllm}", "What it reads": what_it_reads(facts)}
    sections |= {"Data": data_behind(folder, manifest), "Measured on held-out problems": measured(manifest)}
    return Card(f"{facts['kind'].upper()} {code_span(manifest['key'])}", KINDS[facts["kind"]], head, sections)


def scoring_code(folder: Path, facts: dict[str, Any]) -> str:
    """Lines that score an example with plain transformers, as `rewards.scorer.Scorer` does."""
    return "\n".join(
        [
            *reading_lines("AutoModelForTokenClassification", folder, facts),
            "logits = model(torch.tensor([ids])).logits[0, ends, 0]",
            *judging_lines(),
        ]
    )


def reading_lines(opens: str, folder: Path, facts: dict[str, Any]) -> list[str]:
    """Lines that open a model and encode an example: `ids` of it, and the `ends` of its steps there."""
    tokenizer, where = load_tokenizer(str(folder)), facts["threshold"]
    lines = opening_lines(opens)
    lines += prompt_lines(tokenizer, render_prompt(QUESTION, read_template(facts["template"])))
    least = where if isinstance(where, list) else [where]
    lines += [
        f"steps = {list(STEPS)!r}",
        f"where, when = {least}, {facts['final_threshold']}  # thresholds: of each step; of the whole solution",
        "# behind a line feed, as in a text: some tokenizers put a space before what comes first",
        "read = tokenizer('\\n' + '\\n'.join(steps) + '\\n', return_offsets_mapping=True, **as_text)",
        "tokens = [(one, stop) for one, (_, stop) in zip(read['input_ids'], read['offset_mapping']) if stop > 1]",
        "stops = [len('\\n'.join(steps[: n + 1])) + 2 for n in range(len(steps))]",
        "ends = [len(ids) - 1 + sum(stop <= last for _, stop in tokens) for last in stops]  # last tokens of steps",
        "ids += [one for one, _ in tokens]",
    ]
    return lines


def judging_lines() -> list[str]:
    """Lines that judge an example by its `logits`, one a step."""
    return [
        "scores = logits.sigmoid().tolist()  # one a step",
        "first_error = next((n for n, one in enumerate(scores) if one < where[min(n, len(where) - 1)]), None)",
        "right = scores[-1] >= when",
    ]


def what_it_reads(facts: dict[str, Any]) -> str:
    """The table of what a reward model reads."""
    template = facts["template"]
    texts = template if isinstance(template, dict) else {"text": template}
    rows = [["kind", code_span(facts["kind"])], ["label", code_span(RIGHT)]]
    rows += [["template: " + name, code_span(repr(text))] for name, text in texts.items() if text is not None]
    rows += [
        ["separator, which ends each step", code_span(repr(facts["separator"]))],
        ["*where* the first error is: the first score below", show_threshold(facts["threshold"])],
        ["*when* a whole solution is right: a last score of at least", show_threshold(facts["final_threshold"])],
    ]
    return f"{table(['', ''], rows)}\n\n`config.json` has all of it, in full, under `stepwise`."


def data_behind(folder: Path, manifest: dict[str, Any]) -> str:
    """What a reward model was trained on."""
    counts = manifest.get("counts", {})
    told = [f"{number(counts[name])} {name}" for name in ("examples", "labels") if name in counts]
    return f"Trained on {' with '.join(told) or 'nothing'}. Problems behind it: {problems_behind(folder, manifest)}."


def measured(manifest: dict[str, Any]) -> str:
    """What validation measured, with intervals."""
    counts, rows = manifest.get("counts", {}), []
    for name, words in MEASURES.items():
        if (value := counts.get(f"validation_{name}")) is not None:
            low, high = (counts.get(f"validation_{name}_{end}") for end in ("low", "high"))
            rows.append([words, number(value), "–" if low is None else f"{number(low)} to {number(high)}"])
    if not rows:
        return "Nothing was."
    problems = f"{number(counts['validation_problems'])} problems" if "validation_problems" in counts else "problems"
    note = (
        f"By the labels of {problems} that were not trained on, which chose both thresholds too: a little too well. "
        "Intervals: bootstrap over problems. The luck of training is not in them."
    )
    return f"{table(['', 'value', '95%'], rows)}\n\n{note}"
