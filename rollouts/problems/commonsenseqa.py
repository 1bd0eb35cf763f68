"""CommonsenseQA: questions with five choices, A to E; the answer is a choice, as `(B) bank`, and no number.

    {"id": "1a", "question": "Where is money kept?", "choices": {"label": ["A", "B"], "text": ["sea", "bank"]},
     "answerKey": "B"}
has the question "Where is money kept?\\nAnswer choices: (A) sea (B) bank" and the answer `(B) bank`, which
`rollouts/grading/choices.py` compares; no solution. Read as the hub's tau/commonsense_qa is laid out
(data/train-*.parquet, data/validation-*.parquet), from train.jsonl and validation.jsonl of such rows, or from the
authors' files (train_rand_split.jsonl, dev_rand_split.jsonl). The published test answers are secret: as everywhere, the
test split is the published validation file, and our validation split is held out of the train file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollouts.grading.choices import Choice, render_choice
from rollouts.problems.reading import ProblemFileError, SourceRow, find_rows
from rollouts.problems.splits import hold_out, question_key
from rollouts.records import Problem
from stages.bad_rows import BadRows
from stages.text import shown

if TYPE_CHECKING:
    from rollouts.problems.args import ProblemArgs

# ours: what the files of each layout are called
FILES = {
    "train": ("data/train-*.parquet", "train-*.parquet", "train_rand_split.jsonl", "train.jsonl"),
    "test": ("data/validation-*.parquet", "validation-*.parquet", "dev_rand_split.jsonl", "validation.jsonl"),
}


def load(args: ProblemArgs, bad: BadRows) -> list[Problem]:
    """The problems of `args.split`; validation is held out of the train file, and train is the rest of it.

    Raises:
        ProblemFileError: a file is missing or malformed, or a row has no answer or one that is no choice.
    """
    folder = Path(args.path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ProblemFileError(f"{folder}: commonsenseqa needs the folder that holds {FILES['test'][-1]} and others")

    def read(side: str) -> list[Problem]:
        return bad.keep(find_rows(folder, *FILES[side]), lambda row: _problem(row, args.split))

    test = read("test")
    if args.split == "test":
        return test
    return hold_out(read("train"), args, {question_key(problem.question) for problem in test})


def _problem(row: SourceRow, split: str) -> Problem:
    own = row.fields.get("question")
    if isinstance(own, dict):  # the authors' files have stem and choices within the question
        row = SourceRow(row.where, row.n, {**row.fields, "question": own.get("stem"), "choices": own.get("choices")})
    choices = _choices(row, row.fields.get("choices"))
    key = row.text("answerKey").upper()
    answer = next((choice for choice in choices if choice.letter == key), None)
    if answer is None:
        raise row.error(f"field 'answerKey' is {shown(key)}, and the choices are {shown([c.letter for c in choices])}")
    listed = " ".join(map(render_choice, choices))
    question = f"{row.text('question')}\nAnswer choices: {listed}"
    return Problem(f"commonsenseqa/{split}/{row.n}", question, render_choice(answer), None, "commonsenseqa", split)


def _choices(row: SourceRow, value: Any) -> list[Choice]:
    """The choices of a row: `{"label": […], "text": […]}`, or a list of `{"label": …, "text": …}`."""
    if isinstance(value, dict) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
        pairs = list(zip(value["label"], value["text"], strict=False))
        whole = len(value["label"]) == len(value["text"])
    else:
        whole = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        pairs = [(one.get("label"), one.get("text")) for one in value] if whole else []
    texts = all(isinstance(part, str) and part.strip() for pair in pairs for part in pair)
    letters = [str(letter).strip().upper() for letter, _ in pairs]
    if not whole or len(pairs) < 2 or not texts or len(set(letters)) < len(letters):
        raise row.error(f"field 'choices' must have a letter and a text each, not {shown(value)}")
    if not all(len(letter) == 1 and "A" <= letter <= "Z" for letter in letters):
        raise row.error(f"field 'choices' must be labelled with letters, not {shown(letters)}")
    return [Choice(letter, " ".join(text.split())) for letter, (_, text) in zip(letters, pairs, strict=True)]
