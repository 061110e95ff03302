"""Ensembles: several reward models, each with its own backbone, processor and paradigm, as one (paper, section 5.2).

Shape legend: M members, N responses.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import TooLongPolicy
from lit_basereward.data.ensemble import EnsembleBatch, EnsembleCollator
from lit_basereward.data.routing import Route, check_routes, unknown_sources, unused
from lit_basereward.data.sampler import FILLER
from lit_basereward.data.sources.base import Source
from lit_basereward.ensemble.checks import check_takes
from lit_basereward.ensemble.combiners import Combiner, Mean
from lit_basereward.ensemble.devices import check_devices, move
from lit_basereward.ensemble.evidence import members_by_row
from lit_basereward.ensemble.folder import own_calibration
from lit_basereward.ensemble.names import name_paths, refuse_twice
from lit_basereward.ensemble.origin import FITTED_HERE, was_fitted_on
from lit_basereward.modules.base import RewardModule, silence
from lit_basereward.modules.cost import Cost

_PRECISIONS = ("32-true", "bf16-mixed")


class EnsembleRM(RewardModule):
    """Several trained reward models as one, for evaluation, prediction and serving; its members are trained apart.

    Members may have different backbones, processors and paradigms. Each row goes to those that vote on it, and their
    rewards become one by the combiner. With a member whose scores mean something inside a row only (a pairwise judge),
    the ensemble is such a model, too.

    Args:
        members: checkpoints, sharded ones and exports among them, by names of your choice; or a list of them, which
            are named after their paths. Relative paths start where the command runs.
        combiner: from the members' rewards to one. The mean of raw rewards is the paper's best (Table 7).
        routes: which members vote on which rows: the first route that fits a row decides, and all vote where none does.
        devices: one for each member, such as ``[cuda:0, cuda:1]``. None computes where the trainer or scorer does.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes the members may name.
        trust_remote_code: run model code that comes with the members' backbones, where they ask for it.
        report_fitted: evaluate a combiner on the very rows that it was fitted on, and mark the report.
        calibration: as the ensemble's folder has it, with what it is of: left out where that is another ensemble.

    Raises:
        ValueError: for members, routes and devices that do not go together.
    """

    def __init__(
        self,
        members: dict[str, str] | list[str],
        combiner: Combiner = Mean(),  # noqa: B008
        routes: list[Route] = [],  # noqa: B006
        devices: list[str] | None = None,
        allow: list[str] = [],  # noqa: B006
        trust_remote_code: bool = False,
        report_fitted: bool = False,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        pl.LightningModule.__init__(self)
        self._begin()
        self.save_hyperparameters()
        self.paths = (
            dict(members) if isinstance(members, dict) else dict(zip(name_paths(members), members, strict=True))
        )
        if not self.paths:
            raise ValueError("the ensemble has no members; give members as name: checkpoint or export")
        refuse_twice(list(self.paths.values()))
        check_devices(devices, self.names)
        check_routes(routes, self.names)
        self.combiner, self.routes, self.devices = combiner, routes, devices
        self.allow, self.trust_remote_code, self.report_fitted = allow, trust_remote_code, report_fitted
        self.members: nn.ModuleList = nn.ModuleList()
        self.trained = True
        self.calibration = own_calibration(self, calibration)
        self._voted: set[tuple[bool, ...]] = set()  # who voted together, on the rows so far

    @property
    def names(self) -> list[str]:
        """[M] names of the members."""
        return list(self.paths)

    @property
    def comparable_across_rows(self) -> bool:  # type: ignore[override]
        """True if every member's scores are; they are loaded to know it."""
        self.configure_model()
        return all(member.comparable_across_rows for member in self._loaded)

    # ---------------------------------------------------------------------------------------------- the members
    @property
    def _loaded(self) -> list[RewardModule]:
        return [cast(RewardModule, member) for member in self.members]

    def configure_model(self, weights: bool = True) -> None:
        """Load all members, once.

        Args:
            weights: always read.

        Raises:
            ValueError: naming a member that cannot be loaded, or one that the combiner cannot take.
        """
        if len(self.members):
            return
        loaded = [self._load(name, path) for name, path in self.paths.items()]
        comparable = [each.comparable_across_rows for each in loaded]
        check_takes(self.combiner, dict(zip(self.names, comparable, strict=True)))
        # who moved the ensemble before its members were there meant them, too
        for name, member, device in zip(
            self.names, loaded, self.devices or [str(self.device)] * len(loaded), strict=True
        ):
            move(name, member, device)
        self.members = nn.ModuleList(loaded).requires_grad_(False).eval()

    def _load(self, name: str, path: str) -> RewardModule:
        from lit_basereward.scorer import load_module

        try:
            member = load_module(Path(path), self.allow, trust_remote_code=self.trust_remote_code)
        except (ValueError, OSError) as error:
            raise ValueError(f"member {name!r} of the ensemble cannot be loaded: {error}") from error
        if isinstance(member, EnsembleRM):
            raise ValueError(f"member {name!r} of the ensemble is an ensemble itself; name its members in its place")
        return member

    def _apply(self, fn: Any, recurse: bool = True) -> EnsembleRM:
        """Members with devices of their own stay there."""
        return self if self.devices and len(self.members) else super()._apply(fn, recurse)

    def collator(self, training: bool) -> EnsembleCollator:
        """One batch per member, made by its own collator."""
        if training:
            self._refuse_training()
        self.configure_model()
        collators = {name: each.collator(training=False) for name, each in zip(self.names, self._loaded, strict=True)}
        return EnsembleCollator(collators, self.routes)

    def set_too_long(self, policy: TooLongPolicy) -> None:
        """For every member."""
        self.configure_model()
        for member in self._loaded:
            member.set_too_long(policy)

    # -------------------------------------------------------------------------------------------------- scoring
    def score_members(self, batch: Batch) -> Tensor:
        """Rewards that each member gives.

        Args:
            batch: of :meth:`collator`.

        Returns:
            [M, N] float32, NaN where a member does not vote.

        Raises:
            ValueError: naming a member that gives NaN or infinity where it votes, or another number of rewards.
        """
        assert isinstance(batch, EnsembleBatch), "an ensemble scores the batches of its own collator"
        scores = torch.full(batch.votes.shape, torch.nan, device=batch.row.device)
        self._voted |= set(map(tuple, batch.votes[:, batch.row_index[batch.row] != FILLER].T.tolist()))
        for m, (name, member) in enumerate(zip(self.names, self._loaded, strict=True)):
            part, votes = batch.members[m], batch.votes[m]
            if part is None:
                continue
            found = _score(member, part.to(self.devices[m]) if self.devices else part).float().to(scores.device)
            if found.shape != (int(votes.sum()),):
                raise ValueError(
                    f"member {name!r} of the ensemble gave rewards {list(found.shape)} for {int(votes.sum())} responses"
                )
            if not found.isfinite().all():
                row = int(part.row_index[part.row[~found.isfinite()][0]])
                raise ValueError(
                    f"member {name!r} of the ensemble gave NaN or infinity in row {row}, on which it votes"
                )
            scores[m, votes] = found
            self.cost.forwards += member.cost.forwards
            self.cost.generated_tokens += member.cost.generated_tokens
        return scores

    def score(self, batch: Batch) -> Tensor:
        """Rewards [N] by the combiner; ``evidence`` has those of the members."""
        scores = self.score_members(batch)
        judges = [n for n, each in zip(self.names, self._loaded, strict=True) if not each.comparable_across_rows]
        self.evidence = members_by_row(scores, batch.row, self.names, judges)
        return self.combiner(scores, batch.row, self.names)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Each member prepares its own part while that is on the CPU."""
        assert isinstance(batch, EnsembleBatch)
        batch.members = [
            part if part is None else member.on_before_batch_transfer(part, dataloader_idx)
            for member, part in zip(self._loaded, batch.members, strict=True)
        ]
        return batch

    # --------------------------------------------------------------------------- what an ensemble is not, or not yet
    def network(self, weights: bool) -> NoReturn:
        """Members have networks, the ensemble has none."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> NoReturn:
        """An error: see :class:`EnsembleRM`."""
        self._refuse_training()

    def _refuse_training(self) -> NoReturn:
        raise ValueError(
            "an ensemble is not trained: run `fit` for each of its members with its own config, then name their "
            "checkpoints in model.members and run validate, test or predict"
        )

    def configure_callbacks(self) -> list[Callback]:
        """Stock; the first hook of a run, which refuses training before any data are read."""
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._refuse_training()
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Refuse what would go wrong, and benchmarks that the combiner was fitted on.

        Raises:
            ValueError: naming the setting and what to use.
        """
        silence()
        strategy, precision = self.trainer.strategy, str(self.trainer.precision)
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError(
                "an ensemble is not sharded: use trainer.strategy: auto, and model.devices where one is full"
            )
        if precision not in _PRECISIONS:
            raise ValueError(f"trainer.precision {precision} is not for ensembles; use one of {', '.join(_PRECISIONS)}")
        self.combiner.check(self.names)
        self._voted.clear()
        data = getattr(self.trainer, "datamodule", None)
        sources = data.sources("val" if stage == "validate" else stage) if data is not None else []
        for source in sources:
            self._check_unseen(source, stage)
        self._warn(unknown_sources(self.routes, [source.name for source in sources]) if sources else [])

    def _check_unseen(self, source: Source, stage: str) -> None:
        """Held-out rows may be those of validation too; what is reported may not, and what is predicted is told."""
        reported = stage != "validate" or isinstance(source, Benchmark)
        if not reported or not was_fitted_on(self.combiner, source):
            return
        if not self.report_fitted and stage != "predict":
            raise ValueError(
                f"the combiner was fitted on {source.name}, so its figures there say nothing; fit it on other rows, or "
                "set model.report_fitted: true, which marks the report"
            )
        source.remark(FITTED_HERE)

    def on_test_epoch_end(self) -> None:
        """Tell of routes that no row went by, and of members that voted on none."""
        used = torch.tensor(
            [tuple(name in route.members for name in self.names) in self._voted for route in self.routes]
            + [any(votes[m] for votes in self._voted) for m in range(len(self.names))],
            device=self.device,
        )
        used = self.trainer.strategy.reduce(used.float(), reduce_op="sum")  # of all devices
        if used.any():  # else no row was left to score
            self._warn(unused(self.routes, self.names, (used > 0).tolist()))

    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end

    def _warn(self, told: list[str]) -> None:
        if self.trainer.is_global_zero:
            for each in told:
                print(f"warning: {each}", file=sys.stderr)

    @property
    def partial(self) -> bool:
        """False: an ensemble has no weights of its own to leave out."""
        return False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """An error: members have checkpoints.

        Raises:
            ValueError: saying how an ensemble is written.
        """
        raise ValueError("an ensemble has no checkpoint: `python -m lit_basereward ensemble` writes it as a folder")


def _score(member: RewardModule, part: Batch) -> Tensor:
    """Rewards of a member, which counts its own cost; parts stored in bfloat16 meet float32 ones under autocast."""
    member.cost = Cost()
    mixed = member.backbone.dtype == "bfloat16"
    kind = part.row.device.type
    with torch.autocast(kind, torch.bfloat16) if mixed else nullcontext():
        return member.score(part)
