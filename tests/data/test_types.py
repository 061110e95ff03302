"""The row type refuses what does not fit together, and knows its comparisons."""

from __future__ import annotations

from typing import Any

import pytest

from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError

ASK = (Message("user", ("Why?",)),)


def row(**fields: Any) -> Preference:
    return Preference(**{"id": "r", "prompt": ASK, "responses": ("a", "b"), "where": "f.jsonl:7"} | fields)


def test_comparisons_are_the_strictly_ordered_pairs() -> None:
    """Ratings 2, 1, 2, NaN: better pairs are 0>1 and 2>1; 0 and 2 tie; NaN is in none."""
    rated = row(responses=("a", "b", "c", "d"), ratings=(2.0, 1.0, 2.0, float("nan")))
    assert rated.comparisons() == [(0, 1), (2, 1)]
    assert rated.ties() == [(0, 2)]


def test_an_unlabelled_row_has_no_comparison_and_no_tie() -> None:
    assert row().comparisons() == row().ties() == []
    assert row(responses=("a",), ratings=(1.0,)).comparisons() == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"responses": ()}, "has no response"),
        ({"ratings": (1.0,)}, "2 responses but 1 ratings"),
        ({"critiques": ("x", "y", "z")}, "2 responses but 3 critiques"),
        ({"finished": (True,)}, "2 responses but 1 finished"),
        ({"ratings": (1.0, float("inf"))}, "infinite rating"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"weight": float("nan")}, "weight nan"),
        ({"prompt": ()}, "does not end in a user turn"),
        ({"prompt": (*ASK, Message("assistant", ("So.",)))}, "does not end in a user turn"),
        ({"images": (ImageRef(path="a.png"),)}, "1 images but 0 image placeholders"),
        ({"prompt": (Message("user", (ImagePart(), "Why?")),)}, "0 images but 1 image placeholders"),
    ],
)
def test_parts_that_do_not_fit_name_the_row(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=rf"^f\.jsonl:7 .*{message}"):
        row(**fields)


def test_a_row_without_a_place_is_named_by_its_id() -> None:
    with pytest.raises(RowError, match=r"^row 'r' has no response"):
        row(responses=(), where="")


def test_a_nan_rating_is_allowed_and_unrated() -> None:
    assert row(ratings=(1.0, float("nan"))).comparisons() == []
