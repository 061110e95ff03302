"""What is asked of a combiner's numbers and of an ensemble's members before anything is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_basereward.ensemble.combiners import Combiner


def check_takes(combiner: Combiner, comparable: Mapping[str, bool]) -> None:
    """Refuse members whose scores mean something inside their row only, where the combiner compares over rows.

    Args:
        combiner: of the ensemble.
        comparable: for each member by its name, True if its scores are comparable across rows.

    Raises:
        ValueError: naming the first such member.
    """
    judges = [name for name, each in comparable.items() if not each]
    if judges and not combiner.takes_judges:
        raise ValueError(
            f"scores of member {judges[0]!r} mean something inside their row only, and the combiner "
            f"{type(combiner).__name__} compares them across rows; take Mean, AccuracyWeighted or ConfidenceWeighted"
        )


def check_numbers(
    what: str, state: dict[str, float], fits: Callable[[float], bool] = lambda number: True, wanted: str = ""
) -> None:
    """Refuse fitted numbers that no fit gives, as may be written by hand; names the member."""
    for name, value in state.items():
        if not (math.isfinite(value) and fits(value)):
            raise ValueError(f"the {what} of member {name!r} is {value}; give a finite number {wanted}".rstrip())


def check_fitted(combiner: Combiner, state: dict[str, float], names: Sequence[str]) -> None:
    """Refuse a combiner without its fitted numbers, or with those of other members."""
    if not state:
        raise ValueError(
            f"the combiner {type(combiner).__name__} is to be fitted first: `python -m lit_basereward ensemble "
            "--fit_on HELD_OUT.jsonl` does it and writes the ensemble, and so do fit_on and fit_rewards of `report`; "
            "Mean needs no fitting"
        )
    if set(state) != set(names):
        raise ValueError(
            f"the combiner {type(combiner).__name__} was fitted for the members {', '.join(sorted(state))}, not for "
            f"{', '.join(sorted(names))}; fit it again"
        )
