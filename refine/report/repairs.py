"""What is wrong with drafts, and what the refiners do to them: wrong ones fixed, right ones broken, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from refine.revise import WHERE
from rewards.intervals import Estimate, Tally, wilson
from rollouts.records import Candidate, CandidateKey
from rollouts.world.claims import Verdict

ERRORS = tuple(kind.value for kind in Verdict if kind is not Verdict.RIGHT)


def count_errors(
    kinds: dict[CandidateKey, str] | None, rows: dict[str, int], counts: np.ndarray
) -> dict[str, Estimate | None]:
    """The share of each kind of first error among the drafts that are not right; None where nobody knows, or all are.

    `kinds` are those of these drafts, one a problem; `rows` and `counts` are as in `judge_report`.
    """
    owners = [rows[problem_id] for problem_id, *_ in kinds or ()]
    return {
        name: Tally.of(owners, [kind == name for kind in (kinds or {}).values()], len(rows)).estimate(counts)
        for name in ERRORS
    }


def repair_report(
    where: str, rows: dict[str, int], candidates: dict[CandidateKey, Candidate], counts: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the refiners do to wrong and to right drafts: fixed, broken, differences, and both by `where`.

    A problem without a local refinement, or with the draft in its place (no error was located), counts as neither
    fixed nor broken by it. The controls, which saw no draft or that of another problem, are measured on the same
    drafts: what a refiner fixes beyond them comes from reading these.
    """
    draft = _outcomes(candidates, rows, "draft", "none")
    if draft is None or np.isnan(draft).any():
        missing = "all problems" if draft is None else repr(list(rows)[int(np.flatnonzero(np.isnan(draft))[0])])
        raise ValueError(f"no draft for {missing}")
    wrong, right = 1 - draft, draft
    whole, control, shuffled = (_outcomes(candidates, rows, kind, "none") for kind in ("global", "control", "shuffled"))
    by_where, local = {}, None
    for name in WHERE:
        found = _outcomes(candidates, rows, "local", name)
        if found is not None:
            local = found if name == where else local
            by_where[name] = {
                "located": share(_located(candidates, rows, name), np.ones(len(rows))),
                "fixed": _share(found, 1, wrong),
                "fixed_either": _share(_either(whole, found), 1, wrong),
                "broken": _share(found, 0, right),
            }
    either = _either(whole, local)
    arms = {"global": whole, "local": local, "either": either, "control": control, "shuffled": shuffled}
    fixed = {name: _share(found, 1, wrong) for name, found in arms.items()}
    broken = {name: _share(arms[name], 0, right) for name in ("global", "local", "control", "shuffled")}
    for name, (by_global, by_local) in {"both": (1, 1), "only_global": (1, 0), "only_local": (0, 1)}.items():
        fixed[name] = None
        if either is not None:
            mended = ((whole == 1) == by_global) * ((local == 1) == by_local)
            fixed[name] = share(mended, wrong)
    differences = {
        "fixed_either_minus_global": _more(counts, either, whole, wrong),
        "fixed_either_minus_local": _more(counts, either, local, wrong),
        "fixed_global_minus_control": _more(counts, whole, control, wrong),
        "fixed_global_minus_shuffled": _more(counts, whole, shuffled, wrong),
    }
    return fixed, broken, differences, by_where


def _either(whole: np.ndarray | None, local: np.ndarray | None) -> np.ndarray | None:
    return None if whole is None or local is None else np.fmax(whole, local)


def _outcomes(
    candidates: dict[CandidateKey, Candidate], rows: dict[str, int], kind: str, where: str
) -> np.ndarray | None:
    """Right (1) or not (0) of one kind of candidate by problem; NaN where a problem has none; None if none has."""
    found = np.full(len(rows), np.nan)
    for (problem_id, its_kind, its_where, sample), candidate in candidates.items():
        if its_kind == kind and its_where == where and sample == 0:
            found[rows[problem_id]] = candidate.correct is True
    return None if np.isnan(found).all() else found


def _located(candidates: dict[CandidateKey, Candidate], rows: dict[str, int], where: str) -> np.ndarray:
    """Whether an error was located in each draft: its local refinement was told of a step."""
    keys = ((problem_id, "local", where, 0) for problem_id in rows)
    return np.array([key in candidates and candidates[key].error_step is not None for key in keys], dtype=float)


def share(hits: np.ndarray, group: np.ndarray) -> Estimate | None:
    """The share of hits (1 or 0 by problem) in a group of problems (1 in, 0 out), which are independent."""
    return wilson(int((hits * group).sum()), int(group.sum()))


def _share(outcomes: np.ndarray | None, value: int, group: np.ndarray) -> Estimate | None:
    """Of a group of drafts, the share whose refinement came out as `value`."""
    return None if outcomes is None else share(outcomes == value, group)


def _more(
    counts: np.ndarray, first: np.ndarray | None, second: np.ndarray | None, group: np.ndarray
) -> Estimate | None:
    """Of a group of drafts, the share that came out right in `first`, minus that in `second`."""
    if first is None or second is None:
        return None
    return Tally((first == 1) * group, group).minus(Tally((second == 1) * group, group), counts)
