"""What a judge decided, read out of what it wrote."""

from __future__ import annotations

import re

from lit_basereward.data.types import Preference

_OPEN, _CLOSE = "<answer>", "</answer>"
_ALONE = re.compile(r"(?<!\w)(?<!\d[.,])[12](?!\w|[.,]\d)")


def parse_verdict(text: str) -> int | None:
    """Which of two responses a text calls the better one: 1, 2, or None where it does not say.

    After R1-Reward's scripts: the answer tag, or else the last 1 or 2 of the text. Where these are silent: our choice.

    ==============================================  =======  =========================================================
    text                                            verdict  rule
    ==============================================  =======  =========================================================
    ``<think>...</think><answer>2</answer>``        2        the tag holds 1 or 2, spaces and line breaks aside
    ``... <answer>2``                               2        the tag may be open at the end: a stop string ended it
    ``<answer>1</answer> ... <answer>2</answer>``   2        of several answers the last one counts: earlier ones quote
                                                             the instructions, or were thought over
    ``<answer>1</answer> No, 2.``                   1        a tag counts more than what stands around it
    ``<answer>3</answer>``, ``<answer></answer>``,  None     a tag with anything else is no verdict, whatever the rest
    ``<answer>Answer 2</answer>``                            of the text says
    ``Answer 1 is wrong. I prefer 2.``              2        no tag: the last 1 or 2 that stands alone
    ``Answer 12``, ``0.1``, ``1.5``, ``2nd``        None     no tag: a digit of a longer number or word does not stand
                                                             alone
    ``Both are good.``, the empty text              None     no tag and no digit
    ==============================================  =======  =========================================================
    """
    place = verdict_place(text)
    return None if place is None else int(text[place])


def verdict_place(text: str) -> int | None:
    """Position of the character that :func:`parse_verdict` reads; None where there is no verdict."""
    start = text.rfind(_OPEN)
    if start >= 0:
        start += len(_OPEN)
        answer = text[start:].partition(_CLOSE)[0]
        if answer.strip() not in ("1", "2"):
            return None
        return start + len(answer) - len(answer.lstrip())
    found = list(_ALONE.finditer(text))
    return found[-1].start() if found else None


def judgement_fault(row: Preference) -> str:
    """Why a row's judgement cannot be learnt from, in the words of tables; empty if it can."""
    if not row.judgement.strip():
        return "no judgement"
    verdict = parse_verdict(row.judgement)
    if verdict is None:
        return "no verdict in the judgement"
    if len(row.responses) < 2:
        return "one response"
    first, second = row.ratings[:2] or (float("nan"),) * 2
    if not (first < second or first > second):
        return "no better one of the first two responses"
    return "" if (verdict == 1) == (first > second) else "judgement against the ratings"
