"""What the stages that ask somebody for replies (`correct`, `evolve`) count of them alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from rollouts.records import Correction, Evolved
from rollouts.sampling.budget import PriceArgs
from stages.workspace import Workspace

logger = logging.getLogger(__name__)


def count_replies(
    what: str, rows: Sequence[Correction | Evolved], reasons: Iterable[str], price: PriceArgs, work: Workspace
) -> None:
    """How many are kept, how many are dropped for each of `reasons`, their tokens, and what they cost."""
    found = Counter(row.reason for row in rows)
    dropped = {reason: found[reason] for reason in reasons if found[reason]}
    logger.info("%d of %d %s are kept; dropped: %s", found[None], len(rows), what, dropped or "none")
    read, written = sum(row.prompt_tokens for row in rows), sum(row.completion_tokens for row in rows)
    work.count(kept=found[None], prompt_tokens=read, completion_tokens=written)
    work.count(**{f"dropped_{reason}": number for reason, number in dropped.items()})
    cost = price.cost(read, written)
    if cost is not None:
        work.count(cost=cost)
        logger.info("the replies cost %.2f by these prices", cost)
