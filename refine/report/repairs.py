"""What the refiners do to drafts: wrong ones fixed, right ones broken, each share with its interval over problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.intervals import Estimate, ratio, ratio_difference
from rollouts.records import Candidate

if TYPE_CHECKING:
    from rollouts.records import CandidateKey

WHERES = ("none", "orm", "sorm", "oracle")


def repair_report(
    where: str, rows: dict[str, int], candidates: dict[CandidateKey, Candidate], counts: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the refiners do to wrong and to right drafts: fixed, broken, differences, and both by `where`.

    A problem without a local refinement, or with the draft in its place (no error was located), counts as neither
    fixed nor broken by it. The control, which saw no draft, is measured on the same drafts: what more a refiner fixes,
    it has from reading them.
    """
    draft = _outcomes(candidates, rows, "draft", "none")
    if draft is None or np.isnan(draft).any():
        missing = "all problems" if draft is None else repr(list(rows)[int(np.flatnonzero(np.isnan(draft))[0])])
        raise ValueError(f"no draft for {missing}")
    wrong, right = 1 - draft, draft
    outcomes = {"global": _outcomes(candidates, rows, "global", "none")}
    by_where = {}
    for name in WHERES:
        outcomes[name] = _outcomes(candidates, rows, "local", name)
        if outcomes[name] is not None:
            either = None if outcomes["global"] is None else np.fmax(outcomes["global"], outcomes[name])
            by_where[name] = {
                "located": ratio(counts, _located(candidates, rows, name), np.ones(len(rows))),
                "fixed": _share(counts, outcomes[name], 1, wrong),
                "fixed_either": _share(counts, either, 1, wrong),
                "broken": _share(counts, outcomes[name], 0, right),
            }
    whole, local = outcomes["global"], outcomes.get(where)
    control = _outcomes(candidates, rows, "control", "none")
    either = None if whole is None or local is None else np.fmax(whole, local)
    fixed = {"global": _share(counts, whole, 1, wrong), "local": _share(counts, local, 1, wrong)}
    fixed["either"] = _share(counts, either, 1, wrong)
    broken = {"global": _share(counts, whole, 0, right), "local": _share(counts, local, 0, right)}
    fixed["control"], broken["control"] = _share(counts, control, 1, wrong), _share(counts, control, 0, right)
    differences = dict.fromkeys(("fixed_either_minus_global", "fixed_either_minus_local", "fixed_global_minus_control"))
    if whole is not None and control is not None:
        differences["fixed_global_minus_control"] = _more(counts, whole, control, wrong)
    fixed |= dict.fromkeys(("both", "only_global", "only_local"))
    if either is not None:
        by_global, by_local = (whole == 1) * wrong, (local == 1) * wrong
        fixed["both"] = ratio(counts, by_global * by_local, wrong)
        fixed["only_global"] = ratio(counts, by_global * (1 - by_local), wrong)
        fixed["only_local"] = ratio(counts, by_local * (1 - by_global), wrong)
        differences["fixed_either_minus_global"] = _more(counts, either, whole, wrong)
        differences["fixed_either_minus_local"] = _more(counts, either, local, wrong)
    return fixed, broken, differences, by_where


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


def _share(counts: np.ndarray, outcomes: np.ndarray | None, value: int, group: np.ndarray) -> Estimate | None:
    """Of a group of drafts (1 in, 0 out), the share whose refinement came out as `value`."""
    return None if outcomes is None else ratio(counts, (outcomes == value) * group, group)


def _more(counts: np.ndarray, first: np.ndarray, second: np.ndarray, group: np.ndarray) -> Estimate | None:
    """Of a group of drafts, the share that came out right in `first`, minus that in `second`."""
    return ratio_difference(counts, ((first == 1) * group, group), ((second == 1) * group, group))
