"""Write the rewards of `predict` as JSONL, in the order of the input, and take up where an earlier run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_basereward.callbacks.gathering import evidence_by_row
from lit_basereward.callbacks.preferences import write_preferences
from lit_basereward.callbacks.reward_log import RewardLog, model_identity, plain
from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import RowError
from lit_basereward.modules.cost import Meter


class PredictionWriter(Callback):
    """Writes ``{"id", "rewards", "p_best"}`` for every row of the predict source.

    ``rewards`` has one number per response, in their order; ``p_best``, for K >= 2, is their softmax: the probability
    that each is the best. A critic's critiques and a judge's verdicts stand beside them, see
    :mod:`lit_basereward.benchmarks.evidence`, and so does the row's ``cost``: forwards, generated tokens and seconds,
    its share of its batch. A row whose response was cut has ``"truncated": true``; one that ``on_bad_row: skip`` left
    out has ``"rewards": null`` and its ``"error"``. Finished rows lie beside the output, in ``<path>.part-<rank>``,
    until all are there; a run that is started again with the same input and model goes on after them.

    Args:
        path: where to write; the default is ``predictions.jsonl`` in the run's folder.
        overwrite: replace an earlier output, finished or not.
        preferences: also write there, for each row of several responses, the best and the worst of them as ``chosen``
            and ``rejected``, in TRL's preference format.
    """

    def __init__(self, path: str | None = None, overwrite: bool = False, preferences: str | None = None) -> None:
        self.path, self.overwrite, self.preferences = path, overwrite, preferences
        self._log: RewardLog | None = None
        self._meter = Meter()

    def output(self, trainer: pl.Trainer) -> Path:
        """The file that is written."""
        return Path(self.path) if self.path else Path(trainer.default_root_dir) / "predictions.jsonl"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to write over what is there.

        Raises:
            ValueError: if the output exists.
        """
        for path in (self.output(trainer), *([Path(self.preferences)] if self.preferences else [])):
            if stage == "predict" and path.exists() and not self.overwrite:
                raise ValueError(f"{path} exists; give another path, or set overwrite: true to replace it")

    def scored_rows(self, trainer: pl.Trainer, stage: str, number: int) -> list[int]:
        """Rows that an earlier run has finished; asked by the datamodule before it builds the loader.

        Raises:
            ValueError: if an unfinished output belongs to another input or model, or there are several inputs.
        """
        if stage != "predict":
            return []
        path, data = self.output(trainer), trainer.datamodule  # type: ignore[attr-defined]
        _ = data.predict_source  # refuses several
        model = model_identity(trainer, trainer.lightning_module)
        self._log = RewardLog(path, {"input": data.fingerprint("predict"), "model": model})
        if self._log.begun and not self._log.fits and not self.overwrite:
            raise ValueError(
                f"{path} was begun with another input or model; give another path, delete "
                f"{path.name}.state.json beside it, or set overwrite: true"
            )
        done = self._log.take_up(trainer)
        if done and trainer.is_global_zero:
            print(f"predict: {len(done)} rows of {path} are there already; going on after them")
        return sorted(done)

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the meter."""
        self._meter.start(pl_module)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        outputs: Tensor,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch's rows."""
        assert self._log is not None
        source = trainer.datamodule.predict_source  # type: ignore[attr-defined]
        outputs = outputs.float().cpu()
        cost = self._meter.stop(pl_module, batch).per_row()
        evidence = evidence_by_row(batch, pl_module.evidence)
        row = batch.row.cpu()
        for number, index in enumerate(batch.row_index.tolist()):
            if index < 0:
                continue
            mine = row == number
            rewards = outputs[mine]
            line: dict[str, Any] = {"row": index, "id": source[index].id, "rewards": plain(rewards)}
            if len(rewards) > 1:
                line["p_best"] = plain(torch.softmax(rewards.double(), 0))
            if bool(batch.truncated.cpu()[mine].any()):
                line["truncated"] = True
            self._log.add(line | evidence[index] | {"cost": cost})
        for message in batch.dropped:
            print(f"left out: {message}")
        self._log.flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Join the parts of all ranks in the order of the input."""
        assert self._log is not None
        self._log.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        path, source = self.output(trainer), trainer.datamodule.predict_source  # type: ignore[attr-defined]
        collator = trainer.lightning_module.collator(training=False)  # type: ignore[operator]
        missing = self._log.join(len(source), lambda row: unscored(source, collator, row))
        left_out = f", {missing} of them without rewards" if missing else ""
        print(f"predictions: {len(source)} rows in {path}{left_out}")
        if self.preferences:
            pairs, alone = write_preferences(Path(self.preferences), path, source)
            without = f"; {alone} rows have no two responses of different reward" if alone else ""
            print(f"preferences: {pairs} pairs in {self.preferences}{without}")


def unscored(source: Source, collator: Collator, row: int) -> dict[str, Any]:
    """What stands in the place of a row that was left out, so that output and input keep the same order."""
    name = f"row {row}"
    try:
        preference = source[row]
        name = preference.id
        collator.prepare(row, preference)
    except RowError as error:
        return {"id": name, "rewards": None, "error": str(error)}
    return {"id": name, "rewards": None, "error": "not scored"}
