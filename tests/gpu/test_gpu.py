"""The GPU script in little on the CPU: each part gives its rows, sees a planted fault, and always reports."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as script
from tests.gpu.runner import Part, render, run_parts
from tests.gpu.setting import Row, Setting
from training.attention.attend import Attend


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    (tmp_path / "out").mkdir()
    return Setting("cpu", True, 600.0, str(tmp_path / "out"), str(tmp_path / "scratch"))


def rows_of(part: str, setting: Setting) -> dict[str, Row]:
    rows = list(import_module(f"tests.gpu.{part}").run(setting))
    json.dumps(rows)
    return {row["what"]: row for row in rows}


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("attention", "gemma3, grouped, window: shared, bfloat16, gradients"),
        ("speed", "padded: model FLOPs utilisation"),
        ("syncs", "shared: operations within a step that would wait"),
        ("ties", "bfloat16, head in float32: pairs of solutions that tie"),
        ("decoding", "8 rows: share of the bandwidth"),
        ("resume", "packed: stopped and resumed"),
        ("glore", "in little: right, reranked"),
    ],
)
def test_a_part_in_little(part: str, row: str, setting: Setting) -> None:
    rows = rows_of(part, setting)
    assert rows[row]["value"] is not None
    assert [one for one in rows.values() if one.get("ok") is False] == []
    if part != "ties":  # all of it runs on a CPU too
        assert any(one["note"].startswith("needs a GPU: ") for one in rows.values())
    if part == "glore":
        assert (Path(setting.folder) / "glore.md").read_text(encoding="utf-8").startswith("#")


def test_a_window_that_is_not_kept_is_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu import attention

    own = Attend.__call__
    monkeypatch.setattr(Attend, "__call__", lambda self, *given: own(dataclasses.replace(self, window=None), *given))
    known = attention.configs(True)
    monkeypatch.setattr(attention, "configs", lambda dry: {name: known[name] for name in list(known)[:1]})
    wrong = [name for name, row in rows_of("attention", setting).items() if row.get("ok") is False]
    assert any("packed, float32, logits" in name for name in wrong)


def test_a_read_within_a_step_is_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu import syncs
    from training import completions

    monkeypatch.setattr(syncs, "LAYOUTS", {"padded": False})
    own = completions.completion_loss

    def reading(model, batch):
        loss = own(model, batch)
        assert bool(loss > 0)  # this waits for the device
        return loss

    name = "padded: operations within a step that would wait"
    before = rows_of("syncs", setting)[name]["value"]
    monkeypatch.setattr(completions, "completion_loss", reading)
    after = rows_of("syncs", setting)[name]
    assert after["value"] > before and "tests/gpu/test_gpu.py" in after["note"]


def test_a_run_that_goes_on_from_other_weights_is_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.gpu import resume
    from training.distributed import Engine

    monkeypatch.setattr(resume, "LAYOUTS", {"packed": resume.LAYOUTS["packed"]})
    own = Engine.set_moments
    monkeypatch.setattr(Engine, "set_moments", lambda self, moments: own(self, {}))
    rows = rows_of("resume", setting)
    assert rows["packed: the same run twice"]["value"] == 0 and not rows["packed: stopped and resumed"]["ok"]


@pytest.mark.parametrize("real", [False, True])
def test_a_pass_with_more_problems_composes(real: bool, setting: Setting) -> None:
    from experiments.plan import read_words
    from tests.gpu.glore import words

    given = dataclasses.replace(setting, model="MODEL", problems="FOLDER") if real else setting
    args = read_words(["glore", *words(given, 5)])[1].args
    assert (args.problems.source, args.problems.path) == (("gsm8k", "FOLDER") if real else ("arithmetic", None))
    assert (args.train_problems, args.test_problems) == (30, 20)
    assert args.orm.train.max_steps == args.student.sft.train.max_steps == 15


FAKES = {
    "dies": "import os\ndef run(setting):\n    yield row('first', 1)\n    os.abort()\n",
    "hangs": "import threading\ndef run(setting):\n    yield row('first', 1)\n    threading.Event().wait()\n",
    "fails": "def run(setting):\n    yield row('first', 1)\n    raise ValueError('no luck\\nat all')\n",
    "missing": "import nothing_of_this_name\n",
    "works": "def run(setting):\n    yield row('a | b', 0.5, 'GiB', 0.25)\n",
}


def test_a_part_reports_whatever_happens_to_the_others(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FAKES.items():
        (tmp_path / f"fake_{name}.py").write_text("from tests.gpu.setting import row\n" + text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = [Part(name, f"fake_{name}", 15.0 if name == "hangs" else 120.0) for name in FAKES]
    rows = run_parts(parts, setting)
    ended = {row["part"]: row["status"] for row in rows if "status" in row}
    assert ended == {
        "dies": "died: SIGABRT",
        "hangs": "stopped: it took more than 15 s",
        "fails": "failed: ValueError: no luck",
        "missing": "failed: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        "works": "done",
    }
    assert [row["part"] for row in rows if row.get("what") == "first"] == ["dies", "hangs", "fails"]
    out = Path(setting.folder)
    assert [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()] == rows
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "report.md", "results.jsonl"]
    report = (out / "report.md").read_text()
    assert r"| works | a \| b | 0.5 GiB | 0.25 | **no** |" in report and report == render(rows)


def test_parts_for_which_no_time_is_left_say_so(setting: Setting) -> None:
    rows = run_parts([Part("late", "fake_late", 60.0)], dataclasses.replace(setting, seconds=0.0))
    assert [row["status"] for row in rows] == ["not started: 0 s were left"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert script.main(["--dry", "--only", "machine"]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| machine | done |" in report and "needs a GPU" in report and report in capsys.readouterr().out
    monkeypatch.setattr(script, "_has_gpu", lambda: False)
    assert script.main(["--only", "machine"]) == 2
    assert "there is no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--only", "speed,sped"], ["--minutes", "0"], ["--model", "nowhere"]])
def test_wrong_arguments_are_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        script.parse_arguments(words)
    assert raised.value.code == 2 and words[0] in capsys.readouterr().err


def test_the_script_itself_loads_no_torch() -> None:
    """It would hold memory of the GPU beside its parts."""
    import subprocess

    code = "import sys, tests.gpu.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
