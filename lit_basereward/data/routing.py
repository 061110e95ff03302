"""Which members of an ensemble vote on which rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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

    def names(self, category: str, source: str) -> bool:
        """True for the category and the source of a row that is asked for, whatever its modality."""
        return _among(category, self.category) and _among(source, self.source)

    def __str__(self) -> str:
        asked = {key: value for key, value in vars(self).items() if value is not None}
        return ", ".join(f"{key} {value}" for key, value in asked.items()) or "all rows"


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
        return self.when.modality in (None, modality) and self.when.names(category, source)


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


def check_used(routes: Sequence[Route], rows: Collection[tuple[str, str]]) -> None:
    """Refuse routes for a category or a source that there is not. Rows of a modality may be missing.

    Args:
        routes: in their order.
        rows: category and source of each.

    Raises:
        ValueError: naming the route, and the categories and sources that there are.
    """
    for number, route in enumerate(routes, 1):
        if not any(route.when.names(category, source) for category, source in rows):
            there = [", ".join(sorted({each[i] for each in rows if each[i]})) or "none" for i in (0, 1)]
            raise ValueError(
                f"route {number} ({route.when}) fits no row; there are the categories: {there[0]}; and the sources: "
                f"{there[1]}"
            )


def unknown_sources(routes: Sequence[Route], names: Sequence[str]) -> list[str]:
    """A sentence for each route whose sources are none of these."""
    return [
        f"route {number} is for the source {route.when.source}, and the sources here are {', '.join(names)}"
        for number, route in enumerate(routes, 1)
        if not any(_among(name, route.when.source) for name in names)
    ]


def unused(routes: Sequence[Route], names: Sequence[str], used: Sequence[bool]) -> list[str]:
    """A sentence for each route that decided on no row, and for each member that voted on none.

    Args:
        routes: in their order.
        names: of the members.
        used: whether each route did, then whether each member did.
    """
    told = [f"route {number} ({route.when}) decided on none of the rows" for number, route in enumerate(routes, 1)]
    told += [f"member {name} votes on none of the rows" for name in names]
    return [each for each, was in zip(told, used, strict=True) if not was]


def _among(value: str, wanted: str | list[str] | None) -> bool:
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)
