"""The filter of corrections: a reply becomes a correction that is kept, or is dropped for a reason that is counted.

Kept is what can be read, names a step that is there, keeps the steps before it, changes that step, and ends in the
right answer by the one grader (LeMa sec. 2 has the last only).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from refine.lema.fields import PARTS, Dropped, clean_line
from refine.lema.reply import Reply, parse_correction, render_correction
from rollouts.grading.answers import grade
from rollouts.records import Correction, Mistake, Problem
from rollouts.sampling.protocol import REFUSED, Sample
from rollouts.solution import cut_solution
from rollouts.steps import ANSWER_MARK, join_steps

# why a correction is dropped, in the order in which it is looked at
REASONS = {
    "refused": "the corrector was not asked, or did not answer: quarantine.parquet has why",
    "truncated": "the reply was cut off at max_tokens",
    "empty": "the reply has no text",
    "too_long": "the reply, or its solution, is longer than any that is read",
    "control_characters": "the reply has control characters, or halves of characters",
    "malformed_json": "the reply is JSON that cannot be read, or has fields of another type",
    "no_fields": "none of the fields is there",
    "missing_step": "there is no field that names the step",
    "missing_explanation": "there is no explanation, or no word in it",
    "missing_solution": "there is no solution",
    "repeated": "a field is there twice, or there are several corrections",
    "no_step": "the corrector finds no mistake",
    "several_steps": "more than one step is named",
    "unclear_step": "the field of the step names none that can be read",
    "no_such_step": "the step that is named does not exist",
    "left_out": "dots stand in place of a step of the solution",
    "misnumbered": "the numbers of the steps do not follow each other from the step that is named, or from 1",
    "prefix_changed": "a step before the one that is named was written anew",
    "unchanged": "the step that is named is as it was",
    "no_answer": "the corrected solution states no answer",
    "wrong_answer": "the answer of the corrected solution is wrong",
    "ungraded": "the grader could not decide",
    "ambiguous": "written out, the correction would be read as something else",
    "duplicate": "another sample for the same mistake is the same correction",
}

_OWN_NUMBER = re.compile(r"[*_]{0,3}step\s?([0-9]{1,4})[*_]{0,3}\s?[:.)][*_]{0,3}\s*", re.IGNORECASE)


def judge_reply(
    problem: Problem,
    mistake: Mistake,
    sample: Sample,
    corrector: str,
    hint: int | None,
    parts: Sequence[str] = PARTS,
) -> Correction:
    """The correction that a reply with the fields `parts` is; one that is dropped has what of it could be read. Where
    no field names the step, it is the one at which the corrected solution begins."""
    found = Correction(
        id=f"{mistake.id}/{sample.index}",
        problem_id=problem.id,
        mistake_id=mistake.id,
        source=mistake.source,
        corrector=corrector,
        sample=sample.index,
        mistake=mistake.steps,
        hint=hint,
        wrong_step=None,
        explanation="",
        steps=(),
        answer=None,
        reason=None,
        text=sample.text,
        prompt_tokens=sample.prompt_tokens,
        completion_tokens=sample.completion_tokens,
    )
    if sample.finish_reason == REFUSED:
        return replace(found, reason="refused")
    if sample.finish_reason == "length":
        return replace(found, reason="truncated")
    try:
        reply = parse_correction(sample.text, parts)
        if reply.step is None:
            if reply.first is None:
                raise Dropped("missing_step")
            reply = reply._replace(step=reply.first)
        if not 1 <= reply.step <= len(mistake.steps):
            raise Dropped("no_such_step")
        found = replace(found, wrong_step=reply.step, explanation=reply.explanation)
        new = new_steps(mistake.steps, reply)
    except Dropped as dropped:
        return replace(found, reason=str(dropped))
    return _judge_solution(problem, found, new, parts)


def _judge_solution(problem: Problem, found: Correction, new: Sequence[str], parts: Sequence[str]) -> Correction:
    """The correction with its solution: the steps before the wrong one, and the `new` ones."""
    kept = found.mistake[: found.wrong_step - 1]
    solution = cut_solution(join_steps(new), kept)
    verdict = grade(solution, problem.answer)
    found = replace(found, steps=solution.steps, answer=verdict.answer)
    after = solution.steps[len(kept) :]
    if solution.steps[: len(kept)] != kept or not after:
        return replace(found, reason="prefix_changed")
    if _plain(after[0]) == _plain(found.mistake[found.wrong_step - 1]):
        return replace(found, reason="unchanged")
    if not verdict.graded:
        return replace(found, reason="ungraded")
    if not verdict.correct:
        return replace(found, reason="no_answer" if verdict.answer is None else "wrong_answer")
    try:
        render_kept(found, parts=parts)
    except ValueError:
        return replace(found, reason="ambiguous")
    return found


def render_kept(correction: Correction, layout: str = "plain", parts: Sequence[str] = PARTS) -> str:
    """What a corrector should have written, for a correction that is kept: what training and examples show.

    Raises:
        ValueError: see `render_correction`.
    """
    new = bare_steps(correction.steps[correction.wrong_step - 1 :])
    return render_correction(correction.wrong_step, correction.explanation, new, layout, parts)


def new_steps(mistake: Sequence[str], reply: Reply) -> list[str]:
    """The steps of a reply from the wrong one on, numbered by themselves where those of the mistake are.

    Raises:
        Dropped: the reply begins at another step, or repeats the steps before the wrong one otherwise than they are.
    """
    before = list(map(_plain, mistake[: reply.step - 1]))
    repeated = list(map(_plain, reply.steps[: len(before)])) == before
    steps = list(reply.steps)
    if before and (reply.first == 1 or (reply.first is None and repeated)):
        if not repeated:
            raise Dropped("prefix_changed")
        steps = steps[len(before) :]
        if not steps:
            raise Dropped("missing_solution")
    elif reply.first not in (None, reply.step):
        raise Dropped("misnumbered")
    if _has_own_numbers(mistake):
        numbered = [f"Step {n}: {step}" for n, step in enumerate(steps, start=reply.step)]
        steps = [own if own.startswith(ANSWER_MARK) else new for own, new in zip(steps, numbered, strict=True)]
    return steps


def bare_steps(steps: Sequence[str]) -> list[str]:
    """The steps without numbers of their own, as a correction has them: `Step 2: 4 * 3 = 12` is `4 * 3 = 12`."""
    return [_OWN_NUMBER.sub("", step, count=1) if _OWN_NUMBER.match(step) else step for step in steps]


def _has_own_numbers(steps: Sequence[str]) -> bool:
    """Whether the steps are numbered from 1 on, but for an answer line."""
    own = [step for step in steps if not step.startswith(ANSWER_MARK)]
    found = [_OWN_NUMBER.match(step) for step in own]
    return bool(own) and all(one and int(one[1]) == n for n, one in enumerate(found, start=1))


def _plain(step: str) -> str:
    """What of a step is compared: without its number, emphasis, and spaces that say nothing."""
    return " ".join(clean_line(bare_steps([step])[0]).split())
