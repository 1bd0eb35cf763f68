"""`python -m experiments.push`: what goes to the hub, what is refused, and that it comes back as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from experiments.push import run, without_paths
from refine.train_policy import TRAIN_POLICY, TrainPolicyArgs
from rewards.scorer import load_scorer
from rollouts.card import QUESTION, STEPS
from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem, Rollout
from rollouts.sampling.sample import SAMPLE, SampleArgs
from stages import hub as hub_names
from stages.artifacts import CARD, Artifact, open_artifact
from stages.make import make
from stages.rows import write_rows
from tests.cards import head
from tests.fake_hub import COMMIT, FakeHub, fake_hub
from tests.hub_cache import put, use_cache
from tests.tiny import problem, save_policy, save_reward

TOKEN = "hf_" + "Tok3n" * 6


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(TOKEN) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is another's
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("push").absolute()
    args = SampleArgs(policy=save_policy(root / "policy"), problems=ProblemArgs(limit=3))
    args.sampler.device, args.sampler.max_tokens = "cpu", 8
    return make(SAMPLE, args, root)[0]


def pulled(hub: FakeHub, name: str, folder: Path) -> Path:
    """What a download of a repository leaves in a folder."""
    for path, data in hub.repositories[name].files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_rows_come_back_as_an_artifact(sampled, hub, tmp_path, capsys) -> None:
    assert run([str(sampled.path), "hub:org/rollouts"]) == 0
    out = capsys.readouterr().out
    assert f"uploaded: hub:org/rollouts@{COMMIT}" in out and TOKEN not in out
    repository = hub.repositories["datasets/org/rollouts"]
    assert repository.private and repository.files[CARD] == (sampled.path / CARD).read_bytes()
    back = open_artifact(pulled(hub, "datasets/org/rollouts", tmp_path / "back"))
    assert back.rows(Rollout) == sampled.rows(Rollout) and back.key == sampled.key
    assert back.manifest["files"] == sampled.manifest["files"]
    # the policy stood at an absolute path, which says where somebody's files are
    assert back.manifest["parents"]["policy"]["path"] == back.manifest["args"]["policy"] == "policy"
    assert str(sampled.path.parents[1]).encode() not in b"".join(repository.files.values())


def test_a_reward_model_scores_the_same_from_the_hub(hub, tmp_path, monkeypatch) -> None:
    folder = Path(save_reward(tmp_path / "reward", "sorm"))
    shutil.rmtree(folder / "body")
    assert run([str(folder), "hub:org/judge", "--public"]) == 0
    assert not hub.repositories["models/org/judge"].private
    cache = use_cache(tmp_path / "cache", monkeypatch)
    put(cache, "org/judge", pulled(hub, "models/org/judge", tmp_path / "back"), COMMIT)
    there, here = (
        load_scorer(path, device="cpu") for path in (hub_names.local_path(f"hub:org/judge@{COMMIT}"), folder)
    )
    assert there.score([problem(question=QUESTION)], [STEPS]) == here.score([problem(question=QUESTION)], [STEPS])


def test_a_dry_run_lists_what_would_go_and_asks_nobody(sampled, hub, capsys) -> None:
    assert run([str(sampled.path), "hub:org/rollouts", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for name in ("rows.parquet", "problems.parquet", "manifest.json", "README.md"):
        assert f"  {name}  " in out
    assert "(dataset): 4 files" in out and "nothing was uploaded" in out and hub.requests == []


def copy_of(sampled: Artifact, folder: Path) -> Path:
    return Path(shutil.copytree(sampled.path, folder / "copy"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hf_" + "C4nary" * 6, "holds what looks like a token of Hugging Face"),
        ("c4nary, of words", "holds the value of CANARY_PASSWORD"),
        ("/home/alice/data", "holds an absolute path: '/home/alice/data'"),
        (TOKEN, "holds the value of HF_TOKEN"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_folder_with_a_secret_or_a_path_is_refused(text, told, dry, sampled, hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CANARY_PASSWORD", "c4nary, of words")
    folder = copy_of(sampled, tmp_path)
    (folder / CARD).write_text(f"# Mine\n\nThis is {text}.\n")
    assert run([str(folder), "hub:org/rollouts", *dry]) == 2
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"error: {folder}: README.md, line 3: holds ") for line in said)
    assert any(told in line for line in said)
    assert hub.requests == [] and "canary, of" not in "".join(said).lower() and TOKEN not in "".join(said)


def test_a_path_in_a_row_is_named_with_its_row(sampled, hub, tmp_path, capsys) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write_rows(
        folder / "rows.parquet",
        [Problem("a", "Q?", "1", None, "x", "train"), Problem("b", "in /root/x", "1", None, "x", "train")],
    )
    (folder / "notes.md").write_text("from " + str(tmp_path))
    assert run([str(folder), "hub:org/rows"]) == 2
    said = capsys.readouterr().err
    assert "notes.md, line 1: holds an absolute path" in said and "rows.parquet, row 1: holds an absolute path" in said
    assert hub.repositories == {}


def test_an_old_artifact_gets_a_card_and_stays_as_it_is(sampled, hub, tmp_path) -> None:
    folder = copy_of(sampled, tmp_path)
    (folder / CARD).unlink()
    assert run([str(folder), "hub:org/old"]) == 0
    assert not (folder / CARD).exists()
    assert head(pulled(hub, "datasets/org/old", tmp_path / "back"))["configs"][0]["config_name"] == "rows"


def test_what_the_repository_has_besides_stays_unless_it_is_to_go(sampled, hub, tmp_path, capsys) -> None:
    assert run([str(sampled.path), "hub:org/rollouts"]) == 0
    files = hub.repositories["datasets/org/rollouts"].files
    files["LICENSE"] = b"mine"
    assert run([str(sampled.path), "hub:org/rollouts"]) == 2
    assert "holds LICENSE (1 files), which --delete would remove" in capsys.readouterr().err and "LICENSE" in files
    assert run([str(sampled.path), "hub:org/rollouts", "--delete"]) == 0
    assert "LICENSE" not in files and ".gitattributes" in files


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("org/name", "'org/name' is no hub id"),
        ("hub:name", "'hub:name' names no repository to upload to"),
        (f"hub:org/name@{COMMIT}", "names no repository to upload to: hub:org/name does, without a commit"),
    ],
)
def test_names_that_are_none(name: str, told: str, sampled, hub, capsys) -> None:
    assert run([str(sampled.path), name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and told in said and said.count("\n") == 1


def test_errors_are_one_line(sampled, hub, tmp_path, capsys, monkeypatch) -> None:
    def told(*argv: str) -> str:
        assert run([*argv]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    assert "there is no such folder" in told(str(tmp_path / "none"), "hub:org/name")
    (tmp_path / "empty").mkdir()
    assert "no artifact, no model (config.json) and no rows" in told(str(tmp_path / "empty"), "hub:org/name")
    damaged = copy_of(sampled, tmp_path)
    (damaged / "rows.parquet").write_bytes((damaged / "rows.parquet").read_bytes()[::-1])
    assert "rows.parquet: changed" in told(str(damaged), "hub:org/name")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Wr0ng" * 6)
    assert "cannot be uploaded to: " in told(str(sampled.path), "hub:org/name") and "401" not in hub.repositories
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline mode is enabled" in told(str(sampled.path), "hub:org/name")


def test_paths_of_parents_become_names(tmp_path: Path) -> None:
    manifest = {
        "args": {"policy": "/a/models/llama", "stages": ["/a/sample/12", "artifacts/x"], "n": 3, "note": "/b"},
        "parents": {
            "policy": {"stage": None, "key": "sha256:1", "path": "/a/models/llama"},
            "stages": [{"stage": "sample", "key": "12", "path": "/a/sample/12"}],
            "start": {"stage": None, "key": "hub:org/m@1", "path": "/cache/m"},
            "none": None,
        },
    }
    found = without_paths(manifest)
    assert found["args"] == {"policy": "llama", "stages": ["sample/12", "artifacts/x"], "n": 3, "note": "/b"}
    assert [found["parents"][name]["path"] for name in ("policy", "start")] == ["llama", "hub:org/m@1"]
    assert found["parents"]["stages"][0]["path"] == "sample/12"


def test_a_trained_policy_goes_as_a_model(hub, tmp_path, capsys) -> None:
    args = TrainPolicyArgs()
    args.problems.limit, args.model.hidden_size, args.model.layers = 8, 32, 1
    args.train.device, args.train.max_steps = "cpu", 1
    made, _ = make(TRAIN_POLICY, args, tmp_path)
    assert run([str(made.path), "hub:org/student"]) == 0
    assert {"config.json", "model.safetensors", CARD} <= hub.repositories["models/org/student"].files.keys()
