"""Our training beside TRL's own trainers, on the same rows, weights, optimizer and machine; and scoring, one forward
for all steps beside one a prefix. TRL runs in environments of its own, and all take turns.

make bench-training
make bench-training BENCH='--model MODEL --gsm8k FOLDER --problems 12 --learning-rate 2e-5'
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.bench.measure import bench_problems, make_parser, print_header, ratios, spread
from experiments.bench.training_rows import WORLD, as_tuples, examples_of, step_rows, text_rows, write_jsonl
from refine.students.shipped import SHIPPED, find_start

JOBS = {"prm": "stepwise reward model", "sft": "supervised fine-tuning"}
TRL = {job: f".venv-trl-{job}/bin/python" for job in JOBS}  # made by `make bench-training`
_WARMUP = 0.05
_ROOT = Path(__file__).parents[2]
_COLUMNS = {"examples/s": 12, "tokens/s": 11, "tokens/CPU s": 14, "useful": 8, "steps": 7, "loss": 9, "whole s": 9}
_NUMBERS = ("seconds", "cpu_seconds", "whole_seconds", "read", "steps", "loss")
Found = dict[str, Any]


@dataclass
class Contender:
    """One way to train: its name in the table, the Python and the module that do it, and what its runs found."""

    name: str
    python: str
    module: str
    settings: dict[str, Any]
    runs: list[Found] = field(default_factory=list)

    def run(self) -> Found:
        """Train once, in a process of its own, and keep what it found.

        Raises:
            RuntimeError: it failed; the message has the end of what it wrote.
        """
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        with tempfile.TemporaryDirectory() as folder:
            settings, result = Path(folder, "settings.json"), Path(folder, "result.json")
            settings.write_text(json.dumps(self.settings))
            command = [self.python, "-m", self.module, str(settings), str(result)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=_ROOT, check=False)
            if done.returncode:
                said = (done.stderr or done.stdout)[-2000:]
                raise RuntimeError(f"{self.name}: {self.module} ended with {done.returncode}: {said}")
            self.runs.append(json.loads(result.read_text()))
        return self.runs[-1]

    def all(self, name: str) -> list[float]:
        """One number of every run."""
        return [run[name] for run in self.runs]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default=SHIPPED, help="a policy's folder; by default the student that is shipped")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="take GSM8K's problems, not the embedded world's")
    parser.add_argument("--problems", type=int, default=400, help="problems to train on")
    parser.add_argument("--solutions", type=int, default=4, help="solutions of each, one of them right")
    parser.add_argument("--held-out-problems", type=int, default=100)
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, "score"], default=[*JOBS, "score"])
    parser.add_argument("--alone", action="store_true", help="without TRL")
    args = parser.parse_args(argv)
    for job, path in TRL.items():
        if job in args.jobs and not args.alone and not Path(path).exists():
            parser.error(f"there is no {path}: `make bench-training` makes it; or --alone")
    return args


def write_data(job: str, args: argparse.Namespace, folder: Path) -> tuple[dict[str, str], list[int]]:
    """Files below `folder`, by name: rows, held-out rows, those as token ids, and the folders that we and that they
    start from; and the lengths of all examples."""
    from rollouts.sampling.policies import load_tokenizer

    model = find_start(args.model)
    tokenizer = load_tokenizer(model)
    folder.mkdir()
    # SFT has one solution a problem: it gets as many rows as the other job
    number = args.problems * (args.solutions if job == "sft" else 1)
    problems = bench_problems("train", number, args.gsm8k, **WORLD)
    others = bench_problems("test" if args.gsm8k else "validation", args.held_out_problems, args.gsm8k, **WORLD)
    if job == "prm":
        rows, held_out = step_rows(problems, args.solutions), step_rows(others, args.solutions, seed=1)
    else:
        rows, held_out = text_rows(problems), text_rows(others)
    files = {name: folder / f"{name}.jsonl" for name in ("rows", "held_out", "held_out_ids")}
    written = rows, held_out, as_tuples(examples_of(tokenizer, held_out))
    for path, lines in zip(files.values(), written, strict=True):
        write_jsonl(path, lines)
    ours = theirs = model
    if job == "prm":
        ours, theirs = folder / "ours", folder / "theirs"
        save_starts(model, ours, theirs)
    files |= {"ours": ours, "theirs": theirs}
    return {name: str(path) for name, path in files.items()}, [len(one.ids) for one in examples_of(tokenizer, rows)]


def save_starts(model: str, ours: Path, theirs: Path) -> None:
    """The same body with a head of zeros: of one label for us (a logit), of two for TRL (their difference is one)."""
    import torch
    from transformers import AutoConfig, AutoModelForTokenClassification

    from rewards.reward_model import make_reward_model
    from training.models import save_model

    reward, tokenizer = make_reward_model(model, "cpu")
    save_model(reward, tokenizer, ours)
    config = AutoConfig.from_pretrained(model, num_labels=2, trust_remote_code=False)
    config.classifier_dropout = 0.0
    other = AutoModelForTokenClassification.from_config(config)
    weights = reward.state_dict()
    with torch.no_grad():
        for name, weight in other.state_dict().items():
            weight.copy_(weights[name] if weight.shape == weights[name].shape else torch.zeros_like(weight))
    save_model(other, tokenizer, theirs)


def contenders(job: str, args: argparse.Namespace, files: dict[str, str], lengths: list[int]) -> list[Contender]:
    """Who trains: we, and TRL with the settings that were fastest here (docs/performance.md says which were tried)."""
    common = {"job": job, **files, "learning_rate": args.learning_rate, "tokens_per_step": args.tokens_per_step}
    here = common | {"start": files["ours"], "warmup": _WARMUP}
    found = [our_trainer(f"ours, {layout}", here | {"layout": layout}) for layout in ("shared", "packed", "padded")]
    if args.alone:
        return found
    batch = max(1, round(args.tokens_per_step * len(lengths) / sum(lengths)))
    there = common | {"start": files["theirs"], "warmup": max(1, round(_WARMUP * len(lengths) / batch)), "batch": batch}
    # small packs: on a CPU the mask of a pack is dense, and longer ones were slower
    pack = max(256, *lengths)
    packed = {"packing": pack, "batch": 1, "accumulate": max(1, round(args.tokens_per_step / pack))}
    ways = {"TRL, by length": {"sampling": "group_by_length"}, "TRL, random order": {}}
    if job == "sft":
        ways = {"TRL, packing": packed, "TRL, by length": {"sampling": "group_by_length"}}
    return [
        *found,
        *(Contender(name, TRL[job], "experiments.bench.trl_trainers", there | way) for name, way in ways.items()),
    ]


def our_trainer(name: str, settings: dict[str, Any]) -> Contender:
    return Contender(name, sys.executable, "experiments.bench.our_trainer", settings)


def check_equal(contenders: Sequence[Contender]) -> None:
    """Raise ValueError where two have not trained on the same token ids, positions and targets."""
    first = contenders[0].runs[0]
    for contender in contenders:
        for found in contender.runs:
            for name in ("digest", "examples", "tokens", "targets", "threads"):
                if found[name] != first[name]:
                    raise ValueError(f"{contender.name}: {name} {found[name]}, but {contenders[0].name}: {first[name]}")


def compare(job: str, args: argparse.Namespace, folder: Path) -> None:
    """Let the contenders of one job take turns, and print what they did."""
    files, lengths = write_data(job, args, folder)
    entrants = contenders(job, args, files, lengths)
    for number in range(args.rounds):
        turn = number % len(entrants)
        for contender in entrants[turn:] + entrants[:turn]:
            print(f"  round {number + 1}: {contender.name}: {contender.run()['seconds']:.1f} s", file=sys.stderr)
    check_equal(entrants)
    print("\n".join(render_table(job, entrants, lengths)), flush=True)


def render_table(job: str, contenders: Sequence[Contender], lengths: Sequence[int]) -> list[str]:
    """Medians of all rounds, and of the ratios of our shared path to each other within a round."""
    ours, first = contenders[0], contenders[0].runs[0]
    versions = next((f", {one.runs[0]['versions']}" for one in contenders if "versions" in one.runs[0]), "")
    lines = [
        f"{JOBS[job]}: {first['examples']} examples of {min(lengths)} to {max(lengths)} tokens, "
        f"{first['tokens']} useful tokens, {first['targets']} targets",
        f"held-out loss before {first['start_loss']:.4f}, {first['threads']} threads{versions}",
        " " * 18 + "".join(f"{name:>{width}}" for name, width in _COLUMNS.items()),
    ]
    for contender in contenders:
        middle = {name: statistics.median(contender.all(name)) for name in _NUMBERS}
        cells = [
            f"{first['examples'] / middle['seconds']:.1f}",
            f"{first['tokens'] / middle['seconds']:.0f}",
            f"{first['tokens'] / middle['cpu_seconds']:.0f}",
            f"{first['tokens'] / middle['read']:.1%}",
            f"{middle['steps']:.0f}",
            f"{middle['loss']:.4f}",
            f"{middle['whole_seconds']:.1f}",
        ]
        row = (f"{text:>{width}}" for text, width in zip(cells, _COLUMNS.values(), strict=True))
        lines.append(f"{contender.name:18}" + "".join(row))
    for other in contenders[1:]:
        wall, cpu = (spread(ratios(ours.all(clock), other.all(clock))) for clock in ("seconds", "cpu_seconds"))
        lines.append(f"ours, shared is {wall} times as fast as {other.name}; by processor time {cpu}")
    return [*lines, ""]


def compare_scoring(args: argparse.Namespace, folder: Path) -> None:
    """Print what it takes to score every step of the held-out solutions, both ways."""
    files, _ = write_data("prm", args, folder)
    scoring = our_trainer("ours", {"job": "score", "start": files["ours"], "held_out": files["held_out"]})
    for _ in range(args.rounds):
        scoring.run()
    first = scoring.runs[0]
    print(f"scoring: {first['solutions']} solutions, {first['steps']} steps, largest gap {first['largest_gap']:.1e}")
    ways = {"shared": "all steps, prompts once", "whole": "one forward for all steps", "prefix": "one a prefix"}
    for name, way in ways.items():
        seconds = statistics.median(scoring.all(f"{name}_seconds"))
        print(f"{way:28}{first[f'{name}_tokens']:12} tokens{seconds:9.2f} s")
    faster = ratios(scoring.all("whole_cpu_seconds"), scoring.all("prefix_cpu_seconds"))
    fewer = first["prefix_tokens"] / first["whole_tokens"]
    print(f"{fewer:.2f} times fewer tokens, {statistics.median(faster):.2f} times less processor time", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    from transformers.utils import logging

    args = parse_arguments(argv)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    print_header(
        f"{args.model}, float32, AdamW, one epoch, about {args.tokens_per_step} tokens a step, learning rate "
        f"{args.learning_rate:g}; {args.rounds} rounds in turns, medians"
    )
    with tempfile.TemporaryDirectory() as name:
        for job in args.jobs:
            if job == "score":
                compare_scoring(args, Path(name, job))
            else:
                compare(job, args, Path(name, job))
    return 0


if __name__ == "__main__":
    sys.exit(main())
