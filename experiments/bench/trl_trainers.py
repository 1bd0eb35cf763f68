"""One training run of TRL's own trainers, in TRL's own environment: the peer of `experiments/bench/training_speed.py`.

Nothing of this project is imported here. Reads the rows that bench_training.py wrote, prints one line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def digest(examples: Iterable[tuple[Sequence[int], Sequence[int], Sequence[float]]]) -> str:
    """A hash of what is trained on, whatever its order: (ids, positions, targets) of each example."""
    lines = sorted(json.dumps([list(ids), list(at), [float(t) for t in to]]) for ids, at, to in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def cpu_seconds() -> float:
    """Processor time of this process and of the ended ones that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("prm", "sft"))
    parser.add_argument("--start", required=True, help="folder of the model and tokenizer to start from")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--warmup", type=int, required=True, help="optimiser steps")
    parser.add_argument("--batch", type=int, required=True, help="examples (packs with --packing) of a forward")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--sampling", default="random")
    parser.add_argument("--optim", default="adamw_torch_fused")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--packing", type=int, default=0, help="tokens of a pack; 0 packs nothing")
    parser.add_argument("--padding-free", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def settings(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What both trainers get: the bench's optimiser and schedule, and nothing that costs time without need."""
    return dict(
        output_dir=folder,
        num_train_epochs=1,
        max_steps=args.max_steps,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=args.warmup,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim=args.optim,
        train_sampling_strategy=args.sampling,
        dataloader_num_workers=args.workers,
        torch_compile=args.compile,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
        max_length=None if args.padding_free else args.packing or 512,
    )


def make_trainer(args: argparse.Namespace, folder: str) -> Any:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.start, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in tokenizer("a")["input_ids"]:
        tokenizer.bos_token = None  # else the PRMTrainer puts one before each prompt, unlike the tokenizer
    rows = load_dataset("json", data_files=args.rows, split="train", cache_dir=os.path.join(folder, "cache"))
    kind = AutoModelForTokenClassification if args.job == "prm" else AutoModelForCausalLM
    safely = {"trust_remote_code": False, "use_safetensors": True}
    model = kind.from_pretrained(args.start, dtype="float32", attn_implementation=args.attention, **safely)
    given = settings(args, folder)
    if args.job == "prm":
        from transformers import DataCollatorWithFlattening
        from trl.experimental.prm import PRMConfig, PRMTrainer

        collator = None
        if args.padding_free:
            model.config.use_cache = False
            collator = DataCollatorWithFlattening(separator_id=-100)
        return PRMTrainer(
            model=model,
            args=PRMConfig(step_separator="\n", **given),
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=collator,
        )
    from trl import SFTConfig, SFTTrainer

    extra = {"packing": bool(args.packing), "padding_free": args.padding_free or bool(args.packing)}
    return SFTTrainer(model=model, args=SFTConfig(**given, **extra), train_dataset=rows, processing_class=tokenizer)


def trained_on(args: argparse.Namespace, trainer: Any) -> list[tuple[list[int], list[int], list[float]]]:
    """The examples as the trainer made them: ids, positions that carry a loss, and their targets."""
    found = []
    for row in trainer.train_dataset:
        ids, labels = row["input_ids"], row.get("labels")
        starts, at = row.get("seq_lengths") or [len(ids)], 0
        for length in starts:
            own, marks = ids[at : at + length], labels[at : at + length]
            at += length
            shift = 0 if args.job == "prm" else 1
            places = [i for i in range(shift, length) if marks[i] != -100]
            found.append((own, [i - shift for i in places], [marks[i] for i in places]))
    return found


def held_out_loss(args: argparse.Namespace, trainer: Any) -> float:
    """Mean loss a target on the held-out rows, example by example, so that nothing hangs on batches."""
    import torch

    model = trainer.model.eval()
    total, number = 0.0, 0
    with torch.inference_mode(), open(args.held_out, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            ids, at, to = row["ids"], row["positions"], row["targets"]
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, at].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(to).long(), reduction="sum"))
            number += len(to)
    return total / number


def count_padding(trainer: Any) -> None:
    """Let the trainer's collator count the tokens of its batches, padding included."""
    collate = trainer.data_collator
    trainer.read = 0

    def counting(rows: list[Any]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        trainer.read += batch["input_ids"].numel()
        return batch

    trainer.data_collator = counting


def main(argv: Sequence[str] | None = None) -> int:
    import tempfile

    import torch
    import transformers
    import trl

    args = parse_arguments(argv)
    transformers.logging.set_verbosity_error()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, folder)
        loaded = time.perf_counter() - begun
        examples = trained_on(args, trainer)
        if not args.workers:
            count_padding(trainer)
        wall, cpu = time.perf_counter(), cpu_seconds()
        trainer.train()
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        found = {
            "seconds": wall,
            "cpu_seconds": cpu,
            "whole_seconds": loaded + wall,
            "steps": trainer.state.global_step,
            "examples": len(examples),
            "tokens": sum(len(ids) for ids, _, _ in examples),
            "targets": sum(len(to) for _, _, to in examples),
            "read": getattr(trainer, "read", None),
            "digest": digest(examples),
            "loss": held_out_loss(args, trainer),
            "threads": torch.get_num_threads(),
            "versions": f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
        }
    print("@result " + json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
