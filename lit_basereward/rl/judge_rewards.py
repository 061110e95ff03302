"""What a judge's completion is worth: is the verdict right, is the form kept, does the reasoning agree with the answer.

The functions are pure: of a completion and the verdict that the ratings give. The reward is R1-Reward's (arXiv
2505.02835): ``result * (1 + 0.5 * consistency) + 0.5 * format``. There another model says whether reasoning and answer
agree. Here a rule on the last lines of the reasoning does, which costs nothing and knows English only (our choice).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_basereward.data.verdict import parse_verdict
from lit_basereward.rl.reward import Reward
from lit_basereward.rl.task import Sample

LINES = 3
"""Lines at the end of the reasoning, blank ones left out, in which it may say what it favours (our choice)."""

_FORM = re.compile(r"\s*<think>(?P<reasoning>.*?)</think>\s*<answer>\s*[12]\s*</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")

_NOUN = r"(?:responses?|answers?|candidates?|options?|models?|assistants?|repl(?:y|ies))"
# A bare number names a response as a subject only where a clause begins: "Step 1: wrong" is not about response 1.
_BEFORE = (*".,;:!?", "and", "but", "so", "that", "while", "thus")
_CLAUSE = "|".join([r"(?<![^\n])", *(f"(?<={re.escape(word)} )" for word in _BEFORE)])


def _who(bare: str) -> str:
    """Pattern of a response as judges call it: "Response 1", "the second answer", "the latter", or its number."""
    one, two = (
        rf"{_NOUN}\s*[#(]?\s*(?:{number})\b|(?:{place})\b(?:\s+{_NOUN}|\s+one)?|{bare}{number[0]}\b"
        for number, place in (("1|one", "first|former"), ("2|two", "second|latter"))
    )
    return rf"(?<![\w.])(?:(?P<one>{one})|(?P<two>{two}))[)\]]?"


_SUBJECT, _OBJECT = _who(f"(?:{_CLAUSE})"), _who("")
_IS = r"\s*(?:(?:is|was|seems|appears|remains|looks)\s+(?P<negated>not\s+)?|:\s*)"
_ADVERBS = (
    r"(?:(?:the|a|an|much|far|clearly|slightly|somewhat|overall|therefore|thus|also|generally|significantly|to be|"
    r"considered|marginally|definitely)\s+)*?"
)
_VIRTUES = (
    r"(?:accurate|correct|complete|detailed|helpful|precise|relevant|faithful|informative|comprehensive|convincing|"
    r"reliable|thorough|appropriate|consistent|truthful|specific|clear|concise|useful)"
)
_MORE = rf"better|best|superior|stronger|prefer(?:able|red)|winner|more\s+{_VIRTUES}"
_LESS = rf"worse|worst|inferior|weaker|less\s+{_VIRTUES}"
_RIGHT = r"right|correct|accurate|true"
_WRONG = r"wrong|incorrect|inaccurate|false|mistaken"
_CHOICE = (
    rf"(?:(?:better|best|superior|preferred|stronger|winning|final|my)\s+(?:{_NOUN}|one|choice|option|verdict)|winner|"
    r"verdict)"
)
_WINS = r"(?:clearly\s+)?(?:wins|outperforms|beats|surpasses|should be (?:preferred|chosen))"
_PREFER = r"(?:prefer|choose|pick|select|favou?r|go with|opt for|vote for)s?"

# What compares, and what says of one response alone whether it is right. A pattern without the groups `good` and `bad`
# favours the response that it names.
_COMPARES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_SUBJECT}{_IS}{_ADVERBS}(?:(?P<good>{_MORE})|(?P<bad>{_LESS}))\b",
        rf"\bfinds?\s+(?:the\s+)?{_OBJECT}\s+(?:to be\s+)?{_ADVERBS}(?:(?P<good>{_MORE})|(?P<bad>{_LESS}))\b",
        rf"{_SUBJECT}\s+{_WINS}\b",
        rf"\b{_PREFER}\s+(?:the\s+)?{_OBJECT}",
        rf"\b{_CHOICE}\s*(?:is|:)\s*{_ADVERBS}{_OBJECT}",
    )
)
_ASSESSES = (re.compile(rf"{_SUBJECT}{_IS}{_ADVERBS}(?:(?P<good>{_RIGHT})|(?P<bad>{_WRONG}))\b"),)


def result(completion: str, answer: str) -> float:
    """1 where the verdict is ``answer``, else 0; one that cannot be parsed is wrong (R1-Reward's rule).

    Args:
        completion: what the judge wrote.
        answer: ``1`` or ``2``, the better response.
    """
    return float(str(parse_verdict(completion)) == answer)


def format_kept(completion: str) -> float:
    """1 for ``<think>reasoning</think><answer>1|2</answer>`` and nothing beside it, each tag once, else 0.

    White space around the parts is free; reasoning that is blank does not count (our choice).
    """
    found = _FORM.fullmatch(completion)
    return float(found is not None and bool(found["reasoning"].strip()) and len(_TAG.findall(completion)) == 4)


def reasoning(completion: str) -> str:
    """What stands in ``<think>``; without these tags, what stands before the last ``<answer>``."""
    inside = re.search(r"<think>(.*?)(?:</think>|<answer>|\Z)", completion, re.DOTALL)
    return inside[1] if inside else completion.rpartition("<answer>")[0]


def favoured(text: str) -> int | None:
    """The response that the last lines of a reasoning favour: 1, 2, or None where that is unclear.

    What compares (``Response 2 is better``, ``I prefer the first``, ``Winner: 2``) decides, the last of it. Without
    any, what is said of single responses (``1: right``, ``Response 2 is incorrect``) decides where all of it points to
    one of them. ``not`` turns a statement round. All of this is our choice.
    """
    lines = [line for line in re.sub(r"[*_`\"]", "", text.lower()).splitlines() if line.strip()]
    end = "\n".join(lines[-LINES:])
    if compared := _statements(_COMPARES, end):
        return compared[-1]
    assessed = set(_statements(_ASSESSES, end))
    return assessed.pop() if len(assessed) == 1 else None


def consistency(completion: str) -> float:
    """1 where reasoning and verdict favour the same response, -1 where not, 0 where either is unclear."""
    verdict, reasoned = parse_verdict(completion), favoured(reasoning(completion))
    if verdict is None or reasoned is None:
        return 0.0
    return 1.0 if verdict == reasoned else -1.0


class JudgeReward(Reward):
    """The reward of R1-Reward's reinforcement: ``result * (1 + c * consistency) + f * format``.

    Its parts are drawn beside it: ``accuracy`` (of the verdicts), ``format``, ``consistency``, and ``says_first``, the
    share of verdicts for the response that is shown first: far from a half, the judge has learned the position.

    Args:
        consistency_weight: c.
        format_weight: f.
    """

    def __init__(self, consistency_weight: float = 0.5, format_weight: float = 0.5) -> None:
        self.consistency_weight, self.format_weight = consistency_weight, format_weight

    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """``answer`` of the samples is ``1`` or ``2``."""
        results = [result(text, sample.answer) for text, sample in zip(completions, samples, strict=True)]
        formats, agreements = ([rule(text) for text in completions] for rule in (format_kept, consistency))
        return {
            "reward": [
                r * (1 + self.consistency_weight * c) + self.format_weight * f
                for r, c, f in zip(results, agreements, formats, strict=True)
            ],
            "accuracy": results,
            "format": formats,
            "consistency": agreements,
            "says_first": [float(parse_verdict(text) == 1) for text in completions],
        }


def _statements(patterns: Sequence[re.Pattern[str]], text: str) -> list[int]:
    """The response that each statement favours, in the order of the text."""
    found = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            groups = match.groupdict()
            against = (groups.get("bad") is not None) != (groups.get("negated") is not None)
            found.append((match.end(), 1 if (groups["one"] is not None) != against else 2))
    return [response for _, response in sorted(found)]
