"""The stage `import_corrections`: rows of another project as corrections that `train_policy` reads, judged by the same
filter as replies of a corrector."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from refine.lema.fields import Dropped
from refine.lema.formats import FORMATS, FormatRowError, Row
from refine.lema.judge import REASONS, judge_reply
from rewards.formats.files import read_file
from rollouts.grading.answers import grade
from rollouts.problems.args import ProblemArgs
from rollouts.problems.copies import Copies
from rollouts.problems.load import load_problems, load_untrained
from rollouts.problems.splits import asked_key
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.protocol import Sample
from rollouts.solution import cut_solution
from rollouts.steps import join_steps
from stages.bad_rows import BAD_ROWS, BadRows
from stages.checks import check_choices, check_least
from stages.stage import MISSING, Stage, parent
from stages.workspace import Workspace

# why a row is dropped that a corrector's reply cannot be dropped for
ROW_REASONS = {
    "no_mistake": "there is no wrong solution that can be told from the rest",
    "test_copy": "the question is a test problem, or a near copy of one",
    "no_reference": "nobody knows the right answer",
    "not_wrong": "the wrong solution ends in the right answer",
}


@dataclass
class ImportCorrectionsArgs:
    """Arguments of the stage `import_corrections`.

    `input` is a .jsonl, .json or .parquet file of rows in `format`. The reference answer is that of the row, or that of
    the same question in `problems`, whose test problems and near copies of them are dropped; with `trust_answers` a row
    without one is taken at its word. A row that is not of the format is an error, or with `bad_rows` skip left out.
    """

    input: str = parent(any_path=True)  #: a .jsonl, .json or .parquet file
    format: str = MISSING  #: steps, critique or lemma
    problems: ProblemArgs | None = None  #: of which the questions are; null: not known
    trust_answers: bool = False  #: where no reference answer is known, the corrected solution's own
    bad_rows: str = "error"  #: error or skip
    limit: int | None = None  #: at most so many rows

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_choices(self, format=tuple(FORMATS), bad_rows=BAD_ROWS)
        check_least(self, limit=1)
        if self.problems is not None:
            self.problems.validate()
            if self.problems.split != "train":
                raise ValueError(f"problems.split={self.problems.split}: corrections of these problems are all dropped")


class _Known:
    """What is known of the questions: their answers, and which are test problems."""

    def __init__(self, problems: ProblemArgs | None) -> None:
        self.answers: dict[str, str] = {}
        self.tested: Copies | None = None
        if problems is not None:
            self.answers = {asked_key(one.question): one.answer for one in load_problems(problems)}
            self.tested = Copies(load_untrained(problems))


def import_corrections(args: ImportCorrectionsArgs, work: Workspace) -> None:
    """Write `rows` (Correction), kept and dropped ones, and `problems` (Problem).

    Raises:
        FormatRowError: a row is not of the format, and is not to be skipped.
        FormatError: the file cannot be read.
        ValueError: there is no row.
    """
    bad, known = BadRows(args.bad_rows), _Known(args.problems)
    problems: dict[str, Problem] = {}
    rows = list(_rows(args, str(work.parents["input"].path), bad, known, problems))
    if not rows:
        raise ValueError(f"{args.input}: there is no row of format {args.format} that can be used")
    work.write_rows("rows", rows, Correction)
    work.write_rows("problems", problems.values(), Problem)
    reasons = Counter(row.reason for row in rows)
    work.count(rows=len(rows), kept=reasons[None], bad_rows=bad.count)
    work.count(**{f"dropped_{reason}": reasons[reason] for reason in (*ROW_REASONS, *REASONS) if reasons[reason]})
    bad.record(work)


def _rows(
    args: ImportCorrectionsArgs, path: str, bad: BadRows, known: _Known, problems: dict[str, Problem]
) -> Iterator[Correction]:
    seen: set[tuple[str, tuple[str, ...], int | None, tuple[str, ...]]] = set()
    for number, (where, fields) in enumerate(read_file(path)):
        if number == args.limit:
            return
        try:
            row = FORMATS[args.format].read(fields)
        except FormatRowError as error:
            bad.refuse(FormatRowError(f"{where}: {error}"))
            continue
        except Dropped as dropped:
            yield _correction(args, number, Row("", None, (), str(fields.get("output", ""))), str(dropped))
            continue
        found = _judge(args, number, row, known, problems)
        same = (found.problem_id, found.mistake, found.wrong_step, found.steps)
        if found.reason is None and same in seen:
            found = replace(found, reason="duplicate")
        seen.add(same)
        yield found


def _judge(
    args: ImportCorrectionsArgs, number: int, row: Row, known: _Known, problems: dict[str, Problem]
) -> Correction:
    key = asked_key(row.question)
    answer = row.answer or known.answers.get(key)
    if known.tested is not None and known.tested.find(row.question):
        return _correction(args, number, row, "test_copy")
    trusted = answer is None and args.trust_answers
    if trusted:
        answer = cut_solution(row.reply).answer
    if answer is None:
        return _correction(args, number, row, "no_answer" if trusted else "no_reference")
    name = f"{args.format}/{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    problem = problems.setdefault(name, Problem(name, row.question, answer, None, args.format, "train"))
    if grade(cut_solution(join_steps(row.mistake)), problem.answer).correct:
        return _correction(args, number, row, "not_wrong", problem)
    mistake = Mistake(f"{name}/{number}", name, args.format, "", "", row.mistake, "")
    found = judge_reply(problem, mistake, Sample(name, 0, row.reply, "stop", 0, 0, 0), args.format, None)
    return replace(found, id=f"{args.format}/{number}")


def _correction(
    args: ImportCorrectionsArgs, number: int, row: Row, reason: str, problem: Problem | None = None
) -> Correction:
    """A row that is dropped before its reply is judged."""
    return Correction(
        f"{args.format}/{number}", "" if problem is None else problem.id, "", args.format, args.format, 0, row.mistake,
        None, None, "", (), None, reason, row.reply, 0, 0,
    )  # fmt: skip


IMPORT_CORRECTIONS = Stage("import_corrections", 2, ImportCorrectionsArgs, import_corrections)
