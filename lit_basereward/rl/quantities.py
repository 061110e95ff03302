"""Numbers with their units in an answer: read by pattern, nothing is evaluated. All rules are our choice.

Patterns here and in :mod:`lit_basereward.rl.answers` take time in proportion to the text: completions are long, and a
policy that is lost writes one word a thousand times.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

MARKUP = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
"""LaTeX around words."""
_DENIED = re.compile(
    r"(?:\b(?:not|no|never|nor|neither|cannot|nothing|none|doubt|impossible|unlikely|false|wrong|if|whether)\b|n['\u2019]t\b)"
    r"(?:\s+(?!(?:but|and)\b)\w+){0,3}\s*\Z",
    re.I,
)

_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u207a\u207b]+")
_VULGAR = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_SAME = str.maketrans({"\u2044": "/"} | dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"))

_POWER = r"e[-+]?\d+|\s*(?:x|\*|\\times)\s*10\^\{?(?P<ten>[-+]?\d+)\}?"
_NUMBER = rf"[-+]?(?:(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?|\.\d+)(?:{_POWER})?"
_QUANTITY = re.compile(
    r"(?:(?P<money>[$\u20ac\u00a3])\s*)?(?<![\w.])(?:(?P<units>[-+]?\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?"
    r"(?P<times>k\b|\s*(?:hundred|thousand|million|billion|trillion|dozen)\b)?"
    r"(?:\s*(?P<unit>%|\\%|percent\b|°\s?[CF]?|[^\W\d_]+(?:/[^\W\d_]+)?(?:\^?[23]\b)?))?",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"(?P<before>\d)?\\[dt]?frac\s*\{(?P<above>-?\d+)\}\s*\{(?P<below>\d+)\}")
_UNITS = {
    **{name: ("length", 0.001) for name in ("mm", "millimeter", "millimetre")},
    **{name: ("length", 0.01) for name in ("cm", "centimeter", "centimetre")},
    **{name: ("length", 1.0) for name in ("m", "meter", "metre")},
    **{name: ("length", 1000.0) for name in ("km", "kilometer", "kilometre")},
    **{name: ("length", 0.0254) for name in ("inch", "inches")},
    **{name: ("length", 0.3048) for name in ("ft", "foot", "feet")},
    **{name: ("length", 1609.344) for name in ("mi", "mile")},
    **{name: ("mass", 0.001) for name in ("g", "gram")},
    **{name: ("mass", 1e-6) for name in ("mg", "milligram")},
    **{name: ("mass", 1.0) for name in ("kg", "kilogram")},
    **{name: ("time", 0.001) for name in ("ms", "millisecond")},
    **{name: ("time", 1.0) for name in ("s", "sec", "second")},
    **{name: ("time", 60.0) for name in ("min", "minute")},
    **{name: ("time", 3600.0) for name in ("h", "hr", "hour")},
    **{name: ("volume", 0.001) for name in ("ml", "milliliter", "millilitre")},
    **{name: ("volume", 1.0) for name in ("l", "liter", "litre")},
    **{name: ("speed", 1.0) for name in ("m/s",)},
    **{name: ("speed", 1 / 3.6) for name in ("km/h", "kmh", "kph")},
    **{name: ("angle", 1.0) for name in ("°", "degree", "deg")},
    **{name: ("percent", 1.0) for name in ("%", "\\%", "percent")},
    **{name: ("dollar", 1.0) for name in ("$", "dollar", "usd")},
    **{name: ("euro", 1.0) for name in ("\u20ac", "euro", "eur")},
    **{name: ("pound", 1.0) for name in ("\u00a3", "gbp")},
}
"""What a unit measures, and how many of its base unit it is. Names that are not here are a unit each."""
_TIMES = {"k": 1e3, "dozen": 12, "hundred": 100, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_VARIABLES = {"x", "y", "z", "n", "pi", "\u03c0"}
"""What stands behind a factor rather than a number."""
_JOINED = re.compile(
    rf"(?:\d\s*(?:(?:{'|'.join(map(re.escape, _UNITS))})s?)?\s*"  # 2:3, 5 or 6, 1 hour and 30 minutes
    r"(?:[^\w\s=\u2248\u2192]+|\\(?:times|cdot|div|pm))?\s*(?:\b(?:and|or|to|of|out\s+of|by|plus|minus|times|x)\b)?"
    r"|[\^_<>\u2260\u2264\u2265\u00b1]|!=|(?<!\A)-|\\(?:neq?|leq?|geq?|lt|gt|pm)"
    r"|(?:sqrt|log|ln|minus|negative)|\b(?:than|at\s+least|at\s+most|anything\s+but|except|instead\s+of|without|unlike))"
    r"[\s({\[]*\Z",
    re.I,
)
"""Before a number that is a part of something, a bound, or named to be left out."""
_GOES_ON = re.compile(r"\s*(?:[\^*/+]|\\[a-z]|per\b|(?:(?:is|was|are)\s+)?(?:not|wrong|incorrect|false)\b)", re.I)
_MEASURED = {"length", "mass", "time", "volume", "speed"}


@dataclass(frozen=True)
class Quantity:
    """A number with what it counts.

    Args:
        number: as it was written.
        value: in base units.
        kind: ``length``, ..., or the unit's own name; empty without one.
        whole: it was written as a whole number, without a unit that converts.
    """

    number: float
    value: float
    kind: str
    whole: bool


def straight(text: str) -> str:
    """Letters that mean the same made the same: full-width and plain, all kinds of minus; ``x\u00b2`` as ``x^2``.

    Example:
        >>> straight("\u22125 m\u00b2, 3\u00bd")
        '-5 m^2, 3 1/2'
    """
    text = _VULGAR.sub(" ", _RAISED.sub(lambda raised: f"^{raised[0]}", text))
    return unicodedata.normalize("NFKC", text).translate(_SAME)


def denied(before: str) -> bool:
    """Whether what stands before a word denies it, as in ``it is not`` or ``I do not think it is``."""
    return bool(_DENIED.search(before[-80:]))


def quantity(text: str, anywhere: bool = False) -> Quantity | None:
    """The number that a text is, with its unit; with ``anywhere`` the last one in it, unless that is denied or a part
    of something more, such as a list, a range, a ratio or a formula.

    Example:
        >>> quantity("1,200 m"), quantity("3/4").value, quantity("2 of 3")
        (Quantity(number=1200.0, value=1200.0, kind='length', whole=False), 0.75, None)
    """
    text = _FRACTION.sub(_plain_fraction, MARKUP.sub(r" \1", straight(text))).strip()
    if text.count("$") > 1 or "\\$" in text:  # LaTeX's, not dollars
        text = text.replace("\\$", "\0").replace("$", "").replace("\0", "$")
    text = re.sub(r"\^(?:\{\\circ\}|\\circ\b)", "°", text)
    text = re.sub(r"\*\*|[`~]", "", re.sub(r"\\[,;:! ()\[\]]", " ", text)).rstrip(" .,;:!?=").lstrip(" ,;:")
    text = re.sub(r"\A(?:[a-z]\s*)?=\s*", "", text, flags=re.I)  # x = 3
    found = list(_QUANTITY.finditer(text)) if anywhere else [_QUANTITY.fullmatch(text)]
    match = found[-1] if found else None
    if match is None:
        return None
    before = text[: match.start()][-80:]
    if anywhere and (denied(before) or _JOINED.search(before) or _GOES_ON.match(text, match.end())):
        return None
    return _read(match)


def _plain_fraction(match: re.Match[str]) -> str:
    fraction = f"{match['above']}/{match['below']}"
    return f"{match['before']} {fraction}" if match["before"] else fraction


def _read(match: re.Match[str]) -> Quantity | None:
    """A match as numbers; None where that is none, such as 1/0, or one that no float holds."""
    digits = re.split(r"\s*(?:x|\*|\\times)", match["number"], flags=re.IGNORECASE)[0].replace(",", "")
    below = float(match["below"] or 1)
    number = float(f"{digits}e{match['ten']}" if match["ten"] else digits) / below if below else math.inf
    if match["units"]:
        number = float(match["units"]) + math.copysign(number, -1.0 if match["units"].startswith("-") else 1.0)
    number *= _TIMES[match["times"].strip().lower()] if match["times"] else 1
    kind, factor = _unit((match["money"] or match["unit"] or "").lower().replace(" ", ""))
    if not math.isfinite(number * factor):
        return None
    whole = digits.lstrip("+-").isdecimal() and not match["below"] and factor == 1 and kind not in _MEASURED
    return Quantity(number, number * factor, kind, whole)


def _unit(name: str) -> tuple[str, float]:
    power = {"2": 2, "3": 3}.get(name[-1:], 1)
    base = name.rstrip("23^") if power > 1 else name
    base = base if base in _UNITS else base.removesuffix("s")
    kind, factor = _UNITS.get(base, (base, 1.0))
    return (f"{kind}^{power}" if power > 1 else kind), factor**power


def same_quantity(given: Quantity, truth: Quantity, tolerance: float) -> bool:
    """Of equal kind; or one without a unit, which is then the other's; a share may also be given in percent.

    Args:
        given: the answer's.
        truth: the true one.
        tolerance: relative. A whole number without a unit has to be hit.
    """
    pairs = []
    if given.kind == truth.kind:
        pairs = [(given.value, truth.value)]
    elif not (given.kind and truth.kind) and given.kind not in _VARIABLES:
        pairs = [(given.number, truth.number)]
    if {given.kind, truth.kind} == {"percent", ""}:
        shares = [each.value / (100 if each.kind else 1) for each in (given, truth)]
        pairs.append((shares[0], shares[1]))
    allowed = 0.0 if truth.whole else tolerance
    return any(abs(a - b) <= (allowed + 1e-9) * abs(b) for a, b in pairs)
