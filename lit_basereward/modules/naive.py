"""Naive-RM: one forward pass, a head on the state of the last token (paper, section 3.1)."""

from __future__ import annotations

import copy
import warnings
from typing import Literal

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.ensemble.evidence import members_by_row
from lit_basereward.losses import BradleyTerry, RankingLoss, Regularizer, step_weight
from lit_basereward.modules.base import OptimizerFactory, RewardModule, ScheduleFactory
from lit_basereward.modules.schedule import WarmupCosine
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import HeadFactory, MLPHead
from lit_basereward.nn.reward_model import RewardModel


class NaiveRM(RewardModule):
    """Scores a response by a head on the backbone's state at its end-of-turn token, trained with Bradley-Terry alone.

    Args:
        backbone: which model to start from and which of its parts train.
        head: factory from hidden size to reward head. Two layers with SiLU between them are best in the paper's
            Table 2.
        loss: ranking loss over the comparisons of a row.
        regularizers: terms added to the loss. None, as in the paper's final model (Figure 1).
        pair_weighting: every comparison counts the same (``pair``; the paper trains on listed pairs), or every row
            (``row``).
        layout: ``shared`` computes each prompt and image once for all its responses, exactly; ``padded`` computes
            every response from the start. Backbones that the shared layout does not fit fall back, with a line.
        train_too_long: rows over ``backbone.max_length`` in training are an ``error``, or left out and counted
            (``drop``).
        score_too_long: the same in evaluation and prediction; ``cut`` takes tokens from the end of the response,
            keeps its end of turn, and marks it.
        optimizer: factory from parameters to an optimizer. AdamW at 3e-6 is the paper's rate; weight decay 0 is our
            choice.
        schedule: factory from optimizer and number of steps to a schedule, stepped once per optimizer step.
        head_lr: learning rate of the reward head where it shall differ from the backbone's.
        init_from: start from the weights of another reward model: a checkpoint of ours, or a folder with the
            ``score.weight`` or ``value_head.safetensors`` of other trainers. Unlike resuming, training starts anew.
        allow_bf16_weights: permit precision bf16-true with a trainable backbone, whose weights then lose most of
            every small update.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: HeadFactory = MLPHead,
        loss: RankingLoss = BradleyTerry(),  # noqa: B008
        regularizers: list[Regularizer] = [],  # noqa: B006
        pair_weighting: Literal["pair", "row"] = "pair",
        layout: Literal["shared", "padded"] = "shared",
        train_too_long: Literal["error", "drop"] = "error",
        score_too_long: Literal["error", "drop", "cut"] = "error",
        optimizer: OptimizerFactory = lambda parameters: torch.optim.AdamW(parameters, lr=3e-6, weight_decay=0.0),
        schedule: ScheduleFactory = WarmupCosine,
        head_lr: float | None = None,
        init_from: str | None = None,
        allow_bf16_weights: bool = False,
    ) -> None:
        super().__init__(
            backbone,
            layout,
            train_too_long,
            score_too_long,
            optimizer,
            schedule,
            head_lr,
            init_from,
            allow_bf16_weights,
        )
        with warnings.catch_warnings():  # modules among them become their recipes when saved
            warnings.simplefilter("ignore")
            self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.head, self.regularizers = head, regularizers
        self.ranking_loss = copy.deepcopy(loss)  # the default is one object for all modules
        self.pair_weighting = pair_weighting

    def network(self, weights: bool) -> RewardModel:
        """Backbone without its language head, and the reward head."""
        base = self.backbone.load(weights=weights)
        return RewardModel(base, self.head(base.config.get_text_config().hidden_size))

    def collator(self, training: bool) -> Collator:
        """Prompt as prefix, each response as one branch."""
        return Collator(self.backbone.processor(), **self._collation(training))

    def score(self, batch: Batch) -> Tensor:
        """Rewards [N] of all responses, float32, in log-odds units."""
        assert self.model is not None, "call configure_model() first"
        self.cost.forwards += len(batch.row)
        rewards = self.model(batch.inputs, batch.layout)
        each = self.model.head.each
        if each is not None and not self.training:
            names = [f"head {n}" for n in range(1, len(each) + 1)]
            self.evidence = members_by_row(each.detach(), batch.row, names)
        return rewards

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Bradley-Terry and regularizers, each weighted so that a step's micro-batches add up to the step's mean."""
        rewards = self.score(batch)
        total = self.ranking(rewards, batch)
        return total, {"rewards": rewards.detach(), "share": total.detach()}

    def ranking(self, rewards: Tensor, batch: Batch) -> Tensor:
        """Ranking loss and regularizers: this micro-batch's share of the step's; of several heads the mean of theirs.

        Args:
            rewards: [N] of the last forward pass.
            batch: whose ratings say what they should be.
        """
        assert self.model is not None
        total = 0.0 * rewards.sum()  # a batch without comparisons still reaches every parameter
        head = self.model.head
        each, head.each = head.each, None  # used up: it would keep the graph, and a module with a graph has no copy
        if each is None:
            return total + self._terms(rewards, batch)
        return total + torch.stack([self._terms(own, batch) for own in each]).mean()

    def _terms(self, rewards: Tensor, batch: Batch) -> Tensor:
        """Ranking loss and regularizers of one head's rewards [N]."""
        total = torch.zeros((), device=rewards.device)
        for term in (self.ranking_loss, *self.regularizers):
            losses, row = term(rewards, batch)
            over = term.over if isinstance(term, Regularizer) else "comparisons"
            total = total + (step_weight(row, batch, self.pair_weighting, over) * losses).sum()
        return total

    @property
    def uses_ties(self) -> bool:
        """True with a regularizer over ties."""
        return any(regularizer.over == "ties" for regularizer in self.regularizers)
