"""What a ranking loss is, and Bradley-Terry, the paper's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from lit_basereward.losses import functional

if TYPE_CHECKING:
    from lit_basereward.data.batch import Batch


class RankingLoss(nn.Module, ABC):
    """Turns rewards and ratings into losses. Subclass it, write ``forward``, and name the class in YAML.

    It does not average: the module weights every entry, so that the sum over all micro-batches of an optimizer step is
    the step's mean (:func:`lit_basereward.losses.step_weight`). It must not depend on the order of a row's responses.
    """

    @abstractmethod
    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses of a micro-batch.

        Args:
            rewards: [N] float32, row-major.
            batch: its ``row``, ``ratings`` and ``lengths`` say what the rewards should be.

        Returns:
            [C] losses and [C] the row of each. C is the number of comparisons, or what else the loss counts.
        """


class BradleyTerry(RankingLoss):
    """Bradley-Terry over all strictly ordered pairs of a row: ``-log sigmoid(r_better - r_worse)``.

    The defaults are the loss of the paper's final model. A row of K responses gives up to K (K - 1) / 2 losses.

    Args:
        margin: by how much the better reward must be ahead: a number >= 0, or ``gap``, the difference of the ratings.
        length_norm: divide rewards by ``log(tokens + 1)`` first. Part of the loss alone: scores stay as they are.
        label_smoothing: probability that a label is the wrong way round, 0 <= s < 0.5.

    Raises:
        ValueError: if ``margin`` or ``label_smoothing`` is out of range.
    """

    def __init__(
        self, margin: float | Literal["gap"] = 0.0, length_norm: bool = False, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if margin != "gap" and (isinstance(margin, str) or not 0 <= margin < math.inf):
            raise ValueError(f"margin is {margin!r}; use a number >= 0, or 'gap'")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {label_smoothing}; use 0 <= label_smoothing < 0.5")
        self.margin = margin
        self.length_norm = length_norm
        self.label_smoothing = label_smoothing

    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`RankingLoss`; one loss per comparison."""
        better, worse = functional.comparisons(batch.row, batch.ratings)
        if self.length_norm:
            rewards = functional.length_normalise(rewards, batch.lengths)
        margin = batch.ratings[better] - batch.ratings[worse] if isinstance(self.margin, str) else self.margin
        losses = functional.bradley_terry(rewards[better], rewards[worse], margin, self.label_smoothing)
        return losses, batch.row[better]

    def extra_repr(self) -> str:
        """Settings shown when printed."""
        return f"margin={self.margin}, length_norm={self.length_norm}, label_smoothing={self.label_smoothing}"
