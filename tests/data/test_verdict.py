"""What a judge's text says, in every case of the docstring's table and some beside them."""

from __future__ import annotations

import pytest

from lit_basereward.data.types import Message, Preference
from lit_basereward.data.verdict import judgement_fault, parse_verdict, verdict_place

CASES = [
    ("<think>1 has no cat, 2 has.</think><answer>2</answer>", 2),
    ("<answer> 1\n</answer>", 1),
    ("<think>2?</think><answer>1", 1),
    ("<answer>1</answer> or <answer>2</answer>", 2),
    ("I write <answer>1 or 2</answer>, so <answer>1</answer>", 1),
    ("<answer>1</answer> No, 2.", 1),
    ("1 <answer>3</answer> 2", None),
    ("2 <answer></answer>", None),
    ("1 <answer>", None),
    ("<answer>Answer 2</answer>", None),
    ("<answer>12</answer>", None),
    ("<answer>1</answer> then <answer>both</answer>", None),
    ("Answer 1 is wrong. I prefer 2.", 2),
    ("The better response: [1]", 1),
    ("**2**, not 1, not 12", 1),
    ("Better:2", 2),
    ("the end.2", 2),
    ("Answer 12", None),
    ("0.1 and 1.5 and 2,000", None),
    ("1st and 2nd", None),
    ("Both are good.", None),
    ("", None),
]


@pytest.mark.parametrize("text, verdict", CASES)
def test_every_case(text, verdict):
    """The verdict, and the character that is read."""
    assert parse_verdict(text) == verdict
    place = verdict_place(text)
    assert (place is None) == (verdict is None)
    assert place is None or text[place] == str(verdict)


def test_the_place_is_inside_the_tag():
    """By counting: `2 <answer> ` has 11 characters, and the last answer is read, not the digits around it."""
    assert verdict_place("2 <answer> 2 </answer> 2") == 11
    assert verdict_place("2 or 1") == 5


@pytest.mark.parametrize(
    "judgement, ratings, fault",
    [
        ("<answer>1</answer>", (1.0, 0.0), ""),
        ("<answer>2</answer>", (1.0, 2.0, 0.0), ""),
        ("<answer>2</answer>", (1.0, 0.0), "judgement against the ratings"),
        (" \n", (1.0, 0.0), "no judgement"),
        ("<answer>3</answer>", (1.0, 0.0), "no verdict in the judgement"),
        ("<answer>1</answer>", (1.0, 1.0, 0.0), "no better one of the first two responses"),
        ("<answer>1</answer>", (float("nan"), 1.0), "no better one of the first two responses"),
        ("<answer>1</answer>", (), "no better one of the first two responses"),
        ("<answer>1</answer>", (1.0,), "one response"),
    ],
)
def test_judgements_to_learn_from(judgement, ratings, fault):
    """Only those that name the better of the first two responses."""
    responses = tuple("abc"[: len(ratings) or 2])
    row = Preference("r", (Message("user", ("q",)),), responses, ratings, judgement=judgement)
    assert judgement_fault(row) == fault
