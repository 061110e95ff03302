"""Is a completion's answer right? Find the answer in what was written, then compare it with the true one.

Rules, and all of them our choice: the paper says "1 on a match" and no more. Nothing here is executed or evaluated:
numbers are read by pattern, lists as literals, and formulas, where asked for, by math-verify's grammar of LaTeX.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lit_basereward.rl.quantities import denied, quantity, same_quantity, straight, tidy, trimmed

Form = Literal["any", "boxed", "tagged"]
LONGEST = 300
"""Characters of an answer that are compared as a formula (our choice): a long one may take its parser minutes."""
READ = 20_000
"""Characters at a completion's end in which its answer is looked for (our choice)."""

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\[{}]|\\\\(?=[{}])|[{}]")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_SAID = re.compile(r"\banswer(?:[\s*_]*[:=]|[\s*_]+is\b\s*:?)", re.IGNORECASE)
_COPULA = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|shows?|choose|pick|select|think|say)|\b(?:it|that)['\u2019]s)\b:?\s+(?=\S)", re.I
)
_REASON = re.compile(r"\s(?:because|since)\b.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """An answer as it was found.

    Args:
        text: its words.
        marked: whether it was written down as the answer; else it is the last line, which may say more.
        whole: then all lines, of which the first may name a choice.
    """

    text: str
    marked: bool
    whole: str = field(default="", compare=False)


def extract(completion: str, form: Form = "any") -> Answer | None:
    r"""The answer in a completion: the last ``\boxed{}``, else the last ``<answer>``, else a last line ``#### 72``,
    else what follows the last "answer is" or "Answer:", else the last line. Thoughts are left out: all up to the last
    ``</think>``.

    Args:
        completion: what was written; its last 20,000 characters are read.
        form: accept one place only.

    Returns:
        None where there is none, as in thoughts that never end.
    """
    _, _, text = completion.rpartition("</think>")
    if "<think>" in text:
        return None
    text = straight(text[-READ:])[-READ:].strip()  # which makes up to 18 characters of one
    found = _written(text, form)
    if found is None and form == "any":
        found = _said(text)
    if found is not None:
        return Answer(found.strip(), marked=True)
    lines = text.splitlines()
    last = next((line for line in reversed(lines) if plain(line)), None) if form == "any" else None
    return None if last is None else Answer(last.strip(), False, ". ".join(lines))


def truths(answer: str) -> list[str]:
    r"""The true answers that a data set's text holds: ``3`` of ``<answer> 3 </answer>``, of ``\boxed{3}`` and of a last
    line ``#### 3``; each text of a list such as ``["3", "three"]``, where any of them is right.

    Returns:
        none where nothing is left.
    """
    try:
        listed = ast.literal_eval(answer.strip()) if answer.lstrip().startswith("[") else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # no list, as [B] or [1, 2)
        listed = None
    if isinstance(listed, list) and any(isinstance(each, str) for each in listed):  # [1, 2] is an interval, or a point
        return [truth for each in listed for truth in truths(str(each))]
    found = _written(answer.strip())
    text = (answer if found is None else found).strip()
    return [text] if text else []


def _written(text: str, form: Form = "any") -> str | None:
    """What is in one of the places for an answer."""
    found = _last_boxed(text) if form in ("any", "boxed") else None
    if found is None and form in ("any", "tagged"):
        found = _last_tagged(text)
        if found is not None:  # <answer>\boxed{4}</answer> was found above, <answer>The answer is 4.</answer> is here
            found = _said(found) or found
    last = text[text.rfind("\n") + 1 :].lstrip()
    return last[4:] if found is None and form == "any" and last.startswith("####") else found


def _said(text: str) -> str | None:
    """What follows the last "answer is" that is not denied: the first line that has words."""
    ends = [said.end() for said in _SAID.finditer(text) if not denied(text[max(0, said.start() - 80) : said.start()])]
    return next((line for line in text[ends[-1] :].splitlines() if plain(line)), None) if ends else None


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
    wanted, said = plain(truth), _REASON.sub("", tidy(given.text))
    exact, found = quantity(truth), quantity(said)
    if exact and found and not exact.formula:
        return same_quantity(found, exact, tolerance)
    if plain(given.text) == wanted:
        return True
    if wanted in ("yes", "no") and (word := _YES_NO.match(plain(given.text))):  # "Yes, it is."
        return word[1] == wanted
    if choice := _TRUE_CHOICE.fullmatch(tidy(truth)):
        return _same_choice(given, choice[1] or choice[2], choice[3] or "", options or {})
    # "The digit is four." is "four", either way round; never both cut: "the cat is red" is not "the dog is red".
    if plain(_bare(tidy(truth))) == plain(said) or wanted in (plain(said), plain(_bare(said))):
        return True
    if not (found or given.marked):  # what is marked has to be the number, a line may say more
        found = quantity(_bare(said)) or quantity(said, anywhere=True)
    if exact and found and same_quantity(found, exact, tolerance):
        return True
    return maths and same_formula(given.text, truth)


# ------------------------------------------------------------------------------------------------------------- text
def _bare(text: str) -> str:
    """What follows the last verb such as "is", unless that is denied."""
    verb = next(iter(list(_COPULA.finditer(text))[-1:]), None)
    return text if verb is None or denied(text[: verb.start()]) else text[verb.end() :]


_YES_NO = re.compile(
    r"(yes|no)(?=[,.;:!]|\Z| -| (?:there|it|they|he|she|we|you|i|this|that|the)\b)"
    r"(?!.*\b(?!\1)(?:yes|no)(?:[,.;:!?]|\Z))"  # yes, but actually no
)


def plain(text: str) -> str:
    """Words without markup, case, a leading article, and punctuation around them.

    Example:
        >>> plain("**The cat.**"), plain("$\\\\text{cat}$"), plain("(1, 2)")
        ('cat', 'cat', '(1,2)')
    """
    text = re.sub(r"[$\"]|(?<![\w*])[*_]+|[*_]+(?![\w*])", "", tidy(text))
    text = re.sub(r" ?([,()<>=]) ?", r"\1", trimmed(text).casefold())
    return re.sub(r"^(?:an?|the) (?=.)", "", " ".join(text.split()))


# ---------------------------------------------------------------------------------------------------------- choices
_TRUE_CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?=[.):]|\Z))[.):]?(?:\s+(\S.*))?", re.DOTALL)
_CHOSEN = re.compile(
    r"[\s*$]*(?:[Oo]ption\s+|[Cc]hoice\s+)?"
    r"(?:\(([A-Ja-j])\)|([A-Ja-j])(?=[.):*]|[\s$]*\Z)|([A-HJ])(?=,|\s-\s|\s\())"  # (B), B. a dog, B - a dog
)
_NAMED = re.compile(r"\b(?:option|choice)\s+\(?([A-J])\b|\b([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|answer)\b")
_OTHER = re.compile(r"\(([A-J])\)|\b([A-J])(?=[.):,]|\s*\Z|\s+(?:and|or)\b)|\b(?:and|or)\s+([B-HJ])\b")
_UNDONE = re.compile(
    r"\A(?:is|was)\s+(?:not|false)\b"
    r"|\b(?:wrong|incorrect|wait|actually|not\s+(?:the\s+)?(?:right|correct|true|answer)|but\s+no)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\s*\(?([A-J])[.):]\s*(\S.*)")


def options_of(prompt: str) -> dict[str, str]:
    """Texts of the choices of a question, by letter: lines such as ``A. a cat`` or ``(B) a dog``."""
    found = (_OPTION.match(line.rstrip()) for line in prompt.splitlines())
    return {option[1]: option[2] for option in found if option}


def _same_choice(given: Answer, letter: str, text: str, options: Mapping[str, str]) -> bool:
    """The letter decides where there is one; an option's text alone does, too."""
    texts = {plain(each) for each in (text, options.get(letter, "")) if each}
    said = _REASON.sub("", tidy(given.text))
    bare = said if given.marked else _bare(said)
    if chosen := _CHOSEN.match(said) or _CHOSEN.match(bare):
        return _stands(chosen, letter, texts)
    if named := list(_NAMED.finditer(said)):
        *others, last = [match[1] or match[2] for match in named]
        hedged = others[-1:] not in ([], [last]) and re.search(r"\bor\b", said[named[-2].end() : named[-1].start()])
        return last == letter and not hedged and not denied(said[: named[-1].start()])
    if plain(bare) in texts or plain(bare) in map(plain, options.values()):
        return plain(bare) in texts
    first = _CHOSEN.match(tidy(given.whole))
    return bool(first and _stands(first, letter, texts))


def _stands(chosen: re.Match[str], letter: str, texts: set[str]) -> bool:
    """Whether a choice is this letter, and what follows names no other one and takes nothing back."""
    own = next(filter(None, chosen.groups())).upper()
    rest = chosen.string[chosen.end() :].lstrip(" .):*,/-")
    others = {next(filter(None, other.groups())) for other in _OTHER.finditer(rest)}
    return own == letter and (plain(rest) in texts or not (others - {own} or _UNDONE.search(rest)))


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
    if _brackets(given) != _brackets(truth):  # to math-verify 3, 4 is (3, 4)
        return False
    read = [
        # without its grammar of plain expressions, which evaluates them
        parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=5)
        for text in (straight(text).strip(" $.") for text in (truth, given))
    ]
    return bool(all(read) and verify(*read, timeout_seconds=5))


def _brackets(text: str) -> str:
    """What is around several values, if anything."""
    value = tidy(text).rpartition("=")[2].strip(" .")
    return re.sub(r"[^()\[\]]", "", value[:1] + value[-1:]) if "," in value else ""


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
