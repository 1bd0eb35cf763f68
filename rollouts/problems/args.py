"""Which problems to load, of which source and split.

Left out: the sources themselves (one file each) and their order and number (`rollouts/problems/load.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rollouts.world.args import SOURCE as WORLD
from rollouts.world.args import WorldArgs
from stages.bad_rows import BAD_ROWS
from stages.checks import check_choices, check_least, check_range
from stages.stage import only_when, parent

SPLITS = ("train", "validation", "test")
FILES = ("gsm8k", "svamp", "asdiv", "math", "commonsenseqa", "jsonl")
ARTIFACT = "artifact"  # the problems of an artifact of ours
SOURCES = (WORLD, *FILES, ARTIFACT)  # `load.LOADERS` has what loads each
ON_HUB = {  # the path where none is given
    "gsm8k": "hub:openai/gsm8k",
    "math": "hub:EleutherAI/hendrycks_math",
    "commonsenseqa": "hub:tau/commonsense_qa",
}


@dataclass
class FieldArgs:
    """What the fields of a file of source jsonl are called; `solution` and `id` may be missing in it."""

    question: str = "question"
    answer: str = "answer"
    solution: str = "solution"
    id: str = "id"


@dataclass
class ProblemArgs:
    """Which problems to load; `load_problems` reads it.

    `path` is a file or folder, or a data set of the Hugging Face hub (`hub:org/name@commit`), whose folder is read;
    where none is given, a source that the hub has (ON_HUB) is read from there.
    Sources with a train and a test file hold out `validation_share` of the train file; sources with one file are cut
    by `split_shares`, the shares of train, validation and test. Both cuts are by a hash of the question, so they never
    depend on the order of the rows, on a seed, or on other rows. Problems come in file order, or shuffled by
    `shuffle_seed`; then `offset` problems are left out and at most `limit` are kept. A row that cannot be used is an
    error, or with `bad_rows` skip left out, counted and named.
    """

    source: str = WORLD
    split: str = "train"  #: train, validation or test
    path: str | None = parent(any_path=True, hub="dataset", default=None)  #: the source's file or folder
    limit: int | None = None  #: at most so many problems
    offset: int = 0  #: so many of the first are left out
    shuffle_seed: int | None = None
    validation_share: float = only_when(0.1, "source", "gsm8k", "math", "commonsenseqa")
    split_shares: list[float] = only_when([0.7, 0.1, 0.2], "source", "svamp", "asdiv", "math", "jsonl")
    bad_rows: str = only_when("error", "source", *FILES)  #: error or skip
    fields: FieldArgs = only_when(field(default_factory=FieldArgs), "source", "jsonl")  #: their names in the file
    world: WorldArgs = only_when(field(default_factory=WorldArgs), "source", WORLD)

    def __post_init__(self) -> None:
        if self.path is None:
            self.path = ON_HUB.get(self.source)

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense, and its value."""
        check_choices(self, "problems.", source=SOURCES, split=SPLITS, bad_rows=BAD_ROWS)
        check_least(self, "problems.", limit=1, offset=0)
        check_range(self, "problems.", validation_share="[0, 1)")
        if self.source == WORLD and self.path is not None:
            raise ValueError(f"problems.path={self.path!r}: source arithmetic makes its problems and reads no file")
        if self.source != WORLD and not self.path:
            where = (
                "an artifact's folder" if self.source == ARTIFACT else "a file or folder, or hub:org/name of a data set"
            )
            raise ValueError(f"problems.path={self.path or 'null'}: source {self.source} needs a path: {where}")
        if self.source != "jsonl" and self.fields != FieldArgs():
            raise ValueError(f"problems.fields are read by source jsonl only, not by {self.source}")
        shares = list(self.split_shares)
        if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"problems.split_shares must be three shares that sum to 1, not {shares}")
        self.world.validate()
