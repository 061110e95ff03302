"""From the scores of several reward models to one reward: pure functions of the members' scores and the rows.

Every combiner takes an ensemble of one for its member, and does not look at the order of the members: what is fitted is
kept by their names.

Shape legend: M members, N responses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from lit_basereward.ensemble.checks import check_fitted, check_numbers
from lit_basereward.ensemble.votes import Pairs, disagreement, held_out_margins, voted_on, weighted_mean


class Combiner(ABC):
    """Makes one reward of the members' scores. Subclass it, write ``combine``, and name the class in YAML.

    A dataclass, or a class that keeps its arguments under their own names, can be written with the ensemble. One that
    is fitted has ``fitted_on`` among them.
    """

    takes_judges: ClassVar[bool] = False
    """True if members may give scores that mean something inside their row only, as pairwise judges do: then nothing
    but differences inside a row may have a say in which response wins. The ensemble is such a model itself then."""
    fitted_on: dict[str, str] = {}
    """SHA-256 of the files that it was fitted on, by the source's name."""

    def __call__(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """Run :meth:`combine`, whose arguments these are, and look at what it gives.

        Raises:
            ValueError: if that is anything but a finite reward for each response.
        """
        rewards = self.combine(scores, row, names)
        if rewards.shape != row.shape or not bool(rewards.isfinite().all()):
            wrong = "NaN or infinity" if rewards.shape == row.shape else list(rewards.shape)
            raise ValueError(
                f"the combiner {type(self).__name__} gave {wrong} for {len(row)} responses, not a number for each"
            )
        return rewards.float()

    @abstractmethod
    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """The ensemble's rewards.

        Args:
            scores: [M, N] NaN where a member does not vote; at least one does, and the same ones on a whole row.
            row: [N] row of each response, ascending.
            names: of the members.

        Returns:
            [N] float32.

        Raises:
            ValueError: if it is to be fitted first, or was fitted for other members.
        """

    def fit(self, scores: Tensor, row: Tensor, pairs: Pairs, names: Sequence[str]) -> Self:
        """The same combiner, settled by held-out rows. Default: there is nothing to settle.

        Args:
            scores: [M, N] as in :meth:`combine`.
            row: [N] row of each response, ascending.
            pairs: ``(better, worse)``, [C] each: positions of the responses that are compared, inside rows.
            names: of the members.

        Raises:
            ValueError: if the rows do not settle it; names the member.
        """
        return self

    def check(self, names: Sequence[str]) -> None:  # noqa: B027 - most have nothing to check
        """Raise what :meth:`combine` would, before anything is scored.

        Args:
            names: of the members.
        """


@dataclass
class Mean(Combiner):
    """Mean of the raw rewards of those that vote: the paper's best, which needs no held-out rows (Table 7, *Avg*)."""

    takes_judges: ClassVar[bool] = True

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`Combiner`."""
        return weighted_mean(scores, torch.ones(len(scores))).float()


@dataclass
class _Weighted(Combiner):
    """Mean with a weight for each member, which those that vote on a row share out among them."""

    takes_judges: ClassVar[bool] = True

    weights: dict[str, float] = field(default_factory=dict)
    fitted_on: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers("weight", self.weights, lambda weight: weight >= 0, "from 0 on")

    def check(self, names: Sequence[str]) -> None:
        """See :class:`Combiner`."""
        check_fitted(self, self.weights, names)

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`Combiner`."""
        self.check(names)
        return weighted_mean(scores, torch.tensor([self.weights[name] for name in names])).float()

    def _normalised(self, weights: Sequence[float], names: Sequence[str]) -> Self:
        if not sum(weights) > 0:
            raise ValueError("no member is right about anything on the held-out rows; look at the members, or the rows")
        return replace(self, weights={name: w / sum(weights) for name, w in zip(names, weights, strict=True)})


@dataclass
class AccuracyWeighted(_Weighted):
    """Mean weighted by each member's accuracy on held-out pairs, ``acc_i / sum acc`` (paper, section 5.2).

    Args:
        weights: of each member by its name; left empty they are to be fitted.
        fitted_on: SHA-256 of the files that the weights are from, by the source's name.
    """

    def fit(self, scores: Tensor, row: Tensor, pairs: Pairs, names: Sequence[str]) -> Self:
        """See :class:`Combiner`. Ties are wrong."""
        found = [float((d > 0).double().mean()) for d in held_out_margins(scores, pairs, names)]
        return self._normalised(found, names)


@dataclass
class ConfidenceWeighted(_Weighted):
    """Mean weighted by each member's mean margin on held-out pairs, better less worse (paper, section 5.2).

    The margin is signed: confidence in what is wrong counts against a member. The scale of its rewards counts, too.

    Args:
        weights: of each member by its name; left empty they are to be fitted.
        fitted_on: SHA-256 of the files that the weights are from, by the source's name.
    """

    def fit(self, scores: Tensor, row: Tensor, pairs: Pairs, names: Sequence[str]) -> Self:
        """See :class:`Combiner`; a negative mean margin is an error."""
        found = [float(d.mean()) for d in held_out_margins(scores, pairs, names)]
        for name, margin in zip(names, found, strict=True):
            if margin < 0:
                raise ValueError(
                    f"member {name!r} has a mean margin of {margin:.3g} on the held-out rows: it is surer of worse "
                    "responses than of better ones, and no weight mends that; leave it out, or take another combiner"
                )
        return self._normalised(found, names)


@dataclass
class StandardisedMean(Combiner):
    """Mean of rewards in units of each member's own spread, so that none speaks louder than another.

    ``mean_m((r_m - mean_m) / std_m)`` over those that vote, then told on the members' common scale: times the mean
    of all ``std_m``, plus the mean of all ``mean_m`` (our choice; it moves no comparison and keeps log-odds).

    Args:
        means: mean reward of each member by its name; left empty they are to be fitted.
        stds: standard deviation of each member's rewards.
        fitted_on: SHA-256 of the files that they are from, by the source's name.
    """

    means: dict[str, float] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)
    fitted_on: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers("mean", self.means)
        check_numbers("standard deviation", self.stds, lambda std: std > 0, "above 0")

    def fit(self, scores: Tensor, row: Tensor, pairs: Pairs, names: Sequence[str]) -> Self:
        """See :class:`Combiner`. No rating is needed."""
        voted = voted_on(scores, names)
        stds = {name: float(v.std(correction=0)) for name, v in voted.items()}
        for name, std in stds.items():
            if not std > 0:
                raise ValueError(f"member {name!r} gives all held-out responses one reward; leave it out")
        return replace(self, means={name: float(v.mean()) for name, v in voted.items()}, stds=stds)

    def check(self, names: Sequence[str]) -> None:
        """See :class:`Combiner`."""
        check_fitted(self, self.stds, names)
        check_fitted(self, self.means, names)

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`Combiner`."""
        self.check(names)
        means, stds = (torch.tensor([each[n] for n in names], dtype=torch.float64) for each in (self.means, self.stds))
        standard = (scores.double().cpu() - means[:, None]) / stds[:, None]
        mean = weighted_mean(standard, torch.ones(len(names)))
        return (mean * stds.mean() + means.mean()).float().to(scores.device)


class _Pessimist(Combiner):
    """Takes the members' disagreement for a risk. Members' offsets, which pairs cannot fit, would be taken for it too.

    So where ``means`` are fitted each member's is taken off first, and their mean is put back at the end.
    """

    means: dict[str, float]

    def __post_init__(self) -> None:
        check_numbers("mean", self.means)

    def fit(self, scores: Tensor, row: Tensor, pairs: Pairs, names: Sequence[str]) -> Self:
        """See :class:`Combiner`. No rating is needed."""
        means = {name: float(voted.mean()) for name, voted in voted_on(scores, names).items()}
        return replace(self, means=means)  # type: ignore[type-var]  # a dataclass, as its subclasses are

    def check(self, names: Sequence[str]) -> None:
        """See :class:`Combiner`."""
        if self.means:
            check_fitted(self, self.means, names)

    def combine(self, scores: Tensor, row: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`Combiner`."""
        self.check(names)
        means = torch.tensor([self.means.get(name, 0.0) for name in names], dtype=torch.float64)
        return (self.worst(scores.double().cpu() - means[:, None]) + means.mean()).float().to(scores.device)

    @abstractmethod
    def worst(self, scores: Tensor) -> Tensor:
        """[N] of centred scores [M, N], float64."""


@dataclass
class Minimum(_Pessimist):
    """The least reward of those that vote: a response is as good as its sharpest critic says (Coste et al. 2023).

    Args:
        means: mean reward of each member by its name, which is taken off before; empty takes raw rewards.
        fitted_on: SHA-256 of the files that they are from, by the source's name.
    """

    means: dict[str, float] = field(default_factory=dict)
    fitted_on: dict[str, str] = field(default_factory=dict)

    def worst(self, scores: Tensor) -> Tensor:
        """The least."""
        return scores.nan_to_num(nan=torch.inf).amin(0)


@dataclass
class LowerConfidenceBound(_Pessimist):
    """Mean less ``k`` standard deviations of those that vote (population; one voter has none).

    Args:
        k: how many; at least 0, which is the mean.
        means: mean reward of each member by its name, which is taken off before; empty takes raw rewards.
        fitted_on: SHA-256 of the files that they are from, by the source's name.
    """

    k: float = 1.0
    means: dict[str, float] = field(default_factory=dict)
    fitted_on: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.k < math.inf:
            raise ValueError(f"k is {self.k}; it counts standard deviations below the mean, so use a number >= 0")

    def worst(self, scores: Tensor) -> Tensor:
        """The mean less ``k`` standard deviations."""
        return weighted_mean(scores, torch.ones(len(scores))) - self.k * disagreement(scores)


def check_fits(combiner: Combiner) -> None:
    """Refuse held-out rows for a combiner that they would leave as it is."""
    if type(combiner).fit is Combiner.fit:
        raise ValueError(f"the combiner {type(combiner).__name__} has nothing to fit; leave fit_on out")
