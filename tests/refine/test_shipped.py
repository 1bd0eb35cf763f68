"""The checkpoints that come with the package: found by name, checked by hash."""

import pytest

from refine import shipped
from refine.shipped import CHECKPOINTS, find_start
from rollouts.stages import sha256
from rollouts.store import write_json


def test_any_other_start_is_a_folder():
    assert find_start("some/folder") == "some/folder"


def test_a_changed_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model").write_text("weights")
    write_json(tmp_path / "hashes.json", {"student": {"model": sha256(tmp_path / "student" / "model")}})
    assert find_start("shipped") == str(tmp_path / "student")
    (tmp_path / "student" / "model").write_text("weightz")
    with pytest.raises(ValueError, match=r"damaged: .*model is missing or has changed"):
        find_start("shipped")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_is_shipped_is_whole(name):
    assert (shipped.FOLDER / CHECKPOINTS[name] / "model.safetensors").stat().st_size < 8 * 2**20
    assert find_start(name).endswith(CHECKPOINTS[name])
