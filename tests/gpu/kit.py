"""Gathers what a bare machine lacks: `python -m tests.gpu.kit` makes the folder gpu-kit (see README.md beside this).

Wheels of all that this project requires, at the versions installed here, but for what torch, transformers, accelerate
and peft bring themselves; and, where they are given, a model and problems as archives. Nothing is larger than a piece.
The files are in numbered folders, one a call; `manifest.json` in each lists all of them.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
HAS = ("torch", "transformers", "accelerate", "peft")
PIECE = 56 * 2**20  # bytes: under 60 MB
MANIFEST = "manifest.json"
# pip takes a wheel only for a platform that is named
_PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "linux_x86_64",
]


def required() -> list[str]:
    """The names of what setup.cfg requires."""
    from packaging.requirements import Requirement

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = map(str.strip, config["options"]["install_requires"].splitlines())
    return [Requirement(line).name for line in lines if line and not line.startswith("#")]


def with_needs(names: Iterable[str]) -> dict[str, str | None]:
    """These packages and all that they require, with the versions installed here (None: not installed)."""
    from packaging.requirements import Requirement

    found: dict[str, str | None] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
            continue
        # of Linux on the other Python
        place = {"extra": "", "python_version": "3.12", "sys_platform": "linux", "platform_system": "Linux"}
        needs = map(Requirement, requires(name) or ())
        waiting += [one.name for one in needs if one.marker is None or one.marker.evaluate(place)]
    return found


def missing(has: Iterable[str]) -> dict[str, str | None]:
    """What this project needs and a machine with `has` lacks."""
    there = with_needs(has)
    return {name: found for name, found in sorted(with_needs(required()).items()) if name not in there}


def fetch(name: str, release: str | None, folder: Path) -> str | None:
    """Download one wheel for Python 3.12 on Linux, or build a pure one; returns why that failed, in one line."""
    wanted = name if release is None else f"{name}=={release}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    target += [f"--platform={platform}" for platform in _PLATFORMS]
    fetched = _run([*pip, "download", "--no-deps", *target, "--dest", str(folder), wanted])
    if fetched is None:
        return None
    with TemporaryDirectory() as built:
        if _run([*pip, "wheel", "--no-deps", "--wheel-dir", built, wanted]) is None:
            (wheel,) = Path(built).glob("*.whl")
            if wheel.name.endswith("-none-any.whl"):
                shutil.move(wheel, folder / wheel.name)
                return None
            return f"{wheel.name} is compiled for this machine only"
    return fetched


def _run(command: Sequence[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return None if done.returncode == 0 else errors[-1] if errors else f"exit status {done.returncode}"


def pack(folder: Path, archive: Path) -> None:
    """A folder's files as one archive, without a folder around them; links become what they lead to."""
    with tarfile.open(archive, "w", dereference=True) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(folder).as_posix(), recursive=False)


def cut(file: Path, piece: int = PIECE) -> list[Path]:
    """A file in pieces NAME.000, NAME.001, … of at most `piece` bytes, which take its place; a small one as it is."""
    if file.stat().st_size <= piece:
        return [file]
    pieces = []
    with file.open("rb") as source:
        while part := source.read(piece):
            pieces.append(file.with_name(f"{file.name}.{len(pieces):03}"))
            pieces[-1].write_bytes(part)
    file.unlink()
    return pieces


def arrange(files: Sequence[Path], folder: Path, piece: int = PIECE) -> list[dict[str, Any]]:
    """Move files into `folder`/1, `folder`/2, … of at most `piece` bytes each; returns the manifest's entries."""
    loads: list[list[Path]] = []
    for file in sorted(files, key=lambda file: (-file.stat().st_size, file.name)):
        size = file.stat().st_size
        room = (load for load in loads if sum(one.stat().st_size for one in load) + size <= piece)
        if (load := next(room, None)) is None:
            loads.append(load := [])
        load.append(file)
    entries = []
    for number, load in enumerate(loads, 1):
        target = folder / str(number)
        target.mkdir(parents=True)
        for file in load:
            entry = {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file), "load": number}
            shutil.move(file, target / file.name)
            entries.append(entry)
    entries.sort(key=lambda entry: entry["name"])
    for place in (folder, *(folder / str(number) for number in range(1, len(loads) + 1))):
        (place / MANIFEST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return entries


def rejoin(folder: Path) -> list[Path]:
    """Check the carried files, put pieces together and unpack archives, in the folder that holds all of them.

    Raises:
        ValueError: a file of the manifest is missing, or is not what was gathered.
    """
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for entry in entries:
        file = folder / entry["name"]
        if not file.is_file():
            raise ValueError(f"{file} is missing: it is in load {entry['load']}")
        if _sha256(file) != entry["sha256"]:
            raise ValueError(f"{file} is not what was gathered: carry load {entry['load']} again")
    pieces = sorted(entry["name"] for entry in entries if re.search(r"\.\d{3}$", entry["name"]))
    wholes = dict.fromkeys(name[:-4] for name in pieces)
    for whole in wholes:
        with (folder / whole).open("wb") as out:
            for name in pieces:
                if name[:-4] == whole:
                    out.write((folder / name).read_bytes())
    made = [folder / whole for whole in wholes]
    for archive in sorted(folder.glob("*.tar")):
        target = folder / archive.stem
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        made.append(target)
    return made


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def gather(args: argparse.Namespace) -> int:
    """Make the folder anew; returns 1 where something could not be had."""
    folder, failed = Path(args.to), 0
    if folder.exists() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        print(f"{folder} holds something else than a kit: name another folder with --to", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with TemporaryDirectory(dir=folder) as staged:
        stage = Path(staged)
        wanted: dict[str, str | None] = missing([*HAS, *args.has])
        for one in args.also:
            name, _, release = one.partition("==")
            wanted[name] = release or None
        for name, release in wanted.items():
            if reason := fetch(name, release, stage):
                failed += 1
                print(f"not fetched: {name} {release or ''}: {reason}", file=sys.stderr, flush=True)
        for name, path in (("model", args.model), ("gsm8k", args.gsm8k)):
            if path:
                pack(Path(path), stage / f"{name}.tar")
        files = [piece for file in sorted(stage.iterdir()) for piece in cut(file)]
        entries = arrange(files, folder)
    loads = max((entry["load"] for entry in entries), default=0)
    size = sum(entry["bytes"] for entry in entries) / 1e6
    print(
        f"{folder}: {len(entries)} files, {size:.0f} MB, {loads} loads; {failed} of {len(wanted)} packages not fetched"
    )
    return int(failed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="gpu-kit", metavar="FOLDER")
    parser.add_argument("--model", metavar="FOLDER", help="a small policy to take along")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="train.jsonl and test.jsonl to take along")
    parser.add_argument("--has", nargs="*", default=[], metavar="NAME", help=f"what is there beside {', '.join(HAS)}")
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME[==VERSION]", help="more to take, such as trl")
    parser.add_argument(
        "--rejoin", metavar="FOLDER", help="on the other machine: check, join and unpack what was carried"
    )
    args = parser.parse_args(argv)
    if args.rejoin:
        try:
            for path in rejoin(Path(args.rejoin)):
                print(path)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    for option, path in (("--model", args.model), ("--gsm8k", args.gsm8k)):
        if path and not Path(path).is_dir():
            parser.error(f"{option} {path} is no folder")
    return gather(args)


if __name__ == "__main__":
    sys.exit(main())
