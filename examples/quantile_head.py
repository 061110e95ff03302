"""A reward head of your own, in a file of your own.

Put the folder of this file on PYTHONPATH and name the class in YAML::

    head:
      class_path: quantile_head.QuantileHead
      init_args: {num_quantiles: 5}
"""

from __future__ import annotations

from torch import Tensor, nn

from lit_basereward.nn.heads import RewardHead


class QuantileHead(RewardHead):
    """Predict quantiles, return their mean.

    Args:
        hidden_size: width of the backbone's states.
        num_quantiles: how many.
    """

    def __init__(self, hidden_size: int, num_quantiles: int = 9) -> None:
        super().__init__(hidden_size)
        self.proj = nn.Linear(hidden_size, num_quantiles)

    def forward(self, states: Tensor) -> Tensor:
        return self.proj(states).mean(-1)
