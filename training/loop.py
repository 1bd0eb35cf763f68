"""The one training loop: policies and reward models differ in their loss and their examples only.

The loss of a step is the mean over all its targets, or over its groups of examples: layout, micro-batches and number of
ranks do not change it. Order and random numbers are functions of (seed, epoch, step, rank), so that a run that was
killed goes on bit by bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollouts.sampling.policies import device_class, dtype_name
from stages.files import write_json
from stages.progress import Progress
from stages.workspace import Workspace
from training.adapters import inputs_as_they_are
from training.args import TrainArgs
from training.attention.install import packed_attention, padded_attention
from training.checkpoints import FIGURES, Checkpoint, Checkpoints
from training.distributed import Engine, Loss, Tensors, noticing
from training.examples import Example
from training.identity import identity
from training.loader import Step, StepLoader
from training.plan import learning_rate_share, step_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Evaluate = Callable[["PreTrainedModel"], dict[str, float]]


class TrainingError(ValueError):
    """Training met a loss, gradient or metric that is not a number, or had nothing to train on."""


@dataclass(frozen=True)
class Trained:
    """A run's `figures` (steps, examples, tokens, seconds, running mean of the loss), and the `evaluation` of the
    weights that the model has now."""

    figures: dict[str, float]
    evaluation: dict[str, float]


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    loss: Loss,
    args: TrainArgs,
    work: Workspace,
    label: str = "train",
    evaluate: Evaluate | None = None,
    names: Sequence[str] | None = None,
) -> Trained:
    """Train `model` in place; it is in evaluation mode afterwards, its weights whole, on every process.

    Examples without targets are left out. Metrics go to `work.track`. Checkpoints go to `work.unfinished`: called again
    with the same arguments, the run goes on from the newest. `names` are those of the examples in error messages.

    Raises:
        TrainingError: there is nothing to train on; a loss, gradient or metric is not finite (the message names the
            step and a file with its examples); or the metric for early stopping is not among those of `evaluate`.
        ProcessError: the processes that train are not those of `work`, or one of them has ended.
        CheckpointError: a checkpoint cannot be written.
    """
    if not any(example.positions for example in examples):
        raise TrainingError("no example has a target to train on")
    if args.early_stopping.metric is not None and evaluate is None:
        raise TrainingError(f"early_stopping.metric={args.early_stopping.metric}, but nothing is held out to evaluate")
    dtype = dtype_name(args.dtype, device_class(args.device))
    reading = padded_attention if args.layout == "padded" else packed_attention
    with reading(model), inputs_as_they_are(model, dtype), noticing(work.processes.count):
        run = _Run(model, tokenizer, examples, loss, args, work, evaluate, names)
        run.resume()
        with work.progress(run.last, "steps", label) as bar:
            bar.advance(run.done)
            run.train(bar)
        return run.close()


class _Run:
    """One run: what it consists of (the arguments of `fit`), and how far it is."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        examples: Sequence[Example],
        loss: Loss,
        args: TrainArgs,
        work: Workspace,
        evaluate: Evaluate | None,
        names: Sequence[str] | None,
    ) -> None:
        self.examples, self.names, self.tokenizer = examples, names, tokenizer
        self.loss, self.args, self.work, self.evaluate = loss, args, work, evaluate
        self.belongs = identity(model, tokenizer, examples, args, work.processes.count)
        self.engine = Engine(model, args, work.processes)
        self.loader = StepLoader(examples, args, tokenizer.pad_token_id, self.engine)
        self.steps = len(self.loader.plan)
        self.last = self.steps if args.stop_after is None else min(self.steps, args.stop_after)
        every = range(1, args.evaluations + 1) if evaluate is not None else ()
        self.evaluate_at = {round(i * self.last / args.evaluations) for i in every}
        shapes = {name: (tuple(weight.shape), weight.dtype) for name, weight in self.engine.named.items()}
        folder, keep = work.unfinished / "checkpoints", args.checkpoints.keep
        self.checkpoints = Checkpoints(folder, keep, self.belongs, shapes, self.last)
        self.done = 0
        self.figures: dict[str, float] = dict.fromkeys(FIGURES, 0)
        self.rows: list[tuple[int, dict[str, float]]] = []  # all that was logged
        self.evaluation: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.best_weights: Tensors | None = None
        self.began = self.saved = time.monotonic()
        self.logged = (self.began, 0.0)  # when, and how many tokens had been trained on

    @property
    def finished(self) -> bool:
        stopping = self.args.early_stopping
        return self.done >= self.last or (stopping.metric is not None and self.figures["misses"] >= stopping.patience)

    def train(self, bar: Progress) -> None:
        """Take all steps that are left."""
        import torch

        args = self.args
        self.engine.wrapped.train()
        step = None if self.finished else self.loader.prepare(self.done)
        while step is not None:
            number = self.done
            rate = args.learning_rate * learning_rate_share(number, self.steps, args.warmup, args.final_share)
            self.engine.set_rate(rate)
            torch.manual_seed(step_seed(args.seed, number, self.engine.rank))
            seen = self.engine.step(step.batches, step.counted, step.items, self.loss, self.is_due(number + 1))
            # prepared while the device is at work on this one
            following = self.loader.prepare(number + 1) if number + 1 < self.last else None
            value, norm, due = self.engine.read(seen)
            if not math.isfinite(value):
                self.fail(value, step)
            self.done += 1
            bar.advance(1)
            self.note(value, norm, rate, step)
            if self.done in self.evaluate_at:
                self.judge()
            if due:
                self.save()
            step = None if self.finished else following

    def note(self, value: float, norm: float, rate: float, step: Step) -> None:
        """Add up the figures of a step that is done; about fifty steps of a run are logged."""
        for name, count in step.figures.items():
            self.figures[name] += count
        running = self.figures["running"]
        self.figures["running"] = value if self.done == 1 else 0.95 * running + 0.05 * value
        if (self.done - 1) % math.ceil(self.last / 50) == 0 or self.done == self.last:
            now, tokens = time.monotonic(), self.figures["tokens"]
            speed = (tokens - self.logged[1]) / max(now - self.logged[0], 1e-6)
            self.logged = (now, tokens)
            self.log(
                loss=self.figures["running"],
                gradient_norm=norm,
                learning_rate=rate,
                tokens=tokens,
                tokens_per_second=speed,
                memory_gib=self.engine.memory,
            )

    def log(self, **metrics: float) -> None:
        """Log, and keep it for the checkpoint: a resumed run has a new log, and writes it there again."""
        self.rows.append((self.done, metrics))
        self.work.track.log(self.done, **metrics)

    def judge(self) -> None:
        """Evaluate the model, and see whether it has become better.

        Raises:
            TrainingError: a metric is not a number, or there is none of the name to stop early by.
        """
        self.engine.wrapped.eval()
        with self.engine.autocast():
            own = self.evaluate(self.engine.trained)
        # a GPU may add up in another order each time, but all ranks must decide the same
        self.evaluation = self.engine.broadcast({name: float(value) for name, value in own.items()})
        self.engine.wrapped.train()
        for name, value in self.evaluation.items():
            if not math.isfinite(value):
                raise TrainingError(f"{name} of the evaluation after step {self.done} of {self.steps} is {value}")
        self.log(**self.evaluation)
        stopping = self.args.early_stopping
        if stopping.metric is None:
            return
        if stopping.metric not in self.evaluation:
            known = ", ".join(sorted(self.evaluation))
            raise TrainingError(f"early_stopping.metric={stopping.metric} is none of {known}")
        value, sign = self.evaluation[stopping.metric], 1 if stopping.mode == "max" else -1
        if self.best is None or sign * (value - self.best["value"]) > 0:
            self.best = {"step": self.done, "value": value, "evaluation": self.evaluation}
            self.best_weights = self.engine.weights()
            self.figures["misses"] = 0
        else:
            self.figures["misses"] += 1

    def fail(self, value: float, step: Step) -> None:
        """Save what the step was trained on, and raise TrainingError."""
        file = self.work.unfinished / "not_finite.json"
        if self.engine.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            shown = list(map(self.shown, step.chosen))
            write_json(file, {"step": self.done + 1, "value": str(value), "examples": shown})
        self.engine.broadcast(None)  # no rank ends before the file is there
        names = [str(i) if self.names is None else f"{i} ({self.names[i]})" for i in step.chosen[:20]]
        more = len(step.chosen) - len(names)
        raise TrainingError(
            f"the loss or gradient of step {self.done + 1} of {self.steps} is {value}, on examples "
            f"{', '.join(names)}{f' and {more} more' if more else ''}; they are in {file}"
        )

    def shown(self, number: int) -> dict[str, Any]:
        """One example as people and programs can read it."""
        example = self.examples[number]
        return {
            "example": number,
            "name": None if self.names is None else self.names[number],
            "text": self.tokenizer.decode(example.ids),
            "ids": example.ids,
            "positions": example.positions,
            "targets": [str(target) for target in example.targets],
        }

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint should follow this step; time is rank 0's."""
        args = self.args.checkpoints
        if args.every_steps is not None and step % args.every_steps == 0:
            return True
        late = args.every_seconds is not None and time.monotonic() - self.saved >= args.every_seconds
        return late and self.engine.rank == 0

    def save(self) -> None:
        """Keep all that the run needs to go on from here."""
        weights, moments = self.engine.weights(), self.engine.moments()
        now = time.monotonic()
        if self.engine.rank == 0:
            touched = {key.rpartition("/")[0] for key in moments}
            state = {
                "step": self.done,
                "belongs": self.belongs,
                "untouched": sorted(weights.keys() - touched),
                "figures": self.figures | {"seconds": self.figures["seconds"] + now - self.began},
                "rows": self.rows,
                "evaluation": self.evaluation,
                "best": self.best,
            }
            self.checkpoints.save(self.done, Checkpoint(state, weights, moments, self.best_weights))
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the newest good checkpoint, where there is one."""
        found = self.checkpoints.newest() if self.engine.rank == 0 else None
        state = self.engine.broadcast(found and found.state)
        if state is None:
            return
        self.engine.set_weights(found.weights if found else {})
        self.engine.set_moments(found.moments if found else {})
        self.done, self.figures, self.rows = state["step"], state["figures"], state["rows"]
        self.evaluation, self.best, self.best_weights = state["evaluation"], state["best"], found and found.best
        self.logged = (time.monotonic(), self.figures["tokens"])
        for step, metrics in self.rows:
            self.work.track.log(step, **metrics)
        logger.info("going on after step %d of %d", self.done, self.last)

    def close(self) -> Trained:
        """Leave the best weights, or the last ones, in the model."""
        if self.best is not None:
            self.engine.set_weights(self.best_weights or {})
            self.evaluation = self.best["evaluation"]
        self.engine.finish()
        best = {} if self.best is None else {"best_step": self.best["step"]}
        figures = {
            "steps": self.done,
            "examples": len(self.loader.kept),
            "trained_tokens": self.figures["tokens"],
            **best,
            "useful_tokens": self.figures["useful"] / max(1, self.figures["computed"]),
            "loss": self.figures["running"],
            "train_seconds": self.figures["seconds"] + time.monotonic() - self.began,
        }
        return Trained(figures, self.evaluation)
