"""A stage whose code changed has another version, or somebody has said that its results stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.stage import Stage
from tests.stages import bless

HOW = "python -m tests.stages.bless"


@pytest.mark.parametrize("stage", bless.all_stages(), ids=lambda stage: stage.name)
def test_code_that_changed_has_another_version(stage: Stage) -> None:
    recorded, now = json.loads(bless.FILE.read_text()), bless.current()
    before, after = recorded["stages"].get(stage.name), now["stages"][stage.name]
    assert before is not None, f"stage {stage.name} is new; record it: {HOW}"
    assert before["version"] == after["version"], f"stage {stage.name} has a new version; record it: {HOW}"
    assert before["code"] == after["code"], (
        f"the code of stage {stage.name} changed in {', '.join(bless.changes(recorded, now, stage)) or 'its imports'}, "
        f"its version {stage.version} did not. If the same arguments can now give other results, raise the version in "
        f"{stage.run.__module__}; then, or if they cannot, record it: {HOW}"
    )


def test_what_a_stage_runs() -> None:
    """Imports in functions and backends that are named in a table count; what only runs and keeps work does not."""
    files = bless.closure("rollouts.sampling.sample")
    assert {"rollouts/sampling/sample.py", "rollouts/grading/symbolic.py", "stages/rows.py"} <= set(files)
    assert "rollouts/backends/hf/decoding.py" in files and "rollouts/world/generator.py" in files
    assert not {"stages/journal.py", "stages/progress.py", "stages/make.py"} & set(files)
    assert not any(file.startswith(("training/", "rewards/", "refine/", "experiments/")) for file in files)
    assert "training/loop.py" in bless.closure("rewards.train")  # imported where it is used


def test_only_what_the_code_does_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bless, "ROOT", tmp_path)

    def hashed(text: str) -> str:
        bless.parse.cache_clear()
        (tmp_path / "a.py").write_text(text)
        return bless.code_hash("a.py")

    base = hashed('"""Old."""\nif TYPE_CHECKING:\n    import x\ndef f(a):\n    """Old."""\n    return a + 1  # why\n')
    assert hashed("def f(\n    a\n):\n    return (a +\n        1)\n") == base
    assert hashed("def f(a):\n    return a + 2\n") != base
    assert hashed("def f(a):\n    return a + 1.0\n") != base
    bless.parse.cache_clear()


def test_a_change_without_a_new_version_fails_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sample,) = (stage for stage in bless.all_stages() if stage.name == "sample")
    recorded = bless.current()
    recorded["files"]["rollouts/grading/answers.py"] = recorded["stages"]["sample"]["code"] = "another"
    monkeypatch.setattr(bless, "FILE", tmp_path / "hashes.json")
    bless.FILE.write_text(json.dumps(recorded))
    with pytest.raises(AssertionError, match=rf"changed in rollouts/grading/answers.py, its version .* {HOW}"):
        test_code_that_changed_has_another_version(sample)
