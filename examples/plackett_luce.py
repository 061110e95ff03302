"""A ranking loss of your own, in a file of your own.

Put the folder of this file on PYTHONPATH and name the class in YAML::

    loss:
      class_path: plackett_luce.PlackettLuce
    pair_weighting: row  # K - 1 losses a row: a mean over rows
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.losses import RankingLoss


class PlackettLuce(RankingLoss):
    """Negative log likelihood of each row's ranking: the best is drawn first, then the best of the rest, and so on.

    Every response that beats another gives one loss, ``logsumexp(rewards of those not better) - its reward``, which
    makes K - 1 for K different ratings and Bradley-Terry for K = 2. Tied responses stay in each other's sum (Breslow's
    rule for ties); the worst, which beat nobody, give no loss; unrated ones are left out.
    """

    def forward(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """One loss per response that beats another of its row."""
        same_row = batch.row[:, None] == batch.row  # [N, N]
        not_better = same_row & (batch.ratings <= batch.ratings[:, None])  # false for NaN
        beats = same_row & (batch.ratings < batch.ratings[:, None])
        winner = beats.any(1).nonzero().flatten()
        rest = torch.where(not_better[winner], rewards, -torch.inf).logsumexp(1)
        return rest - rewards[winner], batch.row[winner]
