"""A backbone with its language head: it reads rewards or verdicts, and learns and writes text.

Shape legend: N responses or branches, T tokens whose likelihood counts, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_basereward.losses.language import chunked_cross_entropy
from lit_basereward.nn.generation import Generated, generate
from lit_basereward.nn.heads import RewardHead
from lit_basereward.nn.layout import Layout, Movable
from lit_basereward.nn.reward_model import RewardModel


@dataclass
class Targets(Movable):
    """The tokens that a language-model loss is over.

    Args:
        position: [T] position, in the flattened sequence, of the token whose state predicts each of them.
        token: [T] their ids.
        branch: [T] their branches, as in ``layout.pooled``.
    """

    position: Tensor
    token: Tensor
    branch: Tensor


class LanguageRewardModel(RewardModel):
    """Backbone, reward head and the backbone's own language head as one network.

    Args:
        language_model: of transformers, with its language head.
        head: reads what is scored off the state of each branch's pooled token.

    Attributes:
        lm_head: from states to the logits of the next token; often tied to the embeddings.
    """

    def __init__(self, language_model: Any, head: RewardHead) -> None:
        super().__init__(language_model.base_model, head)
        self.lm_head: nn.Module = language_model.get_output_embeddings()
        self._language_model = (language_model,)  # a tuple, since its parts are here already under names of their own

    @property
    def generator(self) -> Any:
        """The transformers model that shares all weights with this one; it has ``generate``."""
        return self._language_model[0]

    def forward(  # type: ignore[override]  # returns more than its base
        self, inputs: dict[str, Tensor], layout: Layout, targets: Targets | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the head reads, and how well the targets are predicted, from one pass.

        Args:
            inputs: see :class:`RewardModel`.
            layout: which tokens are what.
            targets: tokens of a language-model loss. The language head runs on the states that predict them alone.

        Returns:
            [N] rewards or verdicts, float32, in log-odds units; and [T] cross-entropies in nats, float32.
        """
        states, unused = self.states(inputs, layout)
        read = self.head(states[layout.pooled]) + unused
        if targets is None:
            if torch.is_grad_enabled() and self.lm_head.weight.requires_grad:  # other ranks may have targets
                read = read + 0.0 * self.lm_head(states[:1]).float().sum()
            return read, read.new_zeros(0)
        losses = chunked_cross_entropy(states[targets.position], self.lm_head.weight, targets.token)  # type: ignore[arg-type]
        return read, losses

    def generate(self, inputs: dict[str, Tensor], layout: Layout, **options: Any) -> Generated:
        """:func:`lit_basereward.nn.generation.generate`; sharded weights are gathered for it as for ``forward``."""
        return generate(self, inputs, layout, **options)


def mean_per_branch(losses: Tensor, targets: Targets, num_branches: int) -> Tensor:
    """Mean over the targets of each branch, [num_branches]; 0 where a branch has none.

    Args:
        losses: [T]
        targets: say which branch each of them is of.
        num_branches: of the batch.
    """
    zeros = losses.new_zeros(num_branches)
    tokens = zeros.index_add(0, targets.branch, torch.ones_like(losses))
    return zeros.index_add(0, targets.branch, losses) / tokens.clamp(min=1)


class VerdictHead(RewardHead):
    """Log-odds of one token over another as the next one, off the language head, in float32. It has no parameters.

    Args:
        language_model: whose language head is read.
        first: id of the token that says the first response is better.
        second: id of the token that says the second is.
    """

    def __init__(self, language_model: Any, first: int, second: int) -> None:
        lm_head = language_model.get_output_embeddings()
        super().__init__(lm_head.weight.shape[1])
        self.first, self.second = first, second
        self._lm_head = (lm_head,)  # a tuple, since it is a part of the network already

    def forward(self, states: Tensor) -> Tensor:
        """Difference of the two logits.

        Args:
            states: [N, H]

        Returns:
            [N] log-odds that the first of two responses is better.
        """
        weight = self._lm_head[0].weight[[self.first, self.second]].float()  # [2, H]
        first, second = F.linear(states, weight).unbind(-1)
        return first - second
