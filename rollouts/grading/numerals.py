"""Reads a plain number as people and models write it (`$1,800.50 per day`, `1\\frac{1}{2}`, `50\\%`), exactly.

What is not one well-formed number with at most a unit after it is None: `1,80`, `12:30`, `5 or 6`, `2x`, `5!`.
Left out: expressions, lists and text (`rollouts/grading/symbolic.py`).
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 400  # a number with its unit is far shorter
MAX_EXPONENT = 300  # 1e999999999 would build an integer of 400 MB

NUM = r"(?:(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.(?!\.)[0-9]*)?|\.[0-9]+)"

_PLAIN = re.compile(
    rf"""(?P<sign>[+-]?)\s*
    (?P<currency>(?:US|CA|A|C|NZ|HK)?\$|[€£¥₹₩₽₪₫₦฿¢]|(?:USD|EUR|GBP|INR|Rs\.?)(?![A-Za-z]))?\s*
    (?P<inner_sign>[+-]?)
    (?:(?P<whole>[0-9]+)\s+(?P<part>[0-9]+)/(?P<parts>[0-9]+)
      |(?P<over>{NUM})\s*/\s*(?P<under>{NUM})
      |(?P<decimal>{NUM})
       (?:[eE](?P<e>[+-]?[0-9]+)|\s*(?:[xX*×·]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*(?P<power>[+-]?[0-9]+|\{{\s*[+-]?[0-9]+\s*\}}))?
    )""",
    re.VERBOSE,
)

_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},  # full-width digits
        **dict(zip("．，％＋－／＄−﹣", ".,%+-/$--", strict=True)),
        "–": "-",  # an en dash for a minus; in a range (3–5) what follows makes it no plain number
        "\u00a0": " ",
        **dict.fromkeys("\u202f\u2009", "\\,"),  # thin spaces group digits, as \, does
        **{chr(0xBC + n): f" {part} " for n, part in enumerate("1/4 1/2 3/4".split())},  # ¼ ½ ¾
        **{
            chr(0x2153 + n): f" {part} "
            for n, part in enumerate("1/3 2/3 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split())
        },
        **{"\u2044": "/", "÷": "/"},
    }
)
_GROUPING = re.compile(r"\{,\}|,\\!|(?<=[0-9])\\[,;:!](?=[0-9]{3})")
_SPACE = re.compile(r"\\[,;:! ]|(?<=.)~|\\q?quad(?![A-Za-z])")
_FRAC = re.compile(rf"\\[dtc]?frac\s*(?:\{{\s*([+-]?{NUM})\s*\}}|([0-9]))\s*(?:\{{\s*({NUM})\s*\}}|([0-9]))")
_OVER = re.compile(
    rf"\{{\s*([+-]?{NUM})\s*\\over(?![A-Za-z])\s*({NUM})\s*\}}|(?<!\{{)([+-]?{NUM})\s*\\over(?![A-Za-z])\s*({NUM})"
)
_UNIT_OVER = re.compile(r"\\[dt]?frac\s*\{\s*(\\(?:text|mathrm)\{[^{}]*\})\s*\}\{\s*(\\(?:text|mathrm)\{[^{}]*\})\s*\}")
_REPEATING = re.compile(r"(?<![0-9.])([0-9]{1,9})?\.([0-9]{0,9})\\overline\s*\{([0-9]{1,9})\}")
_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LETTER_UNIT = re.compile(r"(?<![A-Za-z^])[mgshlLCFKWNJVA](?![A-Za-z])")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°")
_MATH_SPAN = re.compile(r"\$((?:[^$\\]|\\.)*)\$|\\\((.*?)\\\)")
_BOLD = re.compile(r"(?<![0-9A-Za-z)])\*\*|\*\*(?![0-9A-Za-z(])")  # not the power in 2**3


def is_whole(answer: str) -> bool:
    """Whether it is written with a few digits and nothing else."""
    return len(answer) <= 18 and answer.isdecimal() and answer.isascii()


def normalise(answer: str) -> Fraction | None:
    """Read `answer` as one plain number, or give None.

    Sign, currency, well-formed thousands separators, percent (50% is 50), scientific notation, fractions, mixed
    numbers, and a unit after it: at most eight words, none of which could change the value. `5 million` is
    5000000, but `5 dozen` is None: it may mean 5 or 60.
    """
    if is_whole(answer):
        return Fraction(int(answer))
    if len(answer) > MAX_LENGTH:
        return None
    written = _rewrite(answer).strip()
    number = _PLAIN.match(written)
    if number is None or (number["sign"] and number["inner_sign"]):
        return None
    value = _value(number)
    factor = _factor(written[number.end() :])
    if value is None or factor is None:
        return None
    return -value * factor if "-" in (number["sign"], number["inner_sign"]) else value * factor


def _rewrite(answer: str) -> str:
    """Write LaTeX and typographic forms as plain characters; nothing merges digits that stood apart."""
    answer = answer.translate(_CHARACTERS)
    if "**" in answer:
        answer = _BOLD.sub(" ", answer)
    span = _MATH_SPAN.match(answer)
    if span is not None:  # $18$ dollars
        answer = f"{span[1] or span[2] or ''} {answer[span.end() :]}"
    if "\\" in answer or "{" in answer or "~" in answer or "°" in answer:
        answer = answer.replace("\\pounds", "£").replace("\\euro", "€")
        answer = _OVER.sub(lambda over: f" {over[1] or over[3]}/{over[2] or over[4]} ", answer)
        answer = _REPEATING.sub(_repeating, _UNIT_OVER.sub(r"\1/\2", answer))
        answer = _SPACE.sub(" ", _GROUPING.sub(",", answer)).replace("\\$", "$").replace("\\%", "%")
        answer = _DEGREES.sub(" degrees", _TEXT.sub(_words, answer))
        answer = _FRAC.sub(lambda frac: f" {frac[1] or frac[2]}/{frac[3] or frac[4]} ", answer)
    return answer


def _repeating(number: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, once, again = number[1] or "0", number[2], number[3]
    under = (10 ** len(again) - 1) * 10 ** len(once)
    return f" {int(whole + once + again) - int(whole + once)}/{under} "


def _words(text: re.Match[str]) -> str:
    """The words of \\text{…}. A single letter set as text is a unit (m), outside of it a variable."""
    return f" {_LETTER_UNIT.sub('unit', text[1].strip())}"


def _value(number: re.Match[str]) -> Fraction | None:
    if number["whole"]:
        part, parts = int(number["part"]), int(number["parts"])
        return int(number["whole"]) + Fraction(part, parts) if part < parts else None
    if number["over"]:
        under = _decimal(number["under"])
        return _decimal(number["over"]) / under if under else None
    value = _decimal(number["decimal"])
    power = number["e"] or number["power"]
    if not power:
        return value
    exponent = int(power.strip("{} "))
    return value * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None


def _decimal(digits: str) -> Fraction:
    whole, _, part = digits.replace(",", "").partition(".")
    return Fraction(int(whole + part or "0"), 10 ** len(part))


_WORD = r"[A-Za-zÀ-ÖØ-öø-ɏ]+(?:[.'’-][A-Za-zÀ-ÖØ-öø-ɏ]+)*"  # Latin only: 5万 is fifty thousand
_UNIT = re.compile(rf"/?\s*{_WORD}\.?(?:\^\{{?[23]\}}?|[²³])?(?:(?:\s+|\s*/\s*){_WORD}\.?(?:\^\{{?[23]\}}?|[²³])?)*")
_RATE = re.compile(r"(?<=[A-Za-z])/[hsdgmlL](?![A-Za-z])")  # km/h, where a letter alone would be a variable
_METRES = re.compile(r"(?<=\s)[mgLJ]/(?=unit)")  # 5 m/s, but 5m/s may be a quotient of variables
_UNIT_WORD = re.compile(_WORD)
_CURRENCY = tuple("$€£¥₹₩₽₪₫₦฿¢")
_AFTER_NUMBER = (*_CURRENCY, "'", "''", "′", "″")
_MONTHS = frozenset("january february march april may june july august september october november december".split())
_FACTORS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SHORT = _vocabulary(
    "cm mm km dm kg mg ml cl ft in lb lbs oz hr hrs min mins sec secs mph kph kmh yd yds mi pt pts qt gal pm am "
    "p.m a.m usd eur gbp inr tsp sq cu cc wk wks yr yrs kw kwh mw hz khz mhz gb mb kb tb deg pct"
)
_LINKS = _vocabulary("of on at by a an as")
# A number followed by one of these may not be the value that is stated: arithmetic, numbers in words, doubts.
_NOT_UNITS = _vocabulary(
    "or and not no nor if but wait actually hmm oops so then than thus is was are were be isn't aren't wasn't wrong "
    "incorrect equal equals plus minus over divided multiplied squared cubed power root sqrt log ln exp sin cos tan "
    "mod choose factorial negative remainder point to until through between about approximately almost nearly "
    "around either maybe perhaps approx roughly circa ish least most twice thrice times "
    "half halves third thirds fourth fourths fifth fifths sixth sixths eighth eighths "
    "tenth tenths quarter quarters hundredths thousandths dozen dozens score gross lakh crore hundred hundreds "
    "thousand thousands million millions billion billions trillion trillions zero one two three four five six seven "
    "eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty "
    "fifty sixty seventy eighty ninety"
)


def _factor(rest: str) -> int | None:
    """What the words after a number multiply it by: 1 for nothing, percent or a unit; None if it is none of these."""
    attached = rest[:1].isalpha()
    rest = _METRES.sub("unit/", _RATE.sub("/unit", rest))
    rest = rest.strip().removeprefix("%").strip()
    rest = rest[1:] if rest[:1] in _CURRENCY and rest[1:2] == "/" else rest  # 18 $/hour
    rest = rest[:-1].rstrip() if rest[-1:] in tuple(".,;") else rest
    if rest[:1] + rest[-1:] in ("()", "[]"):
        rest = rest[1:-1].strip()
    if not rest or rest in _AFTER_NUMBER:
        return 1
    if _UNIT.fullmatch(rest) is None:
        return None
    words = _UNIT_WORD.findall(rest.lower())
    if words[0] in _MONTHS:  # a date
        return None
    factor = _FACTORS.get(words[0], 1) if not attached else 1
    words = words[1:] if factor > 1 else words
    readable = all(_is_unit_word(word, attached and index == 0) for index, word in enumerate(words))
    return factor if readable and len(words) <= 8 and not (words and _LINKS.issuperset(words)) else None


def _is_unit_word(word: str, attached: bool) -> bool:
    parts = word.split("-")  # t-shirts, but x-y and twenty-five are no units
    if not _NOT_UNITS.isdisjoint(parts):
        return False
    if word in _SHORT:
        return True
    longest = max(map(len, parts))
    if attached or len(parts) > 1:
        return longest > 3  # 5apples, but 5ab and 5abc are products
    return word in _LINKS or (longest > 2 and not set(word) <= set("xyz"))
