"""Which split a question belongs to: by a hash of its text, so that rows, seeds and order never change it."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import unicodedata
from collections.abc import Iterable

from rollouts.problems.args import ProblemArgs
from rollouts.records import Problem

logger = logging.getLogger(__name__)

_SIGNS = str.maketrans("−–×·÷", "--**/")  # of one meaning


def question_key(question: str) -> str:
    """What two questions have in common that are the same but for case, punctuation and spacing."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", question).casefold())
    return " ".join(words) or question.strip()


def asked_key(question: str) -> str:
    """As `question_key`, but `3 + 5` is not `3 * 5`: for whoever takes questions of one key for one problem, with one
    answer. Splits, and what is refused as a copy, go by the words alone."""
    text = unicodedata.normalize("NFKC", question).casefold().translate(_SIGNS)
    return " ".join(re.findall(r"\w+|[+*/^=<>%]|(?<![a-z])-|-(?![a-z])", text)) or question.strip()


def split_point(question: str) -> float:
    """Where a question stands in [0, 1): a hash of its key, evenly spread."""
    digest = hashlib.sha256(question_key(question).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 6 bytes: exact in a float, so never rounded up to 1


def hold_out(problems: list[Problem], args: ProblemArgs, test_questions: set[str]) -> list[Problem]:
    """The problems of a train file that belong to `args.split`, train or validation.

    Questions that the test file has too (given by their keys) belong to neither.
    """
    clean = [problem for problem in problems if question_key(problem.question) not in test_questions]
    if len(clean) < len(problems):
        logger.warning(
            "%s: %d of %d questions of the train file are left out, the test file has them too",
            args.source,
            len(problems) - len(clean),
            len(problems),
        )
    held = args.split == "validation"
    return [p for p in clean if (split_point(p.question) < args.validation_share) == held]


def cut(problems: list[Problem], args: ProblemArgs) -> list[Problem]:
    """The problems of a single file that belong to `args.split`, by `args.split_shares`."""
    train, validation, test = args.split_shares
    total = train + validation + test
    low = {"train": 0.0, "validation": train / total, "test": (train + validation) / total}[args.split]
    high = {"train": train / total, "validation": (train + validation) / total, "test": 1.0}[args.split]
    return [problem for problem in problems if low <= split_point(problem.question) < high]


def draw_held_out(names: Iterable[str], share: float, seed: int) -> set[str]:
    """The names to hold out for validation: a share of them at random, at least one and never all; none of a single."""
    unique = sorted(set(names))
    random.Random(f"validation/{seed}").shuffle(unique)
    return set(unique[: min(len(unique) - 1, max(1, round(share * len(unique))))])
