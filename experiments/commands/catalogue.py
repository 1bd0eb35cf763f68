"""The commands there are, `python -m experiments.NAME`, and the module that has each."""

from __future__ import annotations

import importlib

from stages.stage import Stage

COMMANDS = {
    "glore": "experiments.glore",
    "lema": "experiments.lema",
    "sample": "experiments.sample",
    "train_policy": "experiments.train_policy",
    "train_reward": "experiments.train_reward",
    "train_implicit": "experiments.train_implicit",
    "label_steps": "experiments.label_steps",
    "audit_labels": "experiments.audit_labels",
    "import_labels": "experiments.import_labels",
    "corrupt_solutions": "experiments.corrupt_solutions",
    "build_pairs": "experiments.build_pairs",
    "revise": "experiments.revise",
    "beam_search": "experiments.beam_search",
    "refine_until": "experiments.refine_until",
    "rerank": "experiments.rerank",
    "collect_mistakes": "experiments.collect_mistakes",
    "correct": "experiments.correct",
    "evolve": "experiments.evolve",
    "import_corrections": "experiments.import_corrections",
    "export_corrections": "experiments.export_corrections",
    "report": "experiments.report.stage",
    "lema_report": "experiments.lema_report",
    "claims": "experiments.claims",
    "compare": "experiments.compare",
    "plan": "experiments.plan",
    "convert": "experiments.convert",
    "evaluate_prm": "experiments.evaluate_prm",
    "track": "experiments.track",
    "dashboard": "experiments.dashboard",
    "show": "experiments.show.command",
    "push": "experiments.push",
}


def stage_named(name: str) -> Stage | None:
    """The stage that the command of this name runs; None for a stage that this version does not have."""
    known = vars(importlib.import_module(COMMANDS[name])).values() if name in COMMANDS else ()
    return next((value for value in known if isinstance(value, Stage) and value.name == name), None)
