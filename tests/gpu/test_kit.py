"""The kit: what is missing, pieces that become whole again, loads that fit a call, and failures by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.gpu import kit


def test_what_a_bare_machine_lacks() -> None:
    lacks = kit.missing(kit.HAS)
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "math-verify", "datasets"} <= lacks.keys()
    # those four bring these
    assert not {"torch", "numpy", "sympy", "tokenizers", "safetensors", "pyyaml"} & lacks.keys()
    assert all(lacks[name] for name in ("hydra-core", "omegaconf"))
    assert "pyarrow" in lacks and "pyarrow" not in kit.missing([*kit.HAS, "pyarrow"])


def folders(path: Path) -> tuple[Path, Path]:
    """A model with a file larger than a piece, and problems."""
    model, gsm8k = path / "model", path / "gsm8k"
    (model / "sub").mkdir(parents=True)
    gsm8k.mkdir()
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    (model / "sub" / "config.json").write_text("{}")
    (model / "link.json").symlink_to(model / "sub" / "config.json")
    (gsm8k / "train.jsonl").write_text("{}\n")
    return model, gsm8k


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pieces of 60 kB, and two packages, of which one cannot be had."""
    monkeypatch.setattr(kit, "missing", lambda has: {"good": "1.0", "bad": "2.0"})
    for function in (kit.cut, kit.arrange):
        defaults = tuple(60_000 if value == kit.PIECE else value for value in function.__defaults__)
        monkeypatch.setattr(function, "__defaults__", defaults)

    def run(command: list[str]) -> str | None:
        if command[-1] == "bad==2.0":
            return "ERROR: No matching distribution found for bad==2.0"
        Path(command[command.index("--dest") + 1], "good-1.0-py3-none-any.whl").write_bytes(b"wheel")
        return None

    monkeypatch.setattr(kit, "_run", run)
    return []


@pytest.mark.usefixtures("small")
def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, gsm8k = folders(tmp_path)
    made, carried = tmp_path / "kit", tmp_path / "carried"
    words = ["--to", str(made), "--model", str(model), "--gsm8k", str(gsm8k)]
    assert kit.main(words) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == ["not fetched: bad 2.0: ERROR: No matching distribution found for bad==2.0"]
    loads = sorted(path for path in made.iterdir() if path.is_dir())
    assert len(loads) >= 5 and not any(path.name.startswith("tmp") for path in loads)
    carried.mkdir()
    for load in loads:  # as each call would
        files = list(load.iterdir())
        assert sum(file.stat().st_size for file in files if file.name != kit.MANIFEST) <= 60_000
        for file in files:
            (carried / file.name).write_bytes(file.read_bytes())
    entries = json.loads((carried / kit.MANIFEST).read_text())
    assert {"good-1.0-py3-none-any.whl", "model.tar.000", "model.tar.004", "gsm8k.tar"} <= {e["name"] for e in entries}
    assert kit.main(["--rejoin", str(carried)]) == 0
    there = {path.relative_to(model): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    back = carried / "model"
    assert there == {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()}
    assert (carried / "gsm8k" / "train.jsonl").read_text() == "{}\n"
    # made anew in the same place, but never in a folder of something else
    assert kit.main(words) == 1 and kit.main(["--to", str(model)]) == 2 and (model / "model.safetensors").is_file()


@pytest.mark.usefixtures("small")
def test_what_was_lost_or_changed_on_the_way_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = folders(tmp_path)
    made = tmp_path / "kit"
    kit.main(["--to", str(made), "--model", str(model)])
    carried = tmp_path / "carried"
    carried.mkdir()
    for file in made.glob("*/*"):
        (carried / file.name).write_bytes(file.read_bytes())
    (carried / "model.tar.001").write_bytes(b"other")
    capsys.readouterr()
    assert kit.main(["--rejoin", str(carried)]) == 2
    assert "model.tar.001 is not what was gathered: carry load" in capsys.readouterr().err
    (carried / "model.tar.001").unlink()
    assert kit.main(["--rejoin", str(carried)]) == 2
    assert "model.tar.001 is missing: it is in load" in capsys.readouterr().err
