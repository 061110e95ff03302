"""Terms that are added to a ranking loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from lit_basereward.losses import functional
from lit_basereward.losses.weighting import Pairs

if TYPE_CHECKING:
    from lit_basereward.data.batch import Batch


class Regularizer(nn.Module, ABC):
    """A term that is added to the ranking loss. Subclass it, set ``over`` and write ``forward``.

    Args:
        coefficient: factor on the term, >= 0.

    Attributes:
        over: the pairs whose mean is taken: ``comparisons`` (different ratings) or ``ties`` (equal ones).
    """

    over: ClassVar[Pairs]

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        if not coefficient >= 0:
            raise ValueError(f"{type(self).__name__}'s coefficient is {coefficient}; use a number >= 0")
        self.coefficient = coefficient

    @abstractmethod
    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Terms of a micro-batch, the coefficient included.

        Args:
            rewards: [N] float32, row-major.
            batch: its ``row`` and ``ratings`` say which pairs there are.

        Returns:
            [C] terms, one per pair of ``over``, and [C] the row of each.
        """

    def extra_repr(self) -> str:
        """Settings shown when printed."""
        return f"coefficient={self.coefficient}"


class ZeroCoefficient(Regularizer):
    """``coefficient * (r_better + r_worse)^2`` per comparison: keeps rewards around zero (paper, Figure 1).

    The same as TRL's and ms-swift's ``center_rewards_coefficient``. The paper's final model does without it: 0.001 to
    0.1 are all nominally worse than 0 there.

    Args:
        coefficient: the paper's lambda, >= 0.
    """

    over: ClassVar[Pairs] = "comparisons"

    def __init__(self, coefficient: float = 0.01) -> None:
        super().__init__(coefficient)

    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Regularizer`."""
        better, worse = functional.comparisons(batch.row, batch.ratings)
        return self.coefficient * (rewards[better] + rewards[worse]) ** 2, batch.row[better]


class TieSquared(Regularizer):
    """``coefficient * (r_i - r_j)^2`` per pair of equal rating: equally good responses get equal rewards.

    From MM-RLHF's code; not in the paper.

    Args:
        coefficient: factor on the term, >= 0.
    """

    over: ClassVar[Pairs] = "ties"

    def __init__(self, coefficient: float = 1.0) -> None:
        super().__init__(coefficient)

    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Regularizer`."""
        first, second = functional.ties(batch.row, batch.ratings)
        return self.coefficient * (rewards[first] - rewards[second]) ** 2, batch.row[first]
