"""Is a completion's answer right? Find the answer in what was written, then compare it with the true one.

Rules, and all of them our choice: the paper says "1 on a match" and no more. Nothing here is executed or evaluated:
numbers are read by pattern, and formulas, where asked for, by math-verify's grammar of LaTeX.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lit_basereward.rl.quantities import MARKUP, denied, quantity, same_quantity, straight

Form = Literal["any", "boxed", "tagged"]
LONGEST = 300
"""Characters of an answer that are compared as a formula (our choice): a long one may take its parser minutes."""

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\[{}]|\\\\(?=[{}])|[{}]")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_SAID = re.compile(r"\banswer(?:\s+is\b(?:\s*:)?|\s*[:=])\s*(?=\S)", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|are|was|were|equals?|shows?)\b:?\s+(?=\S)", re.IGNORECASE)


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
    _, _, text = completion.rpartition("</think>")
    if "<think>" in text:
        return None
    found = None
    if form in ("any", "boxed"):
        found = _last_boxed(text)
    if found is None and form in ("any", "tagged"):
        found = _last_tagged(text)
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


def _last_tagged(text: str) -> str | None:
    """What the last ``<answer>`` with an end to it holds."""
    found, start = None, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()], None
    return found


def _last_boxed(text: str) -> str | None:
    """What the last box holds, braces in it counted; a box that never closes is none."""
    last: tuple[int, int] | None = None
    opened: list[int | None] = []  # where each box that is open begins; None for another brace
    for brace in _BRACE.finditer(text):
        if brace["box"] or brace[0] == "{":
            opened.append(brace.end() if brace["box"] else None)
        elif brace[0] == "}" and opened:
            start = opened.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, brace.start())
    return text[slice(*last)] if last else None


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
    if plain(truth) in ("yes", "no") and (said := _YES_NO.match(plain(given.text))):  # "Yes, it is."
        return said[1] == plain(truth)
    if choice := _TRUE_CHOICE.fullmatch(truth):
        return _same_choice(given, choice[1] or choice[2], choice[3] or "", options or {})
    # "The digit is four." is "four", either way round; never both cut: "the cat is red" is not "the dog is red".
    if plain(given.text) == plain(_bare(truth)) or plain(_bare(given.text)) == plain(truth):
        return True
    if (wanted := quantity(truth)) and (found := quantity(given.text, anywhere=not given.marked)):
        if same_quantity(found, wanted, tolerance):
            return True
        if quantity(given.text):
            return False  # two plain numbers
    return maths and same_formula(given.text, truth)


# ------------------------------------------------------------------------------------------------------------- text
def _bare(text: str) -> str:
    """What follows the last verb such as "is", unless that is denied."""
    verb = next(iter(list(_COPULA.finditer(text))[-1:]), None)
    return text if verb is None or denied(text[: verb.start()]) else text[verb.end() :]


_YES_NO = re.compile(r"(yes|no)(?=[,.;:!]|\Z)")


def plain(text: str) -> str:
    """Words without markup, case, a leading article, and punctuation around them.

    Example:
        >>> plain("**The cat.**"), plain("$\\\\text{cat}$")
        ('cat', 'cat')
    """
    text = MARKUP.sub(r"\1", straight(text))
    text = " ".join(re.sub(r"[`$\"]|(?<!\w)[*_]+|[*_]+(?!\w)", "", text).casefold().split())
    text = text.rstrip(" .,;:!?'").lstrip(" ,;:!?'")  # .5 is not 5
    return re.sub(r"^(?:an?|the) (?=.)", "", text)


# ---------------------------------------------------------------------------------------------------------- choices
_TRUE_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?=[.):]|\Z))[.):]?(?:\s+(\S.*))?", re.DOTALL)
_CHOSEN = re.compile(
    r"[\s*$]*(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[.):*]|[\s$]*\Z)|([A-J])(?=\s+(?:because|since)\b))"
)
_NAMED = re.compile(r"\b(?:option|choice)\s+\(?([A-J])\b|\b([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|answer)\b")
_UNDONE = re.compile(
    r"(?:(?:and|or)\s+)?(?:\([A-J]\)|[A-J](?=[.):,]|\s*\Z|\s+(?:and|or)\b))|(?:is|was)\s+(?:not|wrong|incorrect|false)\b"
)
_OPTION = re.compile(r"\s*\(?([A-J])[.):]\s*(\S.*)")


def options_of(prompt: str) -> dict[str, str]:
    """Texts of the choices of a question, by letter: lines such as ``A. a cat`` or ``(B) a dog``."""
    found = (_OPTION.match(line.rstrip()) for line in prompt.splitlines())
    return {option[1]: option[2] for option in found if option}


def _same_choice(given: Answer, letter: str, text: str, options: Mapping[str, str]) -> bool:
    """The letter decides where there is one; an option's text alone does, too."""
    texts = {plain(each) for each in (text, options.get(letter, "")) if each}
    said = MARKUP.sub(r"\1", given.text)
    bare = said if given.marked else _bare(said)
    if chosen := _CHOSEN.match(said) or _CHOSEN.match(bare):
        own = next(filter(None, chosen.groups())).upper()
        rest = chosen.string[chosen.end() :].lstrip(" .):*,/")
        return own == letter and (plain(rest) in texts or not _UNDONE.match(rest))
    if named := list(_NAMED.finditer(said)):
        *others, last = [match[1] or match[2] for match in named]
        hedged = others[-1:] not in ([], [last]) and re.search(r"\bor\b", said[named[-2].end() : named[-1].start()])
        return last == letter and not hedged and not denied(said[: named[-1].start()])
    return plain(bare) in texts


# --------------------------------------------------------------------------------------------------------- formulas
_FORMULA = re.compile(r"\d|\\|[a-z]\^|=")
_ENDLESS = re.compile(r"\^\s*\{?-?\d{4}|\^\s*\{[^{}]*\^|\d{3}\s*!|!\s*\)*\s*!|\\(?:sum|prod|int|binom)(?![a-z])")


def same_formula(given: str, truth: str) -> bool:
    """Whether two formulas in LaTeX are equal, by math-verify; words are none.

    It evaluates what it reads, and ``9^{9^{9}}`` would take for ever: such powers, large factorials, sums, products,
    integrals and binomials are not compared, and whatever else takes longer than 5 seconds is not equal (our choice).

    Raises:
        ValueError: if it is not installed, or this is not the main thread, in which alone it can be stopped.
    """
    check_formulas()
    from math_verify import LatexExtractionConfig, parse, verify

    if any(len(each) > LONGEST or not _FORMULA.search(each) or _ENDLESS.search(each) for each in (given, truth)):
        return False
    read = [
        # without its grammar of plain expressions, which evaluates them
        parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=5)
        for text in (text.strip(" $.") for text in (truth, given))
    ]
    return bool(all(read) and verify(*read, timeout_seconds=5))


def check_formulas() -> None:
    """Raise ``ValueError`` where math-verify is not installed or cannot be stopped."""
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            "maths: formulas are compared in the main thread alone, since nothing can stop an endless one in another; "
            "call the reward there, or set maths: false"
        )
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        raise ValueError('maths needs math-verify: pip install "lit_basereward[rl]", or set maths: false') from error
