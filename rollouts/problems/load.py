"""Problems, from whichever source: `load_problems` picks the source, the order and the number."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from rollouts.problems import artifact, asdiv, commonsenseqa, gsm8k, jsonl, svamp
from rollouts.problems import math_dataset as math
from rollouts.problems.args import ARTIFACT, SPLITS, ProblemArgs
from rollouts.problems.reading import ProblemFileError
from rollouts.records import Problem
from rollouts.world import generator as arithmetic
from rollouts.world.args import SOURCE as WORLD
from stages.bad_rows import BadRows
from stages.hub import HubError, local_path

logger = logging.getLogger(__name__)

# each gives all problems of `args.split`
LOADERS: dict[str, Callable[[ProblemArgs, BadRows], list[Problem]]] = {
    WORLD: lambda args, bad: arithmetic.load(args),
    "gsm8k": gsm8k.load,
    "svamp": svamp.load,
    "asdiv": asdiv.load,
    "math": math.load,
    "commonsenseqa": commonsenseqa.load,
    "jsonl": jsonl.load,
    ARTIFACT: artifact.load,
}


def load_untrained(args: ProblemArgs) -> list[Problem]:
    """All problems of the source that nobody may be trained on: those of every split but train.

    Raises:
        ProblemFileError: a file is missing or malformed.
        ValueError: the source is an artifact, which does not know the problems that it does not have.
    """
    if args.source == ARTIFACT:
        raise ValueError(
            f"problems.source={ARTIFACT}: {args.path} does not know the test problems: name their own source"
        )
    path = args.path and local_path(args.path, "dataset")
    found = []
    for split in SPLITS:
        if split != "train":
            found += LOADERS[args.source](replace(args, path=path, split=split), BadRows(args.bad_rows))
    if not found:
        logger.warning(
            "problems.source=%s path=%s: no test problem is known, so no copy of one", args.source, args.path
        )
    return found


def load_problems(args: ProblemArgs, bad: BadRows | None = None) -> list[Problem]:
    """Load the problems of one split of one source, each with an id of its own.

    `bad`, made with `args.bad_rows`, has afterwards which rows were left out.

    Raises:
        ValueError: a setting makes no sense (see `ProblemArgs.validate`).
        ProblemFileError: a file is missing or malformed, a row cannot be used, or no problems are left.
    """
    args.validate()
    bad = bad or BadRows(args.bad_rows)
    try:
        path = args.path and local_path(args.path, "dataset")
    except HubError as error:
        raise ProblemFileError(f"problems.path: {error}") from error
    problems = LOADERS[args.source](replace(args, path=path), bad)
    if bad.count:
        logger.warning("%s: %d rows that cannot be used are left out, the first: %s", path, bad.count, bad.named[0])
    where = f"problems.source={args.source}" + (f" path={args.path}" if args.path else "")
    if not problems:
        raise ProblemFileError(
            f"{where}: split {args.split!r} is empty "
            f"(validation_share={args.validation_share}, split_shares={list(args.split_shares)}, bad rows: {bad.count})"
        )
    if args.shuffle_seed is not None:
        # sorted by a hash, the order of two problems never depends on which others there are
        problems = sorted(problems, key=lambda p: hashlib.sha256(f"{args.shuffle_seed}/{p.id}".encode()).digest())
    end = None if args.limit is None else args.offset + args.limit
    chosen = problems[args.offset : end]
    if not chosen:
        raise ProblemFileError(f"{where}: offset {args.offset} leaves none of {len(problems)} {args.split} problems")
    logger.info("%s: %d of %d %s problems", where, len(chosen), len(problems), args.split)
    return chosen
