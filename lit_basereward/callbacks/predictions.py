"""Write the rewards of `predict` as JSONL, in the order of the input, and take up where an earlier run stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import RowError
from lit_basereward.modules.recipe import recipe


class PredictionWriter(Callback):
    """Writes ``{"id", "rewards", "p_best"}`` for every row of the predict source.

    ``rewards`` has one number per response, in their order; ``p_best``, for K >= 2, is their softmax: the probability
    that each is the best. A row whose response was cut has ``"truncated": true``; one that ``on_bad_row: skip`` left
    out has ``"rewards": null`` and its ``"error"``. Finished rows lie beside the output, in ``<path>.part-<rank>``,
    until all are there; a run that is started again with the same input and model goes on after them.

    Args:
        path: where to write; the default is ``predictions.jsonl`` in the run's folder.
        overwrite: replace an earlier output, finished or not.
    """

    def __init__(self, path: str | None = None, overwrite: bool = False) -> None:
        self.path, self.overwrite = path, overwrite
        self._part: IO[str] | None = None
        self._ids: list[str] = []

    def output(self, trainer: pl.Trainer) -> Path:
        """The file that is written."""
        return Path(self.path) if self.path else Path(trainer.default_root_dir) / "predictions.jsonl"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find what is done, before the loaders are built.

        Raises:
            ValueError: if an unfinished output belongs to another input or model.
        """
        if stage != "predict":
            return
        path, data = self.output(trainer), trainer.datamodule  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = {"input": data.fingerprint("predict"), "model": _model_identity(trainer, pl_module)}
        head = _state_path(path)
        if path.exists() and not self.overwrite:
            raise ValueError(f"{path} exists; give another path, or set overwrite: true to replace it")
        if head.exists() and json.loads(head.read_text()) != identity:
            if not self.overwrite:
                raise ValueError(
                    f"{path} was begun with another input or model; give another path, delete "
                    f"{head.name} beside it, or set overwrite: true"
                )
            _forget(path)
        trainer.strategy.barrier()
        done = sorted({json.loads(line)["row"] for part in _parts(path) for line in _whole_lines(part)})
        if done:
            print(f"predict: {len(done)} rows of {path} are there already; going on after them")
        data.skip_predict_rows(done)
        trainer.strategy.barrier()  # no rank writes before all have read
        if trainer.is_global_zero:
            head.write_text(json.dumps(identity))
        part = Path(f"{path}.part-{trainer.global_rank}")
        if part.exists():  # a line that was cut off in the middle is written anew
            part.write_text("".join(f"{line}\n" for line in _whole_lines(part)))
        self._part = part.open("a")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch's rows."""
        assert self._part is not None
        source = trainer.datamodule.predict_source  # type: ignore[attr-defined]
        for number, index in enumerate(batch.row_index.tolist()):
            if index < 0:
                continue
            mine = batch.row == number
            rewards = outputs[mine].float().cpu()
            line: dict[str, Any] = {"row": index, "id": source[index].id, "rewards": _plain(rewards)}
            if len(rewards) > 1:
                line["p_best"] = _plain(torch.softmax(rewards.double(), 0))
            if bool(batch.truncated[mine].any()):
                line["truncated"] = True
            self._part.write(json.dumps(line) + "\n")
        for message in batch.dropped:
            print(f"left out: {message}")
        self._part.flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Join the parts of all ranks in the order of the input."""
        assert self._part is not None
        self._part.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        path, source = self.output(trainer), trainer.datamodule.predict_source  # type: ignore[attr-defined]
        lines = {}
        for part in _parts(path):
            for text in _whole_lines(part):
                line = json.loads(text)
                lines[line.pop("row")] = line
        missing = set(range(len(source))) - lines.keys()
        if missing:
            collator = trainer.lightning_module.collator(training=False)  # type: ignore[operator]
            lines |= {row: _unscored(source, collator, row) for row in missing}
        temporary = Path(f"{path}.tmp")
        with temporary.open("w") as file:
            for row in sorted(lines):
                file.write(json.dumps(lines[row]) + "\n")
        temporary.replace(path)
        _forget(path)
        left_out = f", {len(missing)} of them without rewards" if missing else ""
        print(f"predictions: {len(lines)} rows in {path}{left_out}")


def _unscored(source: Source, collator: Collator, row: int) -> dict[str, Any]:
    """What stands in the place of a row that was left out, so that output and input keep the same order."""
    name = f"row {row}"
    try:
        preference = source[row]
        name = preference.id
        collator.prepare(row, preference)
    except RowError as error:
        return {"id": name, "rewards": None, "error": str(error)}
    return {"id": name, "rewards": None, "error": "not scored"}


def _plain(values: Tensor) -> list[float]:
    return [float(f"{value:.9g}") for value in values.tolist()]  # nine digits tell any two float32 apart


def _state_path(path: Path) -> Path:
    return Path(f"{path}.state.json")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.part-*"))


def _whole_lines(part: Path) -> list[str]:
    return part.read_text().split("\n")[:-1]


def _forget(path: Path) -> None:
    for file in (*_parts(path), _state_path(path)):
        file.unlink(missing_ok=True)


def _model_identity(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """Checkpoint, settings and precision: what rewards hang on."""
    settings = json.dumps(recipe(dict(module.hparams)), sort_keys=True, default=str)
    identity = f"{hashlib.sha256(settings.encode()).hexdigest()}:{trainer.precision}"
    checkpoint = trainer.ckpt_path
    if checkpoint is not None and Path(checkpoint).is_file():
        stat = Path(checkpoint).stat()
        identity += f":{Path(checkpoint).resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    return identity
