"""Learning from corrected mistakes (LeMa, arXiv 2310.20689): wrong solutions are collected, corrected and filtered."""
