"""Several processes for one stage: how they are started, that they are as many as asked for, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.launch import LAUNCHED, LaunchArgs, child, launch_command, must_launch
from stages.processes import ProcessError, Processes
from tests.faults.killing import alive, wait_until

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
    assert module[:3] == [sys.executable, "-m", "stages.launcher"]
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


def test_a_child_that_is_left_is_ended_with_its_own_children():
    program = (
        "import subprocess, sys\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=subprocess.PIPE)\n"
        "print(other.pid, flush=True)\n"
        "other.wait()\n"
    )
    with (
        pytest.raises(KeyboardInterrupt),
        child([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process,
    ):
        other = int(process.stdout.readline())
        assert alive(other)
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not alive(other), "the child's child lives on", 60)
    process.stdout.close()


def test_what_was_started_ends_when_who_started_it_is_killed():
    """Also with a launcher between the two."""
    last = (
        "import signal\n"
        "from stages.launch import end_with_parent\n"
        "end_with_parent()\n"
        "print('there', flush=True)\n"
        "while True: signal.pause()\n"
    )
    between = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {last!r}])"
    first = (
        "import subprocess, sys\n"
        "from stages.launch import child_environment\n"
        f"other = subprocess.Popen([sys.executable, '-c', {between!r}], env=child_environment())\n"
        "other.wait()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", first], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    process.kill()
    process.wait()
    # the last of them held this open
    assert process.stdout.read() == ""
    process.stdout.close()


def test_told_to_end_amid_work_that_is_no_python_it_ends():
    """A process that waits for one that has died would not hear of it."""
    program = (
        "import hashlib, stages.launch as launch\n"
        "launch.GRACE = 0.1\n"
        "launch.end_with_parent()\n"
        "print('there', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # a quarter of an hour
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), LAUNCHED: "2"}
    handled = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    options = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", handled + program], **options) as process:
        assert process.stdout.readline() == "there\n"
        process.terminate()
        assert process.wait(60) == 143


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
