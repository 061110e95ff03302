"""A head outside the package, as a user would write it."""

import torch
from torch import nn

from lit_basereward import RewardHead


class UserHead(RewardHead):
    """One linear layer."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.proj = nn.Linear(hidden_size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.proj(states).squeeze(-1)
