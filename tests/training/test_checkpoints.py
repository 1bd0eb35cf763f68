"""Checkpoints: a run goes on bit by bit; a damaged or foreign one is refused by name, and the newest good one used."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import Log, make_model, tokenizer
from tests.training.runs import args_of, examples_of, model_with_dropout, same, train, weights
from training.args import CheckpointArgs, EarlyStoppingArgs
from training.checkpoints import CheckpointError, Checkpoints
from training.completions import completion_loss

EVERY = CheckpointArgs(every_seconds=None, every_steps=2, keep=3)
EXAMPLES = examples_of(70)
RUN = {"epochs": 1.0, "checkpoints": EVERY}


class Killed(Exception):
    """Stands for a kill that a test in one process survives."""


def dying(at: int) -> Callable:
    """A loss that ends the run in its step `at` (from 1), with one batch a step."""
    calls = 0

    def loss(model, batch):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return completion_loss(model, batch)

    return loss


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A run that was killed in its 8th step, after checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(folder, EXAMPLES, model_with_dropout(), loss=dying(8), **RUN)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of the run that nobody killed, which had no checkpoints either."""
    folder, never = tmp_path_factory.mktemp("undisturbed"), CheckpointArgs(every_seconds=None)
    found = weights(train(folder, EXAMPLES, model_with_dropout(), **(RUN | {"checkpoints": never}))[0])
    assert not (folder / "unfinished").exists()
    return found


@pytest.fixture
def run(killed, tmp_path) -> Path:
    shutil.copytree(killed, tmp_path / "run")
    return tmp_path / "run"


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "unfinished" / "checkpoints").iterdir())


def newest(run: Path) -> Path:
    return run / "unfinished" / "checkpoints" / "step-00000006"


def said(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_a_run_goes_on_bit_by_bit_with_dropout(run, undisturbed, caplog):
    caplog.set_level(logging.INFO)
    assert checkpoints(run) == ["step-00000002", "step-00000004", "step-00000006"]
    model, done = train(run, EXAMPLES, model_with_dropout(), **RUN)
    assert same(weights(model), undisturbed)
    assert "going on after step 6 of" in said(caplog) and "refused" not in said(caplog)
    # and without dropout it is another run: random numbers matter here
    assert not same(weights(train(run / "other", EXAMPLES, make_model(), **RUN)[0]), undisturbed)
    assert done.figures["trained_tokens"] == sum(len(example.ids) for example in EXAMPLES)


def test_only_the_last_ones_are_kept(run):
    train(run, EXAMPLES, model_with_dropout(), **RUN)
    assert len(checkpoints(run)) == 3 and checkpoints(run)[0] > "step-00000002"
    one = dataclasses.replace(EVERY, keep=1)
    train(run / "one", EXAMPLES, **(RUN | {"checkpoints": one}))
    assert len(checkpoints(run / "one")) == 1


def test_a_run_that_was_at_its_end_trains_no_more(run, undisturbed):
    last = dataclasses.replace(EVERY, every_steps=1)
    train(run, EXAMPLES, model_with_dropout(), **(RUN | {"checkpoints": last}))
    model, _ = train(run, EXAMPLES, model_with_dropout(), loss=dying(1), **RUN)
    assert same(weights(model), undisturbed)


def test_the_log_and_the_figures_go_on(run, tmp_path):
    logs, figures = [], []
    for folder in (run, tmp_path / "new"):
        log = Log()
        figures.append(train(folder, EXAMPLES, model_with_dropout(), log=log, **RUN)[1].figures | {"train_seconds": 0})
        logs.append(log.rows)
    assert logs[0] == logs[1] and figures[0] == figures[1]


def test_early_stopping_goes_on(tmp_path):
    """Its best weights are in the checkpoint, and how often there was nothing better."""
    # five evaluations; the best is the second, and the run is killed after the third
    said_ = [0.5, 0.9, 0.6, 0.7, 0.8]

    def evaluate_from(first: int):
        rest = iter(said_[first:])
        return lambda model: {"auroc": next(rest)}

    run = {"evaluations": 5, "early_stopping": EarlyStoppingArgs("auroc", "max", 3), "epochs": 2.0}
    never = run | {"checkpoints": CheckpointArgs(every_seconds=None)}
    wanted, done = train(tmp_path / "a", EXAMPLES, evaluate=evaluate_from(0), **never)
    steps = len(EXAMPLES) and done.figures["steps"]
    run["checkpoints"] = dataclasses.replace(EVERY, every_steps=1)
    with pytest.raises(Killed):
        # in the step after the third of five evaluations
        train(tmp_path / "b", EXAMPLES, evaluate=evaluate_from(0), loss=dying(round(3 * steps / 5) + 1), **run)
    found, again = train(tmp_path / "b", EXAMPLES, evaluate=evaluate_from(3), **run)
    assert same(weights(found), weights(wanted)) and again.evaluation == done.evaluation == {"auroc": 0.9}
    assert again.figures["best_step"] == done.figures["best_step"]


def test_of_a_model_with_an_adapter_only_what_is_trained_is_kept(tmp_path):
    """And it goes on bit by bit, with the adapter's own dropout."""
    from safetensors.torch import load_file

    from training.adapters import LoraArgs, add_adapter, merge_adapter

    def adapted():
        return add_adapter(make_model(), LoraArgs(rank=2, dropout=0.2), seed=3)

    wanted, _ = train(tmp_path / "a", EXAMPLES, adapted(), **(RUN | {"checkpoints": CheckpointArgs()}))
    with pytest.raises(Killed):
        train(tmp_path / "b", EXAMPLES, adapted(), loss=dying(8), **RUN)
    kept = load_file(newest(tmp_path / "b") / WEIGHTS)
    assert kept and all(".lora_" in name for name in kept)
    found, _ = train(tmp_path / "b", EXAMPLES, adapted(), **RUN)
    assert same(weights(merge_adapter(found)), weights(merge_adapter(wanted)))


def test_time_alone_makes_checkpoints(tmp_path):
    often = CheckpointArgs(every_seconds=1e-9, keep=100)
    _, done = train(tmp_path, EXAMPLES, checkpoints=often)
    assert len(checkpoints(tmp_path)) == done.figures["steps"]
    assert CheckpointArgs() == CheckpointArgs(every_seconds=300.0, every_steps=None, keep=2)


# --- thirty ways in which a checkpoint can be bad ---


def flip(file: str, at: float):
    def damage(path: Path) -> None:
        data = bytearray((path / file).read_bytes())
        data[int(at * (len(data) - 1))] ^= 0x10
        (path / file).write_bytes(data)

    return damage


def cut(file: str, share: float):
    def damage(path: Path) -> None:
        data = (path / file).read_bytes()
        (path / file).write_bytes(data[: int(share * len(data))])

    return damage


def drop(file: str):
    return lambda path: (path / file).unlink()


def seal(path: Path) -> None:
    """Make the manifest agree with the files: whoever damaged them meant it."""
    from stages.files import sha256

    files = [file for file in sorted(path.iterdir()) if file.name != "manifest.json"]
    manifest = {file.name: {"size": file.stat().st_size, "sha256": sha256(file)} for file in files}
    (path / "manifest.json").write_text(json.dumps(manifest))


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]):
    """Change the tensors of a file, and its hash."""
    from safetensors.torch import load_file, save_file

    def damage(path: Path) -> None:
        found = {name: value.clone() for name, value in load_file(path / file).items()}
        change(found)
        save_file(found, path / file)
        seal(path)

    return damage


def state(change: Callable[[dict], object]):
    def damage(path: Path) -> None:
        found = json.loads((path / "state.json").read_text())
        change(found)
        (path / "state.json").write_text(json.dumps(found))
        seal(path)

    return damage


def manifest(change: Callable[[dict], object]):
    def damage(path: Path) -> None:
        found = json.loads((path / "manifest.json").read_text())
        change(found)
        (path / "manifest.json").write_text(json.dumps(found))

    return damage


def fill(name: str, value: float):
    return lambda found: found[name].view(-1)[0:1].fill_(value)


def resize(name: str, *shape: int):
    return lambda found: found.update({name: torch.zeros(shape)})


def garbage(file: str):
    def damage(path: Path) -> None:
        (path / file).write_bytes(b"\x93NUMPY not what it was")
        seal(path)

    return damage


HEAD, NORM = "model.embed_tokens.weight", "model.norm.weight"
ANOTHER_RUN = "state.json: it belongs to another run"
WEIGHTS, MOMENTS, STATE = "weights.safetensors", "moments.safetensors", "state.json"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (cut(WEIGHTS, 0.5), rf"{WEIGHTS}: \d+ bytes, but the manifest says"),
    "weights cut by a byte": (cut(WEIGHTS, 0.99999), rf"{WEIGHTS}: \d+ bytes"),
    "weights empty": (cut(WEIGHTS, 0), rf"{WEIGHTS}: 0 bytes"),
    "moments cut short": (cut(MOMENTS, 0.9), rf"{MOMENTS}: \d+ bytes"),
    "state cut short": (cut(STATE, 0.5), rf"{STATE}: \d+ bytes"),
    "manifest cut short": (cut("manifest.json", 0.5), r"manifest.json, line \d+: malformed"),
    "manifest empty": (cut("manifest.json", 0), r"manifest.json, line \d+: malformed"),
    "byte flipped in the weights' header": (flip(WEIGHTS, 0.001), rf"{WEIGHTS}: changed: SHA-256"),
    "byte flipped in the weights": (flip(WEIGHTS, 0.6), rf"{WEIGHTS}: changed: SHA-256"),
    "byte flipped at the end": (flip(WEIGHTS, 1.0), rf"{WEIGHTS}: changed: SHA-256"),
    "byte flipped in the moments": (flip(MOMENTS, 0.5), rf"{MOMENTS}: changed: SHA-256"),
    "byte flipped in the state": (flip(STATE, 0.5), rf"{STATE}: changed: SHA-256"),
    "no weights": (drop(WEIGHTS), rf"{WEIGHTS}: missing"),
    "no optimiser state": (drop(MOMENTS), rf"{MOMENTS}: missing"),
    "no state": (drop(STATE), rf"{STATE}: missing"),
    "no manifest": (drop("manifest.json"), r"manifest.json: cannot be read"),
    "a file too many": (lambda path: (path / "rng.pt").touch(), r"rng.pt: there, though"),
    "another hash": (manifest(lambda m: m[WEIGHTS].update(sha256="0" * 64)), rf"{WEIGHTS}: changed"),
    "another size": (manifest(lambda m: m[STATE].update(size=1)), rf"{STATE}: \d+ bytes, but the manifest says 1"),
    "a file not listed": (manifest(lambda m: m.pop(MOMENTS)), r"manifest.json: not the manifest"),
    "no hash": (manifest(lambda m: m[STATE].pop("sha256")), r"manifest.json: no size and hash for state.json"),
    "a manifest of another kind": (manifest(lambda m: m.clear()), r"manifest.json: not the manifest"),
    "no tensors at all": (garbage(WEIGHTS), rf"{WEIGHTS}: cannot be read"),
    "missing head": (tensors(WEIGHTS, lambda w: w.pop(HEAD)), rf"{WEIGHTS}: missing: {HEAD}"),
    "missing moment": (tensors(MOMENTS, lambda m: m.pop(f"{NORM}/exp_avg")), rf"{MOMENTS}: missing: {NORM}/exp_avg"),
    "extra key": (tensors(WEIGHTS, resize("score.weight", 1, 32)), rf"{WEIGHTS}: unknown: score.weight"),
    "renamed key": (
        tensors(WEIGHTS, lambda w: w.update({"norm.weight": w.pop(NORM)})),
        rf"{WEIGHTS}: missing: {NORM}",
    ),
    "extra moment": (tensors(MOMENTS, resize("x/step")), rf"{MOMENTS}: unknown: x/step"),
    "wrong shape": (tensors(WEIGHTS, resize(NORM, 31)), rf"{WEIGHTS}: {NORM} is \(31,\)"),
    "turned round": (tensors(WEIGHTS, resize(HEAD, 32, 251)), rf"{WEIGHTS}: {HEAD} is \(32, 251\)"),
    "wrong shape of a moment": (
        tensors(MOMENTS, resize(f"{NORM}/exp_avg_sq", 1)),
        rf"{MOMENTS}: {NORM}/exp_avg_sq is \(1,\)",
    ),
    "half precision": (
        tensors(WEIGHTS, lambda w: w.update({NORM: w[NORM].half()})),
        rf"{WEIGHTS}: {NORM} is \(32,\) torch.float16",
    ),
    "NaN in a weight": (tensors(WEIGHTS, fill(NORM, float("nan"))), rf"{WEIGHTS}: {NORM} is not finite"),
    "infinite moment": (
        tensors(MOMENTS, fill(f"{NORM}/exp_avg", float("inf"))),
        rf"{MOMENTS}: {NORM}/exp_avg is not finite",
    ),
    "negative square": (
        tensors(MOMENTS, fill(f"{NORM}/exp_avg_sq", -1.0)),
        rf"{MOMENTS}: {NORM}/exp_avg_sq has a negative square",
    ),
    "another step in the moments": (
        tensors(MOMENTS, fill(f"{NORM}/step", 5.0)),
        rf"{MOMENTS}: {NORM}/step is 5, not 6",
    ),
    "another step": (state(lambda s: s.update(step=7)), rf"{STATE}: step is 7, in step-00000006"),
    "no step": (state(lambda s: s.pop("step")), rf"{STATE}: not the state of a run"),
    "a loss that is NaN": (
        state(lambda s: s["figures"].update(running=float("nan"))),
        rf"{STATE}: figures.running is nan",
    ),
    "a loss that is a text": (state(lambda s: s["figures"].update(running="1")), rf"{STATE}: figures.running is '1'"),
    "best weights not there": (state(lambda s: s.update(best={"step": 1})), rf"{STATE}: best is"),
    "another tokenizer": (state(lambda s: s["belongs"].update(tokenizer="0")), rf"{ANOTHER_RUN}: tokenizer is '0'"),
    "another seed": (
        state(lambda s: s["belongs"].update({"args.seed": 1})),
        rf"{STATE}: it .*: args.seed is 1, here it is 0",
    ),
    "other data": (state(lambda s: s["belongs"].update(examples="0")), rf"{ANOTHER_RUN}: examples is '0'"),
    "two processes": (
        state(lambda s: s["belongs"].update(processes=2)),
        rf"{STATE}: it .*: processes is 2, here it is 1",
    ),
    "untouched": (state(lambda s: s.update(untouched=["x"])), rf"{STATE}: untouched is \['x'\]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bad_checkpoint_is_refused_by_name_and_the_one_before_it_used(name, run, undisturbed, caplog):
    damage, message = DAMAGES[name]
    damage(newest(run))
    caplog.set_level(logging.INFO)
    model, _ = train(run, EXAMPLES, model_with_dropout(), **RUN)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith(f"refused: {newest(run)}")
    assert re.search(message, record.getMessage()), record.getMessage()
    assert "going on after step 4 of" in said(caplog)
    assert same(weights(model), undisturbed)


def test_there_are_thirty_of_them():
    assert len(DAMAGES) >= 30


def test_without_a_good_one_it_starts_anew_and_says_so(run, undisturbed, caplog):
    for path in (run / "unfinished" / "checkpoints").iterdir():
        flip(WEIGHTS, 0.5)(path)
    model, _ = train(run, EXAMPLES, model_with_dropout(), **RUN)
    assert same(weights(model), undisturbed)
    assert said(caplog).count("refused: ") == 3 and "no good checkpoint among 3" in said(caplog)
    # those of the new run have taken the place of the bad ones
    model, _ = train(run, EXAMPLES, model_with_dropout(), loss=dying(3), **RUN)
    assert same(weights(model), undisturbed) and said(caplog).count("refused: ") == 3


def other_model(**changes):
    model = model_with_dropout()
    for name, value in changes.items():
        with torch.no_grad():
            dict(model.named_parameters())[name.replace("__", ".")].view(-1)[0] = value
    return model


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ({"learning_rate": 2e-3}, "args.learning_rate is 0.001, here it is 0.002"),
        ({"layout": "padded"}, "args.layout is 'packed', here it is 'padded'"),
        ({"examples": EXAMPLES[:-1]}, "examples is"),
        (
            {"examples": [dataclasses.replace(EXAMPLES[0], targets=[3] * len(EXAMPLES[0].targets)), *EXAMPLES[1:]]},
            "examples is",
        ),
        ({"model": lambda: other_model(model__norm__weight=1.5)}, "first_weights is"),
        ({"model": lambda: model_with_dropout(layers=2)}, "first_weights is"),
    ],
    ids=["rate", "layout", "fewer examples", "another target", "another weight", "more layers"],
)
def test_a_checkpoint_of_another_run_is_refused(what, word, run, caplog):
    model, examples = what.pop("model", model_with_dropout)(), what.pop("examples", EXAMPLES)
    found = weights(train(run, examples, model, **(RUN | what))[0])
    assert word in said(caplog) and "no good checkpoint among 3" in said(caplog)
    assert found


def test_another_tokenizer_is_another_run(monkeypatch, run, caplog):
    from rollouts.world.tokenizer import make_tokenizer

    train(run, EXAMPLES, model_with_dropout(), **RUN)
    assert "refused" not in said(caplog)
    other = make_tokenizer(50)
    other.add_tokens(["unheard of"])
    monkeypatch.setattr("tests.training.runs.tokenizer", lambda: other)
    train(run, EXAMPLES, model_with_dropout(), **RUN)
    assert "tokenizer is" in said(caplog) and other.vocab_size == tokenizer().vocab_size


def test_a_disk_without_room_is_named(tmp_path):
    folder = tmp_path / "there"
    folder.write_text("a file where the folder should be")
    with pytest.raises((CheckpointError, OSError), match="there"):
        Checkpoints(folder, 2, {}, {}, 1).save(1, None)


def test_settings_of_checkpoints_do_not_change_the_artifact():
    from stages.stage import plain_args

    assert plain_args(args_of(checkpoints=EVERY), {}) == plain_args(args_of(), {})
