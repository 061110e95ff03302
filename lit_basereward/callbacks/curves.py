"""The figures of a training run beside its checkpoints: line by line as they come, and as pictures at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_basereward.benchmarks.plots import HOW_TO_DRAW, can_draw
from lit_basereward.benchmarks.report import strict
from lit_basereward.callbacks.closing import best_checkpoint, short, tell_paths
from lit_basereward.callbacks.curve_plot import draw_curves, draw_rewards
from lit_basereward.callbacks.evaluation import Evaluation
from lit_basereward.callbacks.training_metrics import TrainingMetrics
from lit_basereward.checkpoint import checkpoint_folder
from lit_basereward.data.batch import Batch

FILE = "metrics.jsonl"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Line = dict[str, Any]


class Curves(Callback):
    """Writes ``metrics.jsonl`` in ``fit``, and at its end draws ``curves.png`` and ``rewards.png`` from it.

    They lie beside the checkpoints; without a ModelCheckpoint on a local disk nothing is written. A line is a step of
    training that was logged, ``{"step": 20, "train": {"loss": 0.6, ...}}``, or a validation,
    ``{"step": 100, "val": {"pairs": {"accuracy": 0.7, ...}}}``: figures that the loggers get, too, and of validation
    ``QUANTILES`` over comparisons, of margins, and of the rewards of better and of worse responses where those of
    different rows may be compared. A run that is resumed goes on behind its lines up to there, which are looked for
    beside the checkpoint, then where this run writes; their first line and the checkpoint name the run. One that is
    interrupted, or fails, is drawn as far as it came.

    Args:
        training: has the figures of steps.
        evaluation: has those of validations.
    """

    def __init__(self, training: TrainingMetrics, evaluation: Evaluation) -> None:
        self._training, self._evaluation = training, evaluation
        self._run = uuid4().hex
        self._file: IO[str] | None = None
        self._written = 0  # the last step of training that has a line

    def state_dict(self) -> dict[str, Any]:
        """Which run a checkpoint is of."""
        return {"run": self._run}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The run goes on."""
        self._run = state_dict["run"]

    # ----------------------------------------------------------------------------------------------------- record
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the file, with what the run has written before it was resumed."""
        folder = checkpoint_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        self._written = trainer.global_step
        places = [Path(trainer.ckpt_path).parent, folder] if trainer.ckpt_path else []
        earlier = next((found for each in places if (found := read_metrics(each / FILE, self._run))), [])
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / FILE).open("w", encoding="utf-8")
        self._add({"run": self._run})
        for line in earlier:
            if line["step"] <= trainer.global_step:
                self._add(line)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add the step, if it was logged."""
        step, figures = self._training.logged
        if self._file and step > self._written:
            self._written = step
            self._add({"step": step, "train": figures})

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the sources' figures."""
        if self._file is None or trainer.sanity_checking:
            return
        sources = {}
        for name, result in self._evaluation.results.items():
            found = self._evaluation.gathered[name]
            better, worse = found.compared()
            kinds = {"margin": better - worse}
            if pl_module.comparable_across_rows:
                kinds |= {"better": better, "worse": worse}
            sources[name] = result.logs() | {f"{kind}_quantiles": quantiles(each) for kind, each in kinds.items()}
            if name in self._evaluation.headlines:
                sources[name]["accuracy"] = self._evaluation.headlines[name]
        self._add({"step": trainer.global_step, "val": sources})

    def _add(self, line: Line) -> None:
        assert self._file is not None
        self._file.write(json.dumps(strict(line), allow_nan=False) + "\n")
        self._file.flush()  # what is killed has its lines

    # ------------------------------------------------------------------------------------------------------- draw
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, and say where everything lies, when the progress bar has been left."""
        if stage == "fit":
            drawn = self._draw()
            if trainer.is_global_zero:
                tell_paths(trainer, {"checkpoint": best_checkpoint(trainer), "curves": drawn})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw as far as it went."""
        self._draw()

    def _draw(self) -> str:
        """Pictures of the file, if this device wrote one; what to say of them."""
        if self._file is None:
            return ""
        self._file.close()
        path, self._file = Path(self._file.name), None
        if not can_draw():
            return f"{short(path)} ({HOW_TO_DRAW})"
        try:
            lines = read_metrics(path)
            drawn = [draw(path.with_name(name), lines) for name, draw in PICTURES.items()]
            return ", ".join(short(picture) for picture in drawn if picture) or short(path)
        except Exception as error:  # a picture is no reason to fail when days of training have gone well
            rank_zero_warn(f"the curves in {path} could not be drawn: {error}")
            return short(path)


PICTURES = {"curves.png": draw_curves, "rewards.png": draw_rewards}


def quantiles(values: Tensor) -> list[float] | None:
    """``QUANTILES`` of the values that are finite; None if there are none."""
    finite = values[values.isfinite()].double().numpy()
    return np.quantile(finite, QUANTILES).tolist() if len(finite) else None


def read_metrics(path: Path, run: str | None = None) -> list[Line]:
    """Lines of ``metrics.jsonl`` in order of steps, of two validations at one step the later.

    Args:
        path: of the file; where there is none, there is no line.
        run: the run that they shall be of; None is any.
    """
    if not path.exists():
        return []
    first, *texts = path.read_text(encoding="utf-8").split("\n")[:-1]  # a last line that was cut off is none
    if run is not None and json.loads(first) != {"run": run}:
        return []
    found = {(line["step"], "val" in line): line for line in map(json.loads, texts)}
    return [found[key] for key in sorted(found)]
