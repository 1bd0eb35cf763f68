"""What a plan takes for granted: the accelerator, its price, how much of its peak is reached, and how a policy behaves.

Every one is a setting (`plan.price=2.5`), and all are printed with the plan.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rollouts.world.args import SOURCE as WORLD
from stages.checks import check_choices, check_least, check_range


@dataclass(frozen=True)
class Accelerator:
    """Makers' figures: dense TFLOP/s in bfloat16 and in float32, GiB that torch finds, TB/s of its memory."""

    tflops: float
    tflops_float32: float
    memory: float
    bandwidth: float


ACCELERATORS = {
    "H200": Accelerator(989, 67, 139.8, 4.8),
    "H100": Accelerator(989, 67, 79.1, 3.35),
    "A100-80": Accelerator(312, 19.5, 79.1, 2.04),
    "A100-40": Accelerator(312, 19.5, 39.4, 1.56),
    "L40S": Accelerator(362, 91.6, 44.4, 0.864),
    "RTX4090": Accelerator(165, 82.6, 23.5, 1.01),
    "L4": Accelerator(121, 30.3, 22.0, 0.3),
}


@dataclass(frozen=True)
class Behaviour:
    """How the solutions that one policy writes for one problem differ.

    A problem's share of right solutions is drawn from a beta distribution whose two parameters add up to
    `concentration`. Of m right (wrong) solutions m ** right_variety (m ** wrong_variety) are different texts. Tokens of
    m solutions that are read together, what they begin with once, are those of m ** reading solutions. A wrong one has
    `wrong_length` times the steps of a right one.
    """

    concentration: float
    right_variety: float
    wrong_variety: float
    reading: float
    wrong_length: float


# measured on 24,000 rollouts of `experiment=slips`, whose world has one right text for most problems
IN_WORLD = Behaviour(3.0, 0.03, 0.54, 0.3, 0.88)
# not measured: a language model writes a text of its own nearly every time
IN_LANGUAGE = Behaviour(1.0, 0.9, 0.95, 0.95, 1.0)

# tokens of a search relative to 8 continuations of every prefix of the wrong solutions that it labels: in the embedded
# world, and on the simulated GSM8K (docs/labelling.md); those of `exhaustive` follow from its settings
SEARCH_COST = {
    ("forward", "any"): (0.09, 0.30),
    ("binary", "any"): (0.12, 0.32),
    ("adaptive", "any"): (0.09, 0.30),
    ("forward", "at_least"): (0.22, 0.64),
    ("binary", "at_least"): (0.28, 0.83),
    ("adaptive", "at_least"): (0.22, 0.60),
    ("forward", "posterior"): (0.44, 0.51),
    ("binary", "posterior"): (0.36, 0.45),
    ("adaptive", "posterior"): (0.28, 0.38),
}


@dataclass
class PlanArgs:
    """What is assumed. Where a policy's texts are not at hand, they are taken to be as long as the gold solutions."""

    accelerator: str = "H100"  #: H200, H100, A100-80, A100-40, L40S, RTX4090 or L4
    tflops: float | None = None  #: dense TFLOP/s; null: the maker's, of each stage's dtype
    memory: float | None = None  #: GiB of one; null: the maker's
    bandwidth: float | None = None  #: TB/s of its memory; null: the maker's
    price: float | None = None  #: money for an hour of one accelerator
    input_price: float | None = None  #: money for a million tokens that served models read
    output_price: float | None = None  #: money for a million tokens that served models write
    training: float = 0.35  #: share of the peak that training reaches
    reading: float = 0.4  #: share of the peak that reading prompts and scoring reach
    decoding: float = 0.4  #: share that sampling reaches of what bandwidth and peak allow
    rows: int = 256  #: rows that vLLM decodes at once where sampler.vllm.max_num_seqs is null
    trained_per_second: float | None = None  #: tokens one accelerator trains on; null: by the peak
    sampled_per_second: float | None = None  #: tokens one accelerator samples; null: by bandwidth and peak
    scored_per_second: float | None = None  #: tokens one accelerator scores; null: by the peak
    usable: float = 0.95  #: share of the memory that can be filled; the rest is fragments
    load_seconds: float = 60.0  #: to start a process and load a model, each time
    accuracy: float = 0.5  #: share of sampled solutions that are right
    served_accuracy: float = 0.9  #: the same of a served model
    completion: float | None = None  #: tokens of a right solution; null: of the gold ones
    steps: float = 4.5  #: steps of a solution before its answer line, where there are no gold ones
    label_cost: float | None = None  #: tokens of a label search, of 8 at every prefix; null: as docs/labelling.md found
    local_pairs: float = 0.85  #: share of the labelled wrong solutions that give a local pair
    flagged: float = 0.5  #: share of drafts in which an ORM or a SORM sees an error
    kept: float = 0.7  #: share of corrections that the filter keeps
    evolved: float = 0.7  #: share of new problems that are kept
    explanation: float = 30.0  #: tokens of a correction's explanation
    refuse: bool = True  #: stop where a stage does not fit; false: mark it with !

    def validate(self) -> None:
        """Raise ValueError naming the first setting that makes no sense."""
        check_choices(self, "plan.", accelerator=tuple(ACCELERATORS))
        shares = ("training", "reading", "decoding", "usable", "kept", "evolved", "local_pairs", "flagged")
        check_range(self, "plan.", accuracy="(0, 1)", served_accuracy="(0, 1)", **dict.fromkeys(shares, "(0, 1]"))
        positive = ("tflops", "memory", "bandwidth", "completion", "label_cost", "steps", "explanation")
        rates = ("trained_per_second", "sampled_per_second", "scored_per_second")
        check_range(self, "plan.", **dict.fromkeys((*positive, *rates), "(0, inf)"))
        prices = ("price", "input_price", "output_price", "load_seconds")
        check_range(self, "plan.", **dict.fromkeys(prices, "[0, inf)"))
        check_least(self, "plan.", rows=1)

    def hardware(self) -> Accelerator:
        """The accelerator, with what is set of its own."""
        known = ACCELERATORS[self.accelerator]
        own = {name: getattr(self, name) for name in ("tflops", "memory", "bandwidth")}
        if self.tflops is not None:
            own["tflops_float32"] = self.tflops
        return dataclasses.replace(known, **{name: value for name, value in own.items() if value is not None})


def behaviour(source: str) -> Behaviour:
    """How solutions of problems of this source differ."""
    return IN_WORLD if source == WORLD else IN_LANGUAGE
