"""Numbers with their units in an answer: read by pattern, nothing is evaluated. All rules are our choice.

Patterns here and in :mod:`lit_basereward.rl.answers` take time in proportion to the text: completions are long, and a
policy that is lost writes one word a thousand times.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

_DENIED = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|cannot|nothing|none|doubt|impossible|unlikely|false|wrong|incorrect|if|whether)\b"
    r"|n['\u2019]t\b)(?:\s+(?!(?:but|and)\b)\w+){0,4}\s*\Z",
    re.I,
)

_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u207a\u207b]+")
_VULGAR = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_SAME = str.maketrans({"\u2044": "/"} | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))
_TIDY = [
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"<<[^<>\n]*>>", ""),  # GSM8K's calculator: 48/2 = <<48/2=24>>24
        (r"\{,\}|(?<=\d)\\,(?=\d{3}\b)", ","),
        (r"\\[()\[\],;: ]|~", " "),  # LaTeX's delimiters and spaces
        (r"\\(?:left|right)(?![a-z])|\\!|(?<!\w)\*\*|\*\*(?!\w)|`", ""),
        (r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r" \1"),
        (r"\\[dt]frac(?![a-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\%", "%"),
        (r"\^(?:\{\\circ\}|\\circ\b)", "°"),
        (r"\u2248|\\approx\b", "="),
        (r"\[([A-J])\]", r"(\1)"),
        (r"\b(?:about|approximately|approx\.?|roughly|around)\s+(?=[-+$.\d])", ""),
        (r"\b(?:definitely|certainly|surely|clearly)\s", ""),
    )
]

_POWER = r"e[-+]?\d+|\s*(?:x|\*|\\times)\s*10\^\{?(?P<ten>[-+]?\d+)\}?"
_NUMBER = rf"[-+]?(?:(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?|\.\d+)(?:{_POWER})?"
_QUANTITY = re.compile(
    r"(?:(?P<money>[$\u20ac\u00a3])\s*)?(?<![\w.])(?:(?P<units>[-+]?\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?"
    r"(?P<times>k\b|\s*(?:hundred|thousand|million|billion|trillion|dozen)\b)?"
    r"(?:\s*(?P<unit>%|percent\b|°\s?[CF]?|(?!(?:of|on|at|by|to|so|as|is|it|or|up)\b|in\s\w)"
    r"[^\W\d_]+(?:/[^\W\d_]+)?(?:\^?[23]\b)?))?",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"(?P<before>\d)?\\frac\s*\{(?P<above>-?\d+)\}\s*\{(?P<below>\d+)\}")
_LEFT = re.compile(r"(?:\A| )(\\?[^\W\d_]+)? ?= ?(?=[^=]*\Z)")
"""What a value is said to be of, as in x = 3."""
_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty"
)
_PART = r"hal(?:f|ve)|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
_SPELT = re.compile(rf"(?:\A|(?<=\())({_WORDS})\b(?![- ](?:{_WORDS}|(?:{_PART})s?)\b)", re.IGNORECASE)
_UNITS = {
    **{name: ("length", 0.001) for name in ("mm", "millimeter", "millimetre")},
    **{name: ("length", 0.01) for name in ("cm", "centimeter", "centimetre")},
    **{name: ("length", 1.0) for name in ("m", "meter", "metre")},
    **{name: ("length", 1000.0) for name in ("km", "kilometer", "kilometre")},
    **{name: ("length", 0.0254) for name in ("in", "inch", "inches")},
    **{name: ("length", 0.3048) for name in ("ft", "foot", "feet")},
    **{name: ("length", 1609.344) for name in ("mi", "mile")},
    **{name: ("mass", 0.001) for name in ("g", "gram")},
    **{name: ("mass", 1e-6) for name in ("mg", "milligram")},
    **{name: ("mass", 1.0) for name in ("kg", "kilogram")},
    **{name: ("duration", 0.001) for name in ("ms", "millisecond")},
    **{name: ("duration", 1.0) for name in ("s", "sec", "second")},
    **{name: ("duration", 60.0) for name in ("min", "minute")},
    **{name: ("duration", 3600.0) for name in ("h", "hr", "hour")},
    **{name: ("volume", 0.001) for name in ("ml", "milliliter", "millilitre")},
    **{name: ("volume", 1.0) for name in ("l", "liter", "litre")},
    **{name: ("length/duration", 1 / 3.6) for name in ("kmh", "kph")},
    **{name: ("angle", 1.0) for name in ("°", "degree", "deg")},
    **{name: (name, 1.0) for name in ("°c", "°f")},
    **{name: ("percent", 1.0) for name in ("%", "percent")},
    **{name: ("dollar", 1.0) for name in ("$", "dollar", "usd")},
    **{name: ("euro", 1.0) for name in ("\u20ac", "euro", "eur")},
    **{name: ("pound", 1.0) for name in ("\u00a3", "gbp")},
}
"""What a unit measures, and how many of its base unit it is. Names that are not here are a unit each."""
_TIMES = {"k": 1e3, "dozen": 12, "hundred": 100, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_MEASURES = "|".join({kind for kind, _ in _UNITS.values()})
_KNOWN = re.compile(
    rf"(?:{_MEASURES})|length\^[23]|(?:{_MEASURES})/(?:{_MEASURES})(?:\^[23])?"
    r"|(?![\u5341\u767e\u5343\u4e07\u842c\u4ebf\u5104\u534a])[\u3040-\u9fff\uac00-\ud7a3]{1,2}"  # not Chinese tens
)
_NAME = r"(?:[^\W\d_]{3,}|[AJKNVW]|hz|kj|kw|lb|oz|pa|yd|yr)"
_COUNTED = re.compile(rf"{_NAME}(?:/{_NAME})?")
_FACTOR = re.compile(
    rf"{_PART}|alpha|beta|gamma|theta|lambda|sigma|omega|sqrt|sin|cos|tan|log|exp|squared|cubed|factorial|not|wrong"
)
"""Behind a number a unit that is known, or else a word apart, is what it counts; all else there is a factor."""
_JOINED = re.compile(
    rf"(?:\d\s*(?:(?:{'|'.join(map(re.escape, _UNITS))})s?)?\s*"  # 2:3, 5 or 6, 1 hour and 30 minutes
    r"(?:[^\w\s=\u2248\u2192]+|\\(?:times|cdot|div|pm))?\s*(?:\b(?:and|or|to|of|out\s+of|by|plus|minus|times|x)\b)?"
    r"|[\^_<>\u2260\u2264\u2265\u00b1]|!=|(?<!\A)-|\\(?:neq?|leq?|geq?|lt|gt|pm)"
    r"|(?:sqrt|log|ln|minus|negative)|\b(?:than|at\s+least|at\s+most|anything\s+but|except|instead\s+of|without|unlike))"
    r"[\s({\[]*\Z",
    re.I,
)
"""Before a number that is a part of something, a bound, or named to be left out."""
_GOES_ON = re.compile(r"\s*(?:[\^*/+!]|\\[a-z]|per\b|(?:(?:is|was|are)\s+)?(?:not|wrong|incorrect|false)\b)", re.I)
_CONVERTED = {"length", "mass", "duration", "volume"}


@dataclass(frozen=True)
class Quantity:
    """A number with what it counts.

    Args:
        number: as it was written; a whole one is an ``int``, of which no digit is lost.
        value: in base units.
        kind: ``length``, ..., or the unit's own name; empty without one.
        whole: it was written as a whole number, without a unit that converts.
        formula: what stands behind it is no unit, as in ``3x``.
        of: what it is said to be of, such as the ``x`` of ``x = 3``.
    """

    number: float
    value: float
    kind: str = ""
    whole: bool = False
    formula: bool = False
    of: str = ""


def straight(text: str) -> str:
    """Letters that mean the same made the same: full-width and plain, all kinds of minus; ``x\u00b2`` as ``x^2``.

    Example:
        >>> straight("\u22125 m\u00b2, 3\u00bd")
        '-5 m^2, 3 1/2'
    """
    text = _VULGAR.sub(" ", _RAISED.sub(lambda raised: f"^{raised[0]}", text))
    return unicodedata.normalize("NFKC", text).translate(_SAME)


def tidy(text: str) -> str:
    r"""A text on one line without LaTeX around words and formulas, Markdown, calculators and hedges.

    Example:
        >>> tidy(r"**about** 5, \(\text{B}\) or $\dfrac12$"), tidy("about \\$5")
        ('5, B or \\frac{1}{2}', '$5')
    """
    text = straight(text)
    if text.count("$") > 1 or "\\$" in text:  # LaTeX's, not dollars
        text = text.replace("\\$", "\0").replace("$", "").replace("\0", "$")
    for pattern, new in _TIDY:
        text = pattern.sub(new, text)
    return " ".join(text.split())


def trimmed(text: str) -> str:
    """Without punctuation around it. A factorial is none, and .5 is not 5.

    Example:
        >>> trimmed("Five!"), trimmed("5!"), trimmed(", .5.")
        ('Five', '5!', '.5')
    """
    body = text.rstrip(" .,;:!?'")
    factorial = text[len(body) :].startswith("!") and re.search(r"[\d)]\Z|\b[a-z]\Z", body[-2:])
    return (f"{body}!" if factorial else body).lstrip(" ,;:!?'") or text


def denied(before: str) -> bool:
    """Whether what stands before a word denies it, as in ``it is not`` or ``I do not think it is``."""
    return bool(_DENIED.search(before[-80:]))


def quantity(text: str, anywhere: bool = False) -> Quantity | None:
    """The number that a text is, with its unit; with ``anywhere`` the last one in it, unless that is denied or a part
    of something more, such as a list, a range, a ratio or a formula.

    Example:
        >>> quantity("1,200 m").value, quantity("3/4").value, quantity("three dogs").number, quantity("2 of 3")
        (1200, 0.75, 3, None)
    """
    text = trimmed(_FRACTION.sub(_plain_fraction, tidy(text))).rstrip(" =")
    left = _LEFT.search(text)
    if anywhere:
        match = next(iter(list(_QUANTITY.finditer(text))[-1:]), None)
    else:
        text = text[left.end() :] if left and not left.start() else text
        text = _SPELT.sub(lambda word: str(_WORDS.split("|").index(word[1].lower())), text)
        match = _QUANTITY.fullmatch(re.sub(r"\A(\S+) \(\1\)", r"\1", text))  # 5 (five)
    if match is None:
        return None
    before = text[: match.start()][-80:]
    if anywhere and (denied(before) or _JOINED.search(before) or _GOES_ON.match(text, match.end())):
        return None
    return _read(match, left[1] or "" if left else "")


def _plain_fraction(match: re.Match[str]) -> str:
    fraction = f"{match['above']}/{match['below']}"
    return f"{match['before']} {fraction}" if match["before"] else fraction


def _read(match: re.Match[str], of: str) -> Quantity | None:
    """A match as numbers; None where that is none, such as 1/0, or one that no float holds."""
    digits = re.split(r"\s*(?:x|\*|\\times)", match["number"], flags=re.IGNORECASE)[0].replace(",", "")
    below = float(match["below"] or 1)
    number = float(f"{digits}e{match['ten']}" if match["ten"] else digits) / below if below else math.inf
    if match["units"]:
        number = float(match["units"]) + math.copysign(number, -1.0 if match["units"].startswith("-") else 1.0)
    whole = digits.lstrip("+-").isdecimal() and not match["below"]
    if whole and math.isfinite(number) and not match["ten"]:
        number = int(digits)
    number *= _TIMES[match["times"].strip().lower()] if match["times"] else 1
    kind, factor = _unit((match["money"] or match["unit"] or "").replace(" ", ""))
    value = number if factor == 1 else number * factor
    if not math.isfinite(value):
        return None
    apart = match["unit"] and match.string[match.start("unit") - 1] == " "
    unit = not kind or _KNOWN.fullmatch(kind) or (apart and _COUNTED.fullmatch(kind) and not _FACTOR.fullmatch(kind))
    whole = whole and factor == 1 and re.split(r"[/^]", kind)[0] not in _CONVERTED
    return Quantity(number, value, kind, whole, not unit, of)


def _unit(name: str) -> tuple[str, float]:
    """What a unit measures and how many of its base unit it is; M is not m, nor Mg mg, but CM is cm."""
    if "/" in name:
        (above, many), (below, few) = map(_unit, name.split("/"))
        return f"{above}/{below}", many / few
    name = name if re.match(r"(?:[A-KM-Z]|M[gls])(?![A-Za-z])|Mm", name) else name.lower()
    base, power = (name[:-1].removesuffix("^"), int(name[-1])) if name[-1:] in ("2", "3") else (name, 1)
    base = base if base in _UNITS else base.removesuffix("s")
    if base not in _UNITS:
        return name.removesuffix("s"), 1.0
    kind, factor = _UNITS[base]
    return (f"{kind}^{power}" if power > 1 else kind), factor**power


def same_quantity(given: Quantity, truth: Quantity, tolerance: float) -> bool:
    """Of equal kind; or one without a unit, which is then the other's; a share may also be given in percent.

    Args:
        given: the answer's.
        truth: the true one.
        tolerance: relative. A whole number without a unit has to be hit.
    """
    if given.of and truth.of and given.of != truth.of:
        return False
    pairs = []
    if given.kind == truth.kind:
        pairs = [(given.value, truth.value)]
    elif not ((given.kind and truth.kind) or given.formula or truth.formula):
        pairs = [(given.number, truth.number)]
    if {given.kind, truth.kind} == {"percent", ""}:
        shares = [each.value / (100 if each.kind else 1) for each in (given, truth)]
        pairs.append((shares[0], shares[1]))
    allowed = 0.0 if truth.whole else tolerance
    slack = 0.0 if given.whole and truth.whole else allowed + 1e-9
    return any(abs(a - b) <= slack * abs(b) for a, b in pairs)
