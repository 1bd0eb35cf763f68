"""One training run of TRL's own trainers, in TRL's own environment: the peer of `experiments/bench/our_trainer.py`.

It reads the rows that `experiments/bench/training_speed.py` wrote.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

from experiments.bench.training_run import Example, measure, read_jsonl, run_given

if TYPE_CHECKING:
    import torch


def trainer_args(given: dict[str, Any], folder: str) -> dict[str, Any]:
    """What both trainers get: the bench's optimizer and schedule, and nothing that costs time without need."""
    return dict(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=given["batch"],
        gradient_accumulation_steps=given.get("accumulate", 1),
        learning_rate=given["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=given["warmup"],
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        train_sampling_strategy=given.get("sampling", "random"),
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        max_length=given.get("packing", 512),
    )


def make_trainer(given: dict[str, Any], folder: str) -> Any:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given["start"], trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in tokenizer("a")["input_ids"]:
        tokenizer.bos_token = None  # else the PRMTrainer puts one before each prompt, unlike the tokenizer
    rows = load_dataset("json", data_files=given["rows"], split="train", cache_dir=f"{folder}/cache")
    kind = AutoModelForTokenClassification if given["job"] == "prm" else AutoModelForCausalLM
    model = kind.from_pretrained(given["start"], dtype="float32", trust_remote_code=False, use_safetensors=True)
    own, common = trainer_args(given, folder), {"model": model, "train_dataset": rows, "processing_class": tokenizer}
    if given["job"] == "prm":
        from trl.experimental.prm import PRMConfig, PRMTrainer

        return PRMTrainer(args=PRMConfig(step_separator="\n", **own), **common)
    from trl import SFTConfig, SFTTrainer

    packing = "packing" in given
    return SFTTrainer(args=SFTConfig(packing=packing, padding_free=packing, **own), **common)


def trained_on(job: str, trainer: Any) -> list[Example]:
    """The examples as the trainer made them: ids, positions that carry a loss, and their targets."""
    found = []
    for row in trainer.train_dataset:
        ids, labels = row["input_ids"], row.get("labels")
        starts, at = row.get("seq_lengths") or [len(ids)], 0
        for length in starts:
            own, marks = ids[at : at + length], labels[at : at + length]
            at += length
            shift = 0 if job == "prm" else 1
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


def train(given: dict[str, Any]) -> dict[str, Any]:
    """Train for one epoch: `batch` examples of a forward (or packs of `packing` tokens), `warmup` optimizer steps."""
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(given, folder)
        count_padding(trainer)

        def run() -> dict[str, float]:
            trainer.train()
            return {"steps": trainer.state.global_step, "read": trainer.read}

        examples = trained_on(given["job"], trainer)
        found = measure(trainer.model, examples, read_jsonl(given["held_out_ids"]), begun, run)
    return found | {"versions": f"trl {trl.__version__}, transformers {transformers.__version__}"}


if __name__ == "__main__":
    run_given(train)
