"""Grades random texts and payloads that hang a symbolic grader; fails on an exception, a wrong grade, or a slow one.

`python tests/faults/fuzz_grader.py --count 1000000 --seed 0` takes about three minutes.
Half of the texts are noise, which must never be right; half state a known number in a random rendering, which must
be right against it and wrong against another. About one in a hundred needs the prover, whose time is counted apart.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rollouts.grading import symbolic
from rollouts.grading.answers import grade, warm_up
from rollouts.grading.numerals import normalise
from rollouts.solution import STOP_MARKERS

LIMIT = 0.050  # seconds of processor time for one text that does not need the prover
NEVER = "918273.5"  # no piece of noise holds it

# Each hangs, or eats all memory, in a symbolic grader without a deadline, or once did.
PAYLOADS = [
    *("9^{9^{9^9}}", "2^{10^{10}}", "10^{999999999}", "1e999999999", "((((9!)!)!)!)!", "(10^{8})!", "100000!", "10!!"),
    *("(x+y+z+1)^{500}", "(x+1)^{99999}", "\\binom{10^9}{5\\cdot 10^8}", "\\log(9^{9^{9}})", "(2^{200}+1)!"),
    *("(" * 140 + "1" + ")" * 140, "{" * 140 + "1" + "}" * 140, "\\sqrt{" * 40 + "2" + "}" * 40, "|" * 200 + "1"),
    *("\\frac{1}{" * 25 + "2" + "}" * 25, "\\frac{1}{" * 20_000, "-" * 290 + "1", "1" + "+1" * 148, "2" + "^2" * 140),
    "\\sin(\\cos(\\tan(\\sin(\\cos(\\tan(x^{x^{x}}))))))",
    "\\begin{pmatrix}" + "&".join(["x^{9}"] * 30) + "\\\\" + "&".join(["1"] * 30) + "\\end{pmatrix}",
    "[0,1]\\cup" * 25 + "[0,1]",
]

MARKS = ["\\boxed{", "\\boxed", "\\fbox{", "}", "{", "####", "#### ", "The answer is ", "answer is", "\n", "\n\n", " "]
PIECES = [
    *(
        "1",
        "12",
        "1,800",
        "1{,}800",
        "1,80",
        "12:30",
        "3/4",
        "\\frac{3}{4}",
        "\\dfrac34",
        "1 1/2",
        "1e3",
        "1e999999999",
    ),
    *("50%", "\\%", "$", "\\$", "€", "−", "–", "-", "+", ".", ",", "...", "…", "(", ")", "[", "]", "^", "_", "=", "/"),
    *("１２", "٣", "½", "²", "五", "万", "\u00a0", "\u202f", "\u2028", "\r", "\t", "\0", "\ud800", "\udfff", "İ", "ß"),
    *("apples", "dollars per day", "wait", "Wait, ", "million", "dozen", "or", "and", "cm^2", "km/h", "x", "pi", "e"),
    *("\\text{ m}", "\\text{", "\\pi", "\\sqrt", "\\left(", "\\,", "\\!", "~", "**", "__", "`", '"', "'", "<<1+2=3>>"),
    *("I hope it is correct", "inf", "nan", "0x1F", "1_000", "__import__('os')", "True", "None", "{}", "%s", "\\"),
]


def noise(chance: random.Random) -> str:
    """Random pieces, now and then a very long run of one."""
    pieces = [*PIECES, *MARKS, *MARKS]
    text = "".join(chance.choices(pieces, k=chance.randrange(1, 40)))
    if chance.random() < 0.1:
        text += chance.choice(list(STOP_MARKERS)) + chance.choice(pieces)
    if chance.random() < 0.001:
        text += chance.choice(pieces) * chance.choice([1_000, 20_000, 100_000])
    if chance.random() < 0.1:
        text += "".join(chr(chance.randrange(0x110000)) for _ in range(20))
    return text


def render(value: Fraction, chance: random.Random) -> str:
    """`value` as somebody may write it; its denominator is a power of ten."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    digits = f"{Decimal(size.numerator) / Decimal(size.denominator):f}"
    whole, _, part = digits.partition(".")
    grouped = f"{int(whole):,}"
    tail = "." + part if part else ""
    minus = chance.choice(["-", "−"]) if sign else ""
    latex = rf"\frac{{{size.numerator}}}{{{size.denominator}}}"
    number = chance.choice(
        [
            *(minus + digits, minus + grouped + tail, minus + grouped.replace(",", "{,}") + tail),
            *(
                minus + digits + (".0" if not tail else "00"),
                minus + latex,
                f"{minus}{size.numerator}/{size.denominator}",
            ),
            *(f"{minus}${grouped}{tail}", f"{minus}\\${digits}", f"{minus}{whole}{part}e-{len(part)}"),
        ]
    )
    unit = chance.choice(["", "", " apples", " dollars per day", "\\text{ cm}", " %", "\\%", " (points)", "."])
    return number + unit


def state(answer: str, chance: random.Random) -> str:
    """A solution that ends in `answer`."""
    before = chance.choice(
        ["", "She has 3 + 4 = <<3+4=7>>7.\n", "x" * chance.randrange(2_000) + "\n", "The answer is 5.\n"]
    )
    ending = chance.choice(["#### {}", "####{}", "\\boxed{{{}}}", "The answer is {}", "the final answer is: **{}**"])
    after = chance.choice(["", "\n", "</s>", "<|im_end|>junk 12", "\nQuestion: How many?\n#### 5"])
    return before + ending.format(answer) + after


def run(count: int, seed: int) -> dict[str, float]:
    """Grade `count` texts; how many asked the prover, and the worst times in seconds without it and with it.

    Raises:
        AssertionError: a grade is wrong or too slow; the message holds the text.
    """
    chance = random.Random(seed)
    asked = 0
    ask = symbolic._ask

    def counted(question: dict[str, object]) -> str:
        nonlocal asked
        asked += 1
        return ask(question)

    symbolic._ask = counted
    worst = {False: 0.0, True: 0.0}
    try:
        for index in range(count):
            before = asked
            text, seconds = (one_noise if index % 2 else one_statement)(chance)
            if seconds > LIMIT and asked == before:  # collecting garbage is no fault of the text
                seconds = min(seconds, *(timed(text, NEVER)[1] for _ in range(2)))
                assert seconds <= LIMIT, f"{seconds * 1000:.0f} ms for {text[:500]!r} of {len(text)} characters"
            worst[asked > before] = max(worst[asked > before], seconds)
    finally:
        symbolic._ask = ask
    return {"texts": count, "asked the prover": asked, "worst": worst[False], "worst with the prover": worst[True]}


def long_runs() -> float:
    """The worst time in seconds of a text that is 50,000 times one piece, behind what makes the cut look for more.

    Raises:
        AssertionError: one is too slow.
    """
    texts = [f"</think>1: user [I\n{piece * 50_000}" for piece in (*PIECES, *MARKS)]
    worst = 0.0
    for text in texts:
        seconds = min(timed(text, NEVER, last_number=True)[1] for _ in range(3))
        assert seconds <= LIMIT, f"{seconds * 1000:.0f} ms for {text[:60]!r} of {len(text)} characters"
        worst = max(worst, seconds)
    return worst


def one_noise(chance: random.Random) -> tuple[str, float]:
    text = noise(chance)
    verdict, seconds = timed(text, NEVER, last_number=chance.random() < 0.5)
    assert not verdict.correct, f"noise is right by {verdict}: {text!r}"
    normalise(text[:600])
    return text, seconds


def one_statement(chance: random.Random) -> tuple[str, float]:
    value = Fraction(chance.randrange(-(10**7), 10**7), 10 ** chance.choice([0, 0, 0, 1, 2]))
    text = state(render(value, chance), chance)
    verdict, seconds = timed(text, render(value, chance))
    assert verdict.correct and verdict.rule.endswith(":number"), f"{value} is {verdict} in {text!r}"
    other = value + chance.choice([1, -1, Fraction(1, 10), 10**6])
    verdict, again = timed(text, render(other, chance))
    assert not verdict.correct, f"{value} is taken for {other} in {text!r}"
    return text, max(seconds, again)


def timed(text: str, reference: str, *, last_number: bool = False):
    start = time.process_time()
    verdict = grade(text, reference, last_number=last_number)
    return verdict, time.process_time() - start


def payload_seconds() -> list[tuple[float, str, str]]:
    """Grade each payload: seconds, rule, payload, the slowest first.

    Raises:
        AssertionError: one is right, or leaves the prover unable to go on.
    """
    results = []
    for payload in PAYLOADS:
        start = time.perf_counter()
        verdict = grade(f"\\boxed{{{payload}}}", "5")
        seconds = time.perf_counter() - start
        assert not verdict.correct, f"{payload!r} is right by {verdict}"
        results.append((seconds, verdict.rule, payload))
        assert grade("\\boxed{x+y}", "y+x").correct, f"no grades after {payload!r}"
    return sorted(results, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warm_up()
    for seconds, rule, payload in payload_seconds():
        print(f"{seconds:.3f} s  {rule:15} {payload[:60]}")
    print(f"{long_runs():.3f} s  the worst of 50,000 times one piece")
    start = time.perf_counter()
    print(run(args.count, args.seed), f"in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
