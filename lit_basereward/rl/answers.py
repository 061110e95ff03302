"""Is a completion's answer right? Find the answer in what was written, then compare it with the true one.

Rules, and all of them our choice: the paper says "1 on a match" and no more. Nothing here is executed or evaluated:
numbers are read by pattern, and formulas, where asked for, by math-verify's grammar of LaTeX.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Form = Literal["any", "boxed", "tagged"]
LONGEST = 300
"""Characters of an answer that are compared as a formula (our choice): a long one may take its parser minutes."""

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_SAID = re.compile(r"\banswer(?:\s+is\b(?:\s*:)?|\s*[:=])\s*(?=\S)", re.IGNORECASE)
_COPULA = re.compile(r".*\b(?:is|are|was|were|equals?|shows?)\b:?\s+(.+)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An answer as it was found.

    Args:
        text: its words.
        marked: whether it was written down as the answer; else it is the last line, which may say more.
    """

    text: str
    marked: bool


def extract(completion: str, form: Form = "any") -> Answer | None:
    r"""The answer in a completion: the last ``\boxed{}``, else the last ``<answer>``, else what follows the last
    "answer is" or "Answer:", else the last line. Thoughts are left out: all up to the last ``</think>``.

    Args:
        completion: what was written.
        form: accept one place only.

    Returns:
        None where there is none, as in thoughts that never end.
    """
    _, ended, text = completion.rpartition("</think>")
    if not ended and "<think>" in text:
        return None
    found = None
    if form in ("any", "boxed"):
        found = _last_boxed(text)
    if found is None and form in ("any", "tagged"):
        found = next(iter(_TAGGED.findall(text)[-1:]), None)
        if found is not None:  # <answer>\boxed{4}</answer> was found above, <answer>The answer is 4.</answer> is here
            found = _said(found) or found
    if found is None and form == "any":
        found = _said(text)
    if found is not None:
        return Answer(found.strip(), marked=True)
    lines = text.strip().splitlines()
    return Answer(lines[-1].strip(), marked=False) if form == "any" and lines else None


def _said(text: str) -> str | None:
    """What follows the last "answer is" on its line."""
    starts = [match.end() for match in _SAID.finditer(text)]
    return text[starts[-1] :].splitlines()[0] if starts else None


def _last_boxed(text: str) -> str | None:
    """What the last box holds, braces in it counted; a box that never closes is none."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)]):
        depth = 1
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            if not depth:
                return text[start:end]
    return None


def matches(
    given: Answer, truth: str, options: Mapping[str, str] | None = None, tolerance: float = 1e-3, maths: bool = False
) -> bool:
    """Whether an answer is the true one: as text, as a choice, as a number with its unit, or as a formula.

    Args:
        given: the answer.
        truth: the true one, such as ``four``, ``B``, ``(B) a cat``, ``3.5 cm`` or ``\\frac{1}{2}``.
        options: texts of the choices by their letters, of :func:`options_of`.
        tolerance: relative, for numbers. A whole number without a unit has to be hit.
        maths: compare as formulas, too, which needs math-verify.
    """
    truth = truth.strip()
    if plain(given.text) == plain(truth):
        return True
    if choice := _TRUE_CHOICE.fullmatch(truth):
        return _same_choice(given, choice[1] or choice[2], choice[3] or "", options or {})
    # "The digit is four." is "four", either way round; never both cut: "the cat is red" is not "the dog is red".
    if plain(given.text) == plain(_bare(truth)) or plain(_bare(given.text)) == plain(truth):
        return True
    if (wanted := quantity(truth)) and (found := quantity(given.text, anywhere=not given.marked)):
        if _same_quantity(found, wanted, tolerance):
            return True
        if quantity(given.text):
            return False  # two plain numbers
    return maths and same_formula(given.text, truth)


# ------------------------------------------------------------------------------------------------------------- text
def _bare(text: str) -> str:
    """What follows the last verb such as "is"."""
    return _COPULA.sub(r"\1", text)


_MARKUP = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")


def plain(text: str) -> str:
    """Words without markup, case, a leading article, and punctuation around them.

    Example:
        >>> plain("**The cat.**"), plain("$\\\\text{cat}$")
        ('cat', 'cat')
    """
    text = _MARKUP.sub(r"\1", unicodedata.normalize("NFKC", text))
    text = " ".join(re.sub(r"[*_`$\"]", "", text).casefold().split()).strip(" .,;:!?'")
    return re.sub(r"^(?:an?|the) (?=.)", "", text)


# ---------------------------------------------------------------------------------------------------------- choices
_TRUE_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?=[.):]|\Z))[.):]?(?:\s+(\S.*))?", re.DOTALL)
_CHOSEN = re.compile(r"[\s*$]*(?:(?:option|choice)\s+)?(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[.):*]|[\s$]*\Z))")
_NAMED = re.compile(r"\b(?:option|choice)\s+\(?([A-J])\b")
_OPTION = re.compile(r"^\s*\(?([A-J])[.):]\s*(\S.*?)\s*$", re.MULTILINE)


def options_of(prompt: str) -> dict[str, str]:
    """Texts of the choices of a question, by letter: lines such as ``A. a cat`` or ``(B) a dog``."""
    return dict(_OPTION.findall(prompt))


def _same_choice(given: Answer, letter: str, text: str, options: Mapping[str, str]) -> bool:
    """The letter decides where there is one; an option's text alone does, too."""
    bare = given.text if given.marked else _bare(given.text)
    chosen = _CHOSEN.match(given.text) or _CHOSEN.match(bare)
    named = _NAMED.findall(given.text)
    if chosen or named:
        return (chosen[1] or chosen[2] if chosen else named[-1]).upper() == letter
    return plain(bare) in {plain(each) for each in (text, options.get(letter, "")) if each}


# ---------------------------------------------------------------------------------------------------------- numbers
_POWER = r"e[-+]?\d+|\s*(?:x|\*|\\times)\s*10\^\{?(?P<ten>[-+]?\d+)\}?"
_NUMBER = rf"[-+]?(?:(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?|\.\d+)(?:{_POWER})?"
_QUANTITY = re.compile(
    rf"(?P<money>[$\u20ac\u00a3])?\s*(?<![\w.])(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?"
    r"(?:\s*(?P<unit>%|\\%|percent\b|°\s?[CF]?|[^\W\d_]+(?:/[^\W\d_]+)?(?:\^?[23]\b)?))?",
    re.IGNORECASE,
)
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


@dataclass(frozen=True)
class Quantity:
    """A number with what it counts.

    Args:
        value: in base units.
        kind: ``length``, ..., or the unit's own name; empty without one.
        whole: it was written as a whole number, without a unit that converts.
    """

    value: float
    kind: str
    whole: bool


def quantity(text: str, anywhere: bool = False) -> Quantity | None:
    """The number that a text is, with its unit; with ``anywhere`` the last one in it.

    Example:
        >>> quantity("1,200 m"), quantity("3/4").value, quantity("2 of 3")
        (Quantity(value=1200.0, kind='length', whole=False), 0.75, None)
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    text = re.sub(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}", r"\1/\2", _MARKUP.sub(r" \1", text)).strip()
    if text.count("$") > 1 or "\\$" in text:  # LaTeX's, not dollars
        text = text.replace("\\$", "\0").replace("$", "").replace("\0", "$")
    text = re.sub(r"\*\*|[`~]", "", text).strip(" .,;:!?=")
    found = list(_QUANTITY.finditer(text)) if anywhere else [_QUANTITY.fullmatch(text)]
    if not found or found[-1] is None:
        return None
    match = found[-1]
    digits = re.split(r"\s*(?:x|\*|\\times)", match["number"], flags=re.IGNORECASE)[0].replace(",", "")
    value, below = float(digits) * 10.0 ** float(match["ten"] or 0), float(match["below"] or 1)
    if not below:
        return None
    kind, factor = _unit((match["money"] or match["unit"] or "").lower().replace(" ", ""))
    whole = digits.lstrip("+-").isdecimal() and not match["below"] and factor == 1 and kind not in _MEASURED
    return Quantity(value / below * factor, kind, whole)


_MEASURED = {"length", "mass", "time", "volume", "speed"}


def _unit(name: str) -> tuple[str, float]:
    power = {"2": 2, "3": 3}.get(name[-1:], 1)
    base = name.rstrip("23^") if power > 1 else name
    base = base if base in _UNITS else base.removesuffix("s")
    kind, factor = _UNITS.get(base, (base, 1.0))
    return (f"{kind}^{power}" if power > 1 else kind), factor**power


def _same_quantity(given: Quantity, truth: Quantity, tolerance: float) -> bool:
    """Of equal kind, or one without a unit; a share may also be given in percent."""
    pairs = [(given.value, truth.value)] if given.kind == truth.kind or not (given.kind and truth.kind) else []
    if {given.kind, truth.kind} == {"percent", ""}:
        shares = [each.value / (100 if each.kind else 1) for each in (given, truth)]
        pairs.append((shares[0], shares[1]))
    allowed = 0.0 if truth.whole else tolerance
    return any(abs(a - b) <= (allowed + 1e-9) * abs(b) for a, b in pairs)


# --------------------------------------------------------------------------------------------------------- formulas
def same_formula(given: str, truth: str) -> bool:
    """Whether two formulas in LaTeX are equal, by math-verify; words are none.

    Raises:
        ValueError: if it is not installed.
    """
    check_formulas()
    from math_verify import LatexExtractionConfig, parse, verify

    if max(len(given), len(truth)) > LONGEST or not all(re.search(r"\d|\\|[a-z]\^|=", text) for text in (given, truth)):
        return False
    # It stops itself by an alarm, which only the main thread can set.
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    read = [
        # without its grammar of plain expressions, which evaluates them
        parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=seconds)
        for text in (text.strip(" $.") for text in (truth, given))
    ]
    return bool(all(read) and verify(*read, timeout_seconds=seconds))


def check_formulas() -> None:
    """Raise ``ValueError`` where math-verify is not installed."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        raise ValueError('maths needs math-verify: pip install "lit_basereward[rl]", or set maths: false') from error
