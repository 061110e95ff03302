"""Who votes on which rows."""

from __future__ import annotations

import pytest

from lit_basereward.data.routing import Route, When, check_routes, voters

NAMES = ["a", "b", "c"]


def test_first_route_that_fits_decides():
    """Rows with images go to a and b, hard text to c, text of two sources to a, all else to all."""
    routes = [
        Route(["b", "a"], When(modality="image")),
        Route(["c"], When(category="hard")),
        Route(["a"], When(modality="text", source=["x", "y"])),
    ]

    def who(modality, category="", source=""):
        return voters(routes, NAMES, modality, category, source)

    assert who("image") == [0, 1] and who("image", "hard", "x") == [0, 1]
    assert who("text", "hard", "x") == [2] and who("text", "easy", "y") == [0]
    assert who("text", "easy", "z") == [0, 1, 2]


def test_a_route_for_all_rows():
    """A route that asks nothing fits every row; no routes are all members."""
    assert voters([Route(["b"])], NAMES, "image", "hard", "x") == [1]
    assert voters([], NAMES, "text", "", "") == [0, 1, 2]


def test_unknown_and_no_members_are_refused():
    """The route's number, and who is there."""
    with pytest.raises(ValueError, match=r"route 2 names the member 'd'.*accepted: a, b, c"):
        check_routes([Route(["a"]), Route(["d"])], NAMES)
    with pytest.raises(ValueError, match="route 1 names no members"):
        check_routes([Route([])], NAMES)


def test_unknown_modality_is_refused():
    """It would fit no row, without a word."""
    with pytest.raises(ValueError, match="modality is 'images'; accepted: text, image"):
        When(modality="images")
