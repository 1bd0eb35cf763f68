"""What sympy does slowly the first time, done once: the prover's workers are forked from a process that imports this.

It takes the half second of processor time that a worker has for a comparison.
"""

from __future__ import annotations

import logging

from rollouts.grading.proof import compare

logging.disable(logging.CRITICAL)  # math-verify warns of each time-out that it does not have
for left, right in (
    ("\\frac{x}{2}", "0.5x"),
    ("(x+1)(x-1)", "x^2-1"),
    ("|x|", "x"),
    ("(-\\infty,2)\\cup(3,\\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("\\sin(x)^2+\\cos(x)^2", "1"),
    ("\\log(8)", "3\\log(2)"),
):
    compare([left], [right], True)
