"""A policy's folder there and back, and what is said of one that is damaged: one line that names the folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from rewards.reward_model import make_reward_model
from rollouts.sampling.policies import (
    check_folder,
    context_length,
    load_policy,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from tests.tiny import ids, make_model, save_policy, save_reward, tokenizer
from training.models import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return Path(save_policy(tmp_path_factory.mktemp("policy") / "good"))


def test_a_policy_comes_back_as_it_was(folder):
    model, words = load_policy(str(folder), device="cpu")
    wanted = make_model().state_dict()
    assert wanted.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in model.state_dict().items())
    assert not model.training and context_length(model) == 128
    text = "Q: Ann has 7 pens.\n<<7+5=12>>12\n#### 12\n"
    assert words(text)["input_ids"] == tokenizer()(text)["input_ids"]
    assert words.decode(words(text)["input_ids"]) == text
    assert (words.pad_token_id, words.eos_token_id) == (0, 1)
    assert not {"config.json", "model.safetensors", "tokenizer.json"} - {path.name for path in folder.iterdir()}


def test_dtype_and_device_are_named_by_their_names(folder):
    model, _ = load_policy(str(folder), "bfloat16", "cpu")
    assert next(model.parameters()).dtype == torch.bfloat16
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_device("cpu").type == "cpu"
    for wrong in ("float31", "nn", "Tensor"):
        with pytest.raises(ValueError, match=wrong):
            pick_dtype(wrong, torch.device("cpu"))


@pytest.mark.parametrize(
    ("rank", "gpus", "device"),
    [(None, 0, "cpu"), ("1", 0, "cpu"), (None, 4, "cuda"), ("0", 4, "cuda:0"), ("3", 4, "cuda:3"), ("3", 1, "cuda")],
)
def test_each_process_takes_the_gpu_of_its_rank(monkeypatch, rank, gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert pick_device("auto") == torch.device(device)
    assert pick_device("cpu") == torch.device("cpu") and pick_device("cuda:2") == torch.device("cuda:2")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK=2, but there are only 2 GPUs"):
        pick_device("auto")


def edit_config(path: Path, **changes) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path, name: str, share: float) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: int(len(data) * share)])


NORM = "model.layers.0.input_layernorm.weight"
DAMAGES = {
    "no config": (lambda path: (path / "config.json").unlink(), "no config.json"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), r"no \*.safetensors"),
    "no tokenizer": (
        lambda path: [(path / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "no tokenizer",
    ),
    "half a tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer that loads"),
    "a torn tokenizer": (lambda path: cut(path, "tokenizer.json", 0.5), "no tokenizer that loads"),
    "a torn config": (lambda path: cut(path, "config.json", 0.5), "that loads"),
    "torn weights": (lambda path: cut(path, "model.safetensors", 0.9), "no model that loads: .*(header|file)"),
    "unknown model": (lambda path: edit_config(path, model_type="nonsense"), "that loads: .*nonsense"),
    "missing layer": (lambda path: edit_config(path, num_hidden_layers=2), r"lacks weights: \['model.layers.1"),
    "missing head": (lambda path: edit_config(path, tie_word_embeddings=False), r"lacks weights: \['lm_head"),
    "other shape": (lambda path: edit_config(path, hidden_size=48), "no model that loads"),
    "NaN": (lambda path: edit_weights(path, lambda w: w[NORM].fill_(torch.nan)), f"{NORM} is not finite"),
    "infinite": (lambda path: edit_weights(path, lambda w: w[NORM].fill_(torch.inf)), f"{NORM} is not finite"),
    "few embeddings": (
        lambda path: (
            edit_config(path, vocab_size=50),
            edit_weights(path, lambda w: w.update({"model.embed_tokens.weight": w["model.embed_tokens.weight"][:50]})),
        ),
        r"tokenizer has \d+ tokens, the model embeddings for 50",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(folder, tmp_path, name):
    damage, message = DAMAGES[name]
    shutil.copytree(folder, tmp_path / "bad")
    damage(tmp_path / "bad")
    with pytest.raises(ValueError, match=message) as caught:
        load_policy(str(tmp_path / "bad"), device="cpu")
    assert str(tmp_path / "bad") in str(caught.value) and "\n" not in str(caught.value)


def test_a_reward_model_is_no_policy(tmp_path):
    reward = save_reward(tmp_path / "reward", "orm")
    with pytest.raises(ValueError, match=r"reward is a reward model"):
        load_policy(reward, device="cpu")


def bring_code(path: Path, place: str) -> Path:
    """Give a folder Python code, as models of others bring it; what the code would write is the marker returned."""
    marker = path.parent / "the-code-ran"
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as Own, LlamaForCausalLM as OwnModel\n"
    file = path / ("custom_generate/generate.py" if place == "generate" else "own.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(code + "def generate(model, *args, **kwargs): ...\n")
    if place == "model":
        names = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
        edit_config(path, model_type="own", auto_map=names | {"AutoModelForTokenClassification": "own.OwnModel"})
    if place == "tokenizer":
        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return marker


@pytest.mark.parametrize("answer", ["y\n", ""])
@pytest.mark.parametrize("place", ["model", "tokenizer", "generate"])
def test_code_in_a_folder_is_never_run_and_nobody_is_asked(folder, tmp_path, monkeypatch, capfd, place, answer):
    shutil.copytree(folder, tmp_path / "foreign")
    marker = bring_code(tmp_path / "foreign", place)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    for opened in (load_policy, lambda path, device: make_reward_model(path, device)):
        stdin = io.StringIO(answer)
        monkeypatch.setattr(sys, "stdin", stdin)
        if place != "generate":
            with pytest.raises(ValueError, match=r"foreign has no .* loads: it needs Python code of its own") as caught:
                opened(str(tmp_path / "foreign"), device="cpu")
            assert "\n" not in str(caught.value)
        else:
            opened(str(tmp_path / "foreign"), device="cpu")  # its own way to sample is passed over
        assert stdin.tell() == 0 and not marker.exists()
    assert "[y/N]" not in "".join(capfd.readouterr())


def test_a_command_refuses_a_folder_with_code_in_one_line(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "foreign")
    marker = bring_code(tmp_path / "foreign", "model")
    command = [sys.executable, "-m", "experiments.sample", "policy=foreign", "problems.limit=1", "n=1"]
    root = str(Path(__file__).parents[3])
    ran = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}, input="y\n", capture_output=True, text=True
    )
    (line,) = [line for line in ran.stderr.splitlines() if "foreign" in line]
    assert ran.returncode == 2 and "it needs Python code of its own" in line
    assert "Traceback" not in ran.stderr and "[y/N]" not in ran.stdout + ran.stderr and not marker.exists()


def test_weights_are_read_from_safetensors_though_a_pickle_lies_beside(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "both")
    torch.save({NORM: torch.zeros(32)}, tmp_path / "both" / "pytorch_model.bin")
    model, _ = load_policy(str(tmp_path / "both"), device="cpu")
    assert torch.equal(model.state_dict()[NORM], make_model().state_dict()[NORM])
    # a name that passes for safetensors, and only a pickle that the library would read
    (tmp_path / "both" / "model.safetensors").rename(tmp_path / "both" / "other.safetensors")
    for opened in (load_policy, lambda path, device: make_reward_model(path, device)):
        with pytest.raises(ValueError, match=r"both has no .* that loads: .*model\.safetensors"):
            opened(str(tmp_path / "both"), device="cpu")


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_weight_that_would_be_cast_is_refused_by_name(folder, tmp_path, kind):
    shutil.copytree(folder, tmp_path / "cast")
    edit_weights(tmp_path / "cast", lambda w: w.update({NORM: w[NORM].to(kind)}))
    for opened in (load_policy, lambda path, device: make_reward_model(path, device)):
        with pytest.raises(ValueError, match=rf"cast/model\.safetensors: weight {NORM} is stored as [A-Z0-9_]+, not"):
            opened(str(tmp_path / "cast"), device="cpu")


def test_weights_of_any_floating_type_are_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "half")
    wanted = make_model().state_dict()[NORM]
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        edit_weights(tmp_path / "half", lambda w, kind=kind: w.update({NORM: wanted.to(kind)}))
        model, _ = load_policy(str(tmp_path / "half"), device="cpu")
        assert torch.equal(model.state_dict()[NORM], wanted.to(kind).float())


def test_masks_that_old_checkpoints_hold_are_passed_over(tmp_path):
    config = GPT2Config(vocab_size=len(tokenizer()), n_embd=32, n_layer=1, n_head=2, n_positions=64)
    save_model(GPT2LMHeadModel(config), tokenizer(), tmp_path / "gpt2")
    edit_weights(tmp_path / "gpt2", lambda w: w.update({"h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool)}))
    load_policy(str(tmp_path / "gpt2"), device="cpu")


def test_an_adapter_beside_a_model_is_refused_by_name(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "two")
    (tmp_path / "two" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"two has an adapter_config\.json beside its model: merge the adapter first"):
        load_policy(str(tmp_path / "two"), device="cpu")


def test_the_libraries_alarms_are_silent(folder, caplog, capfd):
    from transformers.utils import logging

    logging.enable_propagation()
    level = logging.get_verbosity()
    make_reward_model(str(folder), "cpu")  # its head is new
    assert not caplog.records and "MISSING" not in "".join(capfd.readouterr())
    assert logging.get_verbosity() == level


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "artifacts/train_policy/0123"])
def test_a_missing_folder_is_no_name_on_the_hub(path):
    with pytest.raises(ValueError, match=f"{path} does not exist"):
        check_folder(path)


def test_a_name_that_cannot_be_found_gets_one_line():
    check_folder("owner/model")  # may be on the hub
    with pytest.raises(ValueError, match=r"^owner/no-such-model has no tokenizer that loads: .*$") as caught:
        load_tokenizer("owner/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_padding_pads_with_its_end(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bare")
    config = json.loads((tmp_path / "bare" / "tokenizer_config.json").read_text())
    pad = config.pop("pad_token")
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(config))
    words = load_tokenizer(str(tmp_path / "bare"))
    assert pad == "<pad>" and words.pad_token_id == words.eos_token_id == ids("<eos>")[0]
    del config["eos_token"]
    (tmp_path / "bare" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"bare has no end-of-text token"):
        load_tokenizer(str(tmp_path / "bare"))
