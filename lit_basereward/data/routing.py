"""Which members of an ensemble vote on which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Modality = Literal["text", "image"]


@dataclass
class When:
    """What rows a route is for; what is left out is not asked.

    Args:
        modality: ``text`` for rows without images, ``image`` for others (the frames of a video are images).
        category: category of the row, or a list of them.
        source: name of the row's source, or a list of them.
    """

    modality: Modality | None = None
    category: str | list[str] | None = None
    source: str | list[str] | None = None

    def __post_init__(self) -> None:
        if self.modality not in (None, *get_args(Modality)):
            raise ValueError(f"modality is {self.modality!r}; accepted: {', '.join(get_args(Modality))}, or none")


@dataclass
class Route:
    """Members that vote on some of the rows.

    Args:
        members: their names.
        when: the rows; left out, all of them.
    """

    members: list[str]
    when: When = field(default_factory=When)

    def fits(self, modality: Modality, category: str, source: str) -> bool:
        """True for a row that this route is for."""
        when = self.when
        return when.modality in (None, modality) and _among(category, when.category) and _among(source, when.source)


def voters(routes: Sequence[Route], names: Sequence[str], modality: Modality, category: str, source: str) -> list[int]:
    """Positions of the members that vote on a row: those of the first route that fits it, and all where none does.

    Args:
        routes: in their order.
        names: of all members.
        modality: of the row.
        category: of the row.
        source: of the row.
    """
    for route in routes:
        if route.fits(modality, category, source):
            return [m for m, name in enumerate(names) if name in route.members]
    return list(range(len(names)))


def check_routes(routes: Sequence[Route], names: Sequence[str]) -> None:
    """Refuse routes without members, or with unknown ones.

    Raises:
        ValueError: naming what is wrong and what is accepted.
    """
    for number, route in enumerate(routes, 1):
        unknown = [name for name in route.members if name not in names]
        if unknown or not route.members:
            what = f"the member {unknown[0]!r}, which is not there" if unknown else "no members"
            raise ValueError(f"route {number} names {what}; accepted: {', '.join(names)}")


def _among(value: str, wanted: str | list[str] | None) -> bool:
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)
