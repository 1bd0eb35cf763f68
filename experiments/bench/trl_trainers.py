"""One training run of TRL's own trainers, in TRL's own environment: the peer of `experiments/bench/our_trainer.py`.

It reads the rows that `experiments/bench/training_speed.py` wrote, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.bench.training_run import Example, measure, print_result

if TYPE_CHECKING:
    import torch


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("prm", "sft"))
    parser.add_argument("--start", required=True, help="folder of the model and tokenizer to start from")
    parser.add_argument("--rows", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--warmup", type=int, required=True, help="optimizer steps")
    parser.add_argument("--batch", type=int, required=True, help="examples (packs with --packing) of a forward")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--sampling", default="random")
    parser.add_argument("--packing", type=int, default=0, help="tokens of a pack; 0 packs nothing")
    return parser.parse_args(argv)


def settings(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What both trainers get: the bench's optimizer and schedule, and nothing that costs time without need."""
    return dict(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=args.accumulate,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=args.warmup,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        train_sampling_strategy=args.sampling,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        max_length=args.packing or 512,
    )


def make_trainer(args: argparse.Namespace, folder: str) -> Any:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.start, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in tokenizer("a")["input_ids"]:
        tokenizer.bos_token = None  # else the PRMTrainer puts one before each prompt, unlike the tokenizer
    rows = load_dataset("json", data_files=args.rows, split="train", cache_dir=f"{folder}/cache")
    kind = AutoModelForTokenClassification if args.job == "prm" else AutoModelForCausalLM
    model = kind.from_pretrained(args.start, dtype="float32", trust_remote_code=False, use_safetensors=True)
    given, common = settings(args, folder), {"model": model, "train_dataset": rows, "processing_class": tokenizer}
    if args.job == "prm":
        from trl.experimental.prm import PRMConfig, PRMTrainer

        return PRMTrainer(args=PRMConfig(step_separator="\n", **given), **common)
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(args=SFTConfig(packing=bool(args.packing), padding_free=bool(args.packing), **given), **common)


def trained_on(args: argparse.Namespace, trainer: Any) -> list[Example]:
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
    import transformers
    import trl

    args = parse_arguments(argv)
    transformers.logging.set_verbosity_error()
    begun = time.perf_counter()
    lines = Path(args.held_out).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, folder)
        count_padding(trainer)

        def run() -> dict[str, float]:
            trainer.train()
            return {"steps": trainer.state.global_step, "read": trainer.read}

        found = measure(trainer.model, trained_on(args, trainer), list(map(json.loads, lines)), begun, run)
    print_result(found | {"versions": f"trl {trl.__version__}, transformers {transformers.__version__}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
