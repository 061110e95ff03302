"""Naive-RM: one forward pass, a head on the state of the last token (paper, section 3.1)."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.losses import BradleyTerry, RankingLoss, Regularizer, step_weight
from lit_basereward.modules.base import OptimizerFactory, RewardModule, ScheduleFactory
from lit_basereward.modules.schedule import WarmupCosine
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import HeadFactory, MLPHead
from lit_basereward.nn.probe import choose_layout
from lit_basereward.nn.reward_model import FEATURES_PER_IMAGE, RewardModel


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
        super().__init__(backbone, optimizer, schedule, head_lr, allow_bf16_weights)
        with warnings.catch_warnings():  # modules among them become their recipes when saved
            warnings.simplefilter("ignore")
            self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.head, self.regularizers = head, regularizers
        self.ranking_loss = copy.deepcopy(loss)  # the default is one object for all modules
        self.pair_weighting, self.layout, self.init_from = pair_weighting, layout, init_from
        self.train_too_long, self.score_too_long = train_too_long, score_too_long
        self.model: RewardModel | None = None

    def configure_model(self, weights: bool = True) -> None:
        """Build the network once, in training mode.

        Args:
            weights: False where a checkpoint will bring them, so that they are not read twice.
        """
        if self.model is not None:
            return
        weights = weights and (self._trainer is None or self._trainer.ckpt_path is None)
        sharded = self.sharded
        with sharded.in_turn() if sharded else nullcontext():
            base = self.backbone.load(weights=weights)
            self.model = RewardModel(base, self.head(base.config.get_text_config().hidden_size))
            if self.init_from and weights:
                from lit_basereward.modules.init_from import init_from

                init_from(self.model, self.init_from)
                self.trained = True
            if sharded:
                sharded.shard(self.model)
        self.layout = choose_layout(self.model, self.layout, self._collator, rank_zero_info)
        self.model.train()

    def collator(self, training: bool) -> Collator:
        """Prompt as prefix, each response as one branch."""
        collator = self._collator(self.layout)
        collator.too_long = self.train_too_long if training else self.score_too_long
        return collator

    def _collator(self, layout: Literal["shared", "padded"]) -> Collator:
        assert self.model is not None
        return Collator(
            self.backbone.processor(),
            layout=layout,
            max_length=self.backbone.max_length,
            system_prompt=self.backbone.system_prompt,
            text_tokens=self.backbone.text_tokens,
            share_features=self.model.base.config.model_type in FEATURES_PER_IMAGE,
            dummy_image=self._trainer is not None and self._trainer.world_size > 1,
        )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Positions are computed while the batch is on the CPU."""
        assert self.model is not None
        if batch.layout.shared:
            batch.inputs = self.model.with_positions(batch.inputs, batch.layout)
        return batch

    def score(self, batch: Batch) -> Tensor:
        """Rewards [N] of all responses, float32, in log-odds units."""
        assert self.model is not None, "call configure_model() first"
        return self.model(batch.inputs, batch.layout)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Bradley-Terry and regularizers, each weighted so that a step's micro-batches add up to the step's mean."""
        rewards = self.score(batch)
        total = 0.0 * rewards.sum()  # a batch without comparisons still reaches every parameter
        for term in (self.ranking_loss, *self.regularizers):
            losses, row = term(rewards, batch)
            over = term.over if isinstance(term, Regularizer) else "comparisons"
            total = total + (step_weight(row, batch, self.pair_weighting, over) * losses).sum()
        return total, {"rewards": rewards.detach(), "share": total.detach()}

    @property
    def uses_ties(self) -> bool:
        """True with a regularizer over ties."""
        return any(regularizer.over == "ties" for regularizer in self.regularizers)
