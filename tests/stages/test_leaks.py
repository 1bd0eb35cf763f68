"""What must not leave a machine is found in every kind of file, with its line, and what may is not taken for it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.leaks import make_finder
from stages.rows import write_rows

SECRET = 'p@ss/"word" 1'


@dataclass(frozen=True)
class Line:
    id: int
    texts: tuple[str, ...]


def found(folder: Path, file: Path | bytes, name: str = "a.txt", **environ: str) -> list[str]:
    return list(make_finder(folder, environ).search(name, file))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("token: hf_" + "aB3" * 12, "a token of Hugging Face"),
        ("sk-proj-" + "a1_B" * 10, "a key of an OpenAI-like server"),
        ("AKIA" + "ABCD1234" * 2, "a key of AWS"),
        ("ghp_" + "a1B2" * 9, "a token of GitHub"),
        ("wandb_v1_" + "a1B2" * 9, "a key of Weights & Biases"),
        ('"WANDB_API_KEY": "' + "0123456789" * 4 + '"', "a key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("Authorization: Bearer " + "abcDEF12" * 4, "a bearer token"),
        ("https://me:secret@host.org/x", "a password in an address"),
    ],
)
def test_keys_of_known_shapes(text: str, what: str, tmp_path: Path) -> None:
    assert found(tmp_path, f"one\ntwo {text} two\nthree".encode()) == [f"a.txt, line 2: holds what looks like {what}"]


@pytest.mark.parametrize(
    "written",
    [SECRET, json.dumps(SECRET), "p%40ss%2F%22word%22%201", "p@ss/&quot;word&quot; 1", "cEBzcy8id29yZCIgMQ=="],
)
def test_values_of_secret_variables_however_they_are_written(written: str, tmp_path: Path) -> None:
    said = found(tmp_path, f"\nx {written} x".encode(), MY_API_KEY=SECRET, HOME_DIR="two words")
    assert said == ["a.txt, line 2: holds the value of MY_API_KEY"] and SECRET not in said[0]
    assert found(tmp_path, f"\nx {written} x".encode(), MY_NAME=SECRET) == []
    assert found(tmp_path, b"short", SOME_TOKEN="short") == []  # a value that is found in any text


def test_rows_heads_and_packed_files(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [Line(0, ("a",)), Line(1, ("b", f"c {SECRET}"))])
    said = found(tmp_path, tmp_path / "rows.parquet", "rows.parquet", A_TOKEN=SECRET)
    assert said == ["rows.parquet, row 1: holds the value of A_TOKEN"]
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors", {"from": "/home/me/models/x"})
    (said,) = found(tmp_path, tmp_path / "m.safetensors", "m.safetensors")
    assert said == "m.safetensors, its head: holds an absolute path: '/home/me/models/x'"
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid {SECRET}\n")
    assert found(tmp_path, pointer, pointer.name, A_TOKEN=SECRET) == [
        "pointer.safetensors, line 2: holds the value of A_TOKEN"
    ]
    (tmp_path / "x.gz").write_bytes(gzip.compress(SECRET.encode()))
    assert found(tmp_path, tmp_path / "x.gz", "x.gz") == ["x.gz: is packed, and cannot be searched for secrets"]


def test_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "artifacts" / "sample" / "ab"
    folder.mkdir(parents=True)
    for text in (
        f'{{"path": "{folder}"}}',
        f"file://{folder}/rows.parquet",
        f"made in {tmp_path}/x.",
        "model=/home/alice/models/llama",
        f"{Path.home()}/.netrc",
    ):
        (said,) = found(folder, f"one\n{text}\n".encode())
        assert said.startswith("a.txt, line 2: holds an absolute path: '/")


@pytest.mark.parametrize(
    "text",
    [
        "5 apples/day and 3 km/h, and/or 1/2; <<12/4=3>>3 /day",
        "https://host.org/home/me/x and http://127.0.0.1:80/tmp/x",
        "artifacts/sample/KEY ../home/me ./tmp/x ~/x",
        "/usr/bin/env python, /dev/null, /etc/passwd, /tmp, /home/",  # every machine has these
        "the risk-assessment-of-this-task-list, 0123456789012345678901234567890123456789",
        'wandb": "0.31.0"}, "code": {"commit": "0123456789012345678901234567890123456789"',
        "a tokenizer's token, a key to success, the bearer of good news",
    ],
)
def test_what_is_neither(text: str, tmp_path: Path) -> None:
    assert found(tmp_path, text.encode(), TOKENIZERS_PARALLELISM="false") == []
