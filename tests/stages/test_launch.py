"""Several processes for one stage: how they are started, and that they are as many as asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.launch import LAUNCHED, LaunchArgs, launch_command, must_launch
from stages.processes import ProcessError, Processes

ROOT = Path(__file__).parents[2]
TINY = "model={hidden_size: 32, layers: 1, heads: 2, feed_forward: 64}"
IN_LITTLE = ["problems.limit=40", "train.tokens_per_step=512", "train.tokens_per_batch=256", TINY]


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="num_processes must be at least 1, not 0"):
        LaunchArgs(num_processes=0).validate()
    with pytest.raises(ValueError, match=r"config_file=nowhere.yaml: there is no such file, and it is none of .*fsdp2"):
        LaunchArgs(config_file="nowhere.yaml").validate()
    LaunchArgs(config_file="fsdp2").validate()


def test_the_command_line_of_a_launch(tmp_path):
    module = launch_command(LaunchArgs(num_processes=3), [sys.executable, "-m", "experiments.sample"])
    assert module[:3] == [sys.executable, "-m", "stages.launch"]
    assert module[-4:] == ["--num_processes", "3", "-m", "experiments.sample"] and "--multi_gpu" in module
    (tmp_path / "own.yaml").touch()
    for name, path in [(f"{tmp_path}/own.yaml", f"{tmp_path}/own.yaml"), ("cpu", f"{ROOT}/conf/accelerate/cpu.yaml")]:
        script = launch_command(LaunchArgs(num_processes=2, config_file=name), [sys.executable, "work.py"])
        assert script[3:] == ["--config_file", path, "--num_processes", "2", "work.py"]


def test_config_files_are_those_of_accelerate():
    """It takes every key of every one, and they do not say in what precision: train.dtype does."""
    from accelerate.commands.config.config_args import load_config_from_file

    paths = sorted((ROOT / "conf" / "accelerate").glob("*.yaml"))
    found = {path.stem: load_config_from_file(str(path)) for path in paths}
    assert set(found) == {"cpu", "fsdp2", "gpus", "nodes", "one_gpu"}
    assert all(config.mixed_precision == "no" for config in found.values())
    assert found["fsdp2"].fsdp_config["fsdp_version"] == 2 and found["nodes"].num_machines == 2


def test_fewer_processes_than_asked_for_is_an_error(monkeypatch):
    monkeypatch.delenv(LAUNCHED, raising=False)
    assert must_launch(LaunchArgs(num_processes=2), Processes()) and not must_launch(LaunchArgs(), Processes())
    assert must_launch(LaunchArgs(config_file="one_gpu"), Processes())
    with pytest.raises(ProcessError, match="num_processes=1, but 2 processes were started"):
        must_launch(LaunchArgs(), Processes(1, 2))
    monkeypatch.setenv(LAUNCHED, "2")
    assert not must_launch(LaunchArgs(num_processes=2), Processes(1, 2))
    with pytest.raises(ProcessError, match="num_processes=2, but 1 processes were started"):
        must_launch(LaunchArgs(num_processes=2), Processes())


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.train_policy", *IN_LITTLE, *overrides]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_two_processes_train_what_one_does(tmp_path):
    from safetensors.torch import load_file

    weights = {}
    launches = {"one": ["launch.num_processes=1"], "two": ["launch.num_processes=2"]}
    launches["shared"] = ["launch.num_processes=2", "launch.config_file=fsdp2"]
    for name, launch in launches.items():
        done = run(tmp_path, *launch, f"run.name={name}", f"run.artifacts={name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("(made in ") == 1
        (file,) = tmp_path.glob(f"{name}/train_policy/*/model.safetensors")
        weights[name] = load_file(file)
        assert len([path for path in (tmp_path / name / "train_policy").iterdir() if path.is_dir()]) == 1
    for name in ("two", "shared"):
        assert weights[name].keys() == weights["one"].keys()
        assert max((weights["one"][key] - weights[name][key]).abs().max() for key in weights["one"]) < 1e-5


def test_a_mistake_keeps_its_exit_code_through_a_launch(tmp_path):
    done = run(tmp_path, "launch.num_processes=2", "train.learning_rate=1e30")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "error: the loss or gradient of step" in done.stderr
