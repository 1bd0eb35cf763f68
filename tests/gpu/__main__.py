"""The first time a GPU is at hand: is all of it right there, and how fast? Ten minutes, most telling first.

make gpu
python -m tests.gpu --model MODEL --gsm8k FOLDER
python -m tests.gpu --dry --only attention,syncs        # in little, on a CPU
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.gpu.runner import Part, run_parts
from tests.gpu.setting import Setting

# most telling first; what one leaves of its time goes to the last, which takes all that is left
PARTS = (
    Part("machine", "tests.gpu.machine", 60),
    Part("attention", "tests.gpu.attention", 90),
    Part("speed", "tests.gpu.speed", 240),
    Part("syncs", "tests.gpu.syncs", 60),
    Part("ties", "tests.gpu.ties", 60),
    Part("decoding", "tests.gpu.decoding", 100),
    Part("resume", "tests.gpu.resume", 60),
    Part("glore", "tests.gpu.glore", 3600),
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--dry", action="store_true", help="all parts in little, on the CPU")
    parser.add_argument("--only", metavar="NAME,NAME", help=f"only these parts, of {', '.join(names)}")
    parser.add_argument("--model", help="a policy's folder for GLoRe and decoding; by default the shipped student")
    parser.add_argument("--gsm8k", metavar="FOLDER", help="GLoRe on GSM8K's problems, not the embedded world's")
    parser.add_argument("--out", default=os.environ.get("OUT") or "runs/gpu", help="by default $OUT, else runs/gpu")
    args = parser.parse_args(argv)
    wanted = args.only.split(",") if args.only else names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"--only {','.join(unknown)}: the parts are {', '.join(names)}")
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes:g} must be more than 0")
    for option, path in (("--model", args.model), ("--gsm8k", args.gsm8k)):
        if path and not Path(path).is_dir():
            parser.error(f"{option} {path} is no folder")
    args.only = wanted
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    found = {name: path and str(Path(path).resolve()) for name, path in (("model", args.model), ("gsm8k", args.gsm8k))}
    device = "cpu" if args.dry or not _has_gpu() else "cuda"
    if device == "cpu" and not args.dry:
        print("there is no GPU here that torch can use: --dry runs all parts in little on the CPU", file=sys.stderr)
        return 2
    out = str(Path(args.out).resolve())
    with TemporaryDirectory(prefix="gpu-") as scratch:
        setting = Setting(device, args.dry, 60 * args.minutes, out, scratch, found["model"], found["gsm8k"])
        rows = run_parts([part for part in PARTS if part.name in args.only], setting)
    print(Path(args.out, "report.md").read_text(encoding="utf-8"))
    return int(any(row.get("ok") is False for row in rows))


def _has_gpu() -> bool:
    """Asked in a process of its own, so that this one holds nothing of a GPU."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
