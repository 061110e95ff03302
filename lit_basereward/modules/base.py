"""What every reward paradigm is: a scorer of responses that trains by ranking them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_basereward.callbacks.curves import Curves
from lit_basereward.callbacks.evaluation import Evaluation
from lit_basereward.callbacks.training_metrics import TrainingMetrics
from lit_basereward.checkpoint import WholeCheckpointIO, check_weights
from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator, TooLongPolicy
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.cost import Cost
from lit_basereward.modules.fused import fuse
from lit_basereward.modules.partial import leave_out_frozen, with_own_frozen
from lit_basereward.modules.provenance import provenance
from lit_basereward.modules.recipe import check_rebuilt, class_path, recipe
from lit_basereward.modules.schedule import WarmupCosine
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.probe import choose_layout
from lit_basereward.nn.reward_model import FEATURES_PER_IMAGE, RewardModel
from lit_basereward.strategy import FSDP2Strategy

set_parsing_settings(subclasses_enabled=[Backbone])  # so that YAML may name a recipe of the user's own

OptimizerFactory = Callable[[Iterable], Optimizer]
ScheduleFactory = Callable[[Optimizer, int], LRScheduler]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")


class RewardModule(pl.LightningModule, ABC):
    """A reward model of any paradigm. Subclasses build a network, score a batch and give its loss.

    Args:
        backbone: which model to start from and which of its parts train.
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

    comparable_across_rows: bool = True
    """False where a reward means something only beside the other responses of its row."""

    def __init__(
        self,
        backbone: Backbone,
        layout: Literal["shared", "padded"] = "shared",
        train_too_long: Literal["error", "drop"] = "error",
        score_too_long: TooLongPolicy = "error",
        optimizer: OptimizerFactory = lambda parameters: torch.optim.AdamW(parameters, lr=3e-6, weight_decay=0.0),
        schedule: ScheduleFactory = WarmupCosine,
        head_lr: float | None = None,
        init_from: str | None = None,
        allow_bf16_weights: bool = False,
    ) -> None:
        super().__init__()
        self._begin()
        self.backbone, self.layout, self.init_from = backbone, layout, init_from
        self.train_too_long, self.score_too_long = train_too_long, score_too_long
        self.model: RewardModel | None = None
        self.make_optimizer, self.make_schedule, self.head_lr = optimizer, schedule, head_lr
        self.allow_bf16_weights = allow_bf16_weights
        self.strict_loading = not backbone.partial  # frozen weights may be left out; we check all names ourselves

    def _begin(self) -> None:
        """What every scorer has, one that is made of others and has no backbone of its own among them."""
        self.trained = False
        self.calibration: Calibration | None = None
        """How rewards become probabilities: fitted at each validation, stored in checkpoints."""
        self.cost = Cost()
        """Forwards and generated tokens, which ``score`` adds to; evaluation starts it anew for each batch."""
        self.evidence: list[dict[str, Any]] = []
        """What the last batch's rewards rest on, row by row, as in :mod:`lit_basereward.benchmarks.evidence`; empty
        for a paradigm that has nothing but rewards."""

    # ------------------------------------------------------------------------------------ what a paradigm defines
    @abstractmethod
    def network(self, weights: bool) -> RewardModel:
        """Backbone and head; without ``weights`` a checkpoint will bring those of the backbone."""

    @abstractmethod
    def collator(self, training: bool) -> Collator:
        """How rows become batches for this paradigm."""

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """Rewards of all responses, [N] float32 in log-odds units; the caller sets grad mode."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """This micro-batch's share of the step's loss (a sum over micro-batches and devices), and what to log.

        Returns:
            scalar, and a dict of what is logged, detached: ``rewards`` [N], the scalar again as ``share``, and where it
            is a sum of several losses these by name in ``parts``, the same names for every batch.
        """

    def set_too_long(self, policy: TooLongPolicy) -> None:
        """What happens to responses over ``max_length`` from here on; call it before :meth:`collator`."""
        self.score_too_long = policy

    # ---------------------------------------------------------------------------------------------- the network
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
            self.model = self.network(weights)
            if self.init_from and weights:
                from lit_basereward.modules.init_from import init_from

                init_from(self.model, self.init_from)
                self.trained = True
            if sharded:
                sharded.shard(self.model)
        self.layout = choose_layout(self.model, self.layout, self._plain_collator, rank_zero_info)
        self.model.train()

    def _plain_collator(self, layout: Literal["shared", "padded"]) -> Collator:
        """Prompt as prefix, each response as one branch."""
        return Collator(self.backbone.processor(), **{**self._collation(), "layout": layout})

    def _collation(self, training: bool = True) -> dict[str, Any]:
        """What collators of every paradigm are told."""
        assert self.model is not None, "call configure_model() first"
        return {
            "layout": self.layout,
            "max_length": self.backbone.max_length,
            "too_long": self.train_too_long if training else self.score_too_long,
            "system_prompt": self.backbone.system_prompt,
            "text_tokens": self.backbone.text_tokens,
            "share_features": self.model.base.config.model_type in FEATURES_PER_IMAGE,
            "dummy_image": self._trainer is not None and self._trainer.world_size > 1,
        }

    @property
    def uses_ties(self) -> bool:
        """True if rows whose only information is a tie are of use in training."""
        return False

    @property
    def sharded(self) -> FSDP2Strategy | None:
        """The strategy that deals out the network, where one does: ``configure_model`` hands it what it has built."""
        strategy = None if self._trainer is None else self._trainer.strategy
        return strategy if isinstance(strategy, FSDP2Strategy) else None

    # ---------------------------------------------------------------------------------------------------- steps
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Loss whose mean over devices and accumulated micro-batches is the step's loss."""
        loss, outputs = self.loss(batch)
        return {"loss": loss * self.trainer.world_size * self.trainer.accumulate_grad_batches, **outputs}

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Positions are computed while the batch is on the CPU."""
        if self.model is not None and batch.layout.shared:
            batch.inputs = self.model.with_positions(batch.inputs, batch.layout)
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Without waiting for the steps before, from the loader's page-locked memory: stock waits at every tensor."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Rewards [N]; the evaluation callback gathers them by row."""
        return self.score(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Rewards [N]; the evaluation callback gathers them by row."""
        return self.score(batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Rewards [N]; the prediction writer puts them to disk."""
        return self.score(batch)

    def on_validation_start(self) -> None:
        """See :meth:`on_test_start`."""
        self._warn_untrained()

    def on_test_start(self) -> None:
        """Say it where an untrained head is evaluated."""
        self._warn_untrained()

    def on_predict_start(self) -> None:
        """See :meth:`on_test_start`."""
        self._warn_untrained()

    def on_train_start(self) -> None:
        """From here on the head is being trained."""
        self.trained = True

    def _warn_untrained(self) -> None:
        if not (self.trained or self.trainer.ckpt_path or self.trainer.sanity_checking):
            rank_zero_warn("this reward head is untrained, its rewards are random: give --ckpt_path")

    def configure_callbacks(self) -> list[Callback]:
        """Metrics belong to the model, so a Trainer built in Python has them too."""
        training, evaluation = TrainingMetrics(), Evaluation()
        return [training, evaluation, Curves(training, evaluation)]

    # ------------------------------------------------------------------------------------------------- optimizer
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One group for the backbone and one for the head, on a schedule of optimizer steps."""
        trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in trained if not name.startswith("model.head.")], "name": "backbone"},
            {"params": [p for name, p in trained if name.startswith("model.head.")], "name": "head"},
        ]
        if self.head_lr is not None:
            groups[1]["lr"] = self.head_lr
        optimizer = self.make_optimizer([group for group in groups if group["params"]])
        fuse(optimizer)
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_schedule(optimizer, int(total)), "interval": "step"},
        }

    # ---------------------------------------------------------------------------------------------- checkpoints
    def described(self) -> dict[str, Any]:
        """Hyper-parameters as the YAML that builds this module, also where it was built in Python."""
        hyper_parameters = {
            key: recipe(value) for key, value in self.hparams.items() if key not in ("_class_path", "_instantiator")
        }
        return {
            "_class_path": class_path(type(self)),
            **hyper_parameters,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what builds this module beside its weights; of a partial one without the frozen ones."""
        checkpoint["hyper_parameters"] = self.described()
        if self.calibration is not None:
            checkpoint["calibration"] = self.calibration.to_dict()
        if self._trainer is not None:
            checkpoint["provenance"] = provenance(self.trainer)
        if self.partial:
            leave_out_frozen(self, checkpoint)

    @property
    def partial(self) -> bool:
        """True if checkpoints hold what trains alone, as the frozen rest is the backbone's own."""
        return self.backbone.partial and self.hparams.get("init_from") is None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another network, and say what differs; take over their calibration.

        Raises:
            ValueError: naming missing, unexpected and differently shaped parameters.
        """
        if "state_dict" in checkpoint:  # else the strategy has checked and loaded them
            check_weights(self, with_own_frozen(self, checkpoint) if self.partial else checkpoint["state_dict"])
        stored = checkpoint.get("calibration")
        self.calibration = Calibration.from_dict(stored) if stored else None

    # -------------------------------------------------------------------------------------- precision and strategy
    def setup(self, stage: str) -> None:
        """Refuse precisions and strategies in which training would silently go wrong; see to whole checkpoints.

        Raises:
            ValueError: naming the setting and what to use.
        """
        silence()
        if stage == "fit" and self.trainer.checkpoint_callbacks:
            check_rebuilt(type(self), self.described())
        strategy, precision = self.trainer.strategy, str(self.trainer.precision)
        if type(strategy.checkpoint_io) in (TorchCheckpointIO, WholeCheckpointIO):  # a plugin of the user's stays
            strategy.checkpoint_io = WholeCheckpointIO(resumes=stage == "fit")
        sharded = self.sharded
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy) and not sharded:
            raise ValueError(
                f"trainer.strategy {type(strategy).__name__} is not supported, as it would not shard this network "
                "right; use lit_basereward.strategy.FSDP2Strategy, as in configs/overlays/fsdp.yaml"
            )
        if sharded and precision != "32-true":
            raise ValueError(
                f"trainer.precision {precision} is not for FSDP2Strategy: set trainer.precision: 32-true, which is "
                "storage, and the strategy's compute_dtype"
            )
        if sharded and self.backbone.partial:
            raise ValueError("adapters and 4-bit weights are not sharded: set trainer.strategy: ddp")
        if precision not in PRECISIONS:
            raise ValueError(f"trainer.precision {precision} is not supported; use one of {', '.join(PRECISIONS)}")
        computes_float32 = sharded.compute_dtype == torch.float32 if sharded else precision == "32-true"
        if self.backbone.dtype == "bfloat16" and computes_float32:
            raise ValueError("backbone.dtype bfloat16 needs trainer.precision bf16-mixed, where its parts meet float32")
        trainable = self.backbone.lora is not None or set(self.backbone.freeze) < {"vision", "projector", "language"}
        if precision == "bf16-true" and stage == "fit" and trainable and not self.allow_bf16_weights:
            raise ValueError(
                "trainer.precision bf16-true stores the weights in bfloat16, where a step at 3e-6 changes few of them; "
                "use bf16-mixed, or set model.allow_bf16_weights: true"
            )


def silence() -> None:
    """Leave out warnings of Lightning's that a user can do nothing about."""
    # How a batch reaches the device is the module's business, whatever datamodule it is from.
    warnings.filterwarnings("ignore", message="You have overridden `(on_before|transfer)_batch_")
    # What Lightning still uses of torch.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
