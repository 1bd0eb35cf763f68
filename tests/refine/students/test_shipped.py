"""The student that comes with the package: found by name, checked by hash."""

import pytest

from refine.students import shipped
from refine.students.shipped import find_start
from stages.files import sha256, write_json


def test_any_other_start_is_a_folder():
    assert find_start("some/folder") == "some/folder"


def test_a_changed_student_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"hashes\.json"):
        find_start("shipped")
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "model").write_text("weights")
    write_json(tmp_path / "hashes.json", {"student": {"model": sha256(tmp_path / "student" / "model")}})
    assert find_start("shipped") == str(tmp_path / "student")
    (tmp_path / "student" / "model").write_text("weightz")
    with pytest.raises(ValueError, match=r"damaged: .*model is missing or has changed"):
        find_start("shipped")
    with pytest.raises(ValueError, match=r"damaged: .*planner/config.json is missing or has changed"):
        find_start("shipped/planner")  # there is no list of its files


def test_what_is_shipped_is_whole():
    weights = [shipped.FOLDER / folder / "model.safetensors" for folder in shipped.FOLDERS.values()]
    assert sum(file.stat().st_size for file in weights) < 8 * 2**20
    assert [find_start(name) for name in shipped.FOLDERS] == [str(file.parent) for file in weights]
