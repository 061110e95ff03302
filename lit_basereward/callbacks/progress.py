"""Progress bars that count steps and rows: batches say little about how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from lit_basereward.data.batch import Batch
from lit_basereward.data.scan import Stage

_STAGES: dict[str, Stage] = {"validate": "val", "test": "test", "predict": "predict"}


class _Bar(ProgressBar):
    """What both have in common."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning asks for it on all devices but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show it again."""
        self._enabled = True


class RowProgressBar(_Bar):
    """Rows scored of each source, in ``validate``, ``test`` and ``predict``; on several devices those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin the next source."""
        if batch_idx == 0:
            self._close()
            stage = _STAGES[str(trainer.state.fn.value)]  # type: ignore[union-attr]
            name, total = _source(trainer, stage, dataloader_idx)
            self._bar = tqdm(desc=name, total=total, unit=" rows", disable=not self._enabled)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's rows."""
        if self._bar is not None:
            self._bar.update(_rows(batch))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the last source's bar as it stands."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same, for a run that ends early."""
        self._close()

    on_validation_batch_start = on_predict_batch_start = on_test_batch_start
    on_validation_batch_end = on_predict_batch_end = on_test_batch_end
    on_validation_epoch_end = on_predict_end = on_test_epoch_end = on_test_end

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class StepProgressBar(_Bar):
    """Steps of the whole ``fit`` on one line, with the last figures; while it validates, rows scored of each source.

    Where nobody watches, as in a file, a line is printed after each validation and each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._steps = self._rows = 0  # rich's numbers of the two lines
        self._asked = 0.0  # when figures were last asked for
        self._told = 0  # the last step that has a line

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin where a checkpoint has left off."""
        self._bar = terminal_bar() if self._enabled else None
        if self._bar is not None:
            self._steps = self._bar.add_task(
                _epoch(trainer), total=_total(trainer), completed=trainer.global_step, figures=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count; figures once a second, since a GPU has to finish for them what it was given."""
        self._show(trainer, ask=time.monotonic() > self._asked + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A sign of life, also where there is no validation."""
        self._tell(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin the next source."""
        if self._bar is not None and batch_idx == 0:
            self._leave_source()
            name, total = _source(trainer, "val", dataloader_idx)
            self._rows = self._bar.add_task(name, total=total, figures="rows")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch's rows."""
        if self._bar is not None:
            self._bar.advance(self._rows, _rows(batch))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show or print what came out."""
        if not trainer.sanity_checking:
            self._show(trainer)
            self._leave_source()
            self._tell(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it stands."""
        self._show(trainer)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same, for a run that ends early."""
        self._close()

    def _show(self, trainer: pl.Trainer, ask: bool = True) -> None:
        if self._bar is None:
            return
        told = {}
        if ask:
            self._asked = time.monotonic()
            told["figures"] = " ".join(figures(trainer.progress_bar_metrics))
        self._bar.update(self._steps, description=_epoch(trainer), completed=trainer.global_step, **told)

    def _tell(self, trainer: pl.Trainer) -> None:
        if self._bar is None and self._enabled and trainer.global_step > self._told:
            self._told = trainer.global_step
            total = _total(trainer)
            step = f"step {trainer.global_step:,}" + (f" of {total:,}" if total else "")
            print(f"{step}: {', '.join(figures(trainer.progress_bar_metrics))}", flush=True)

    def _leave_source(self) -> None:
        if self._bar is not None and self._rows in self._bar.task_ids[1:]:
            self._bar.remove_task(self._rows)
            self._bar.refresh()

    def _close(self) -> None:
        if self._bar is not None:
            self._leave_source()
            self._bar.stop()
            self._bar = None


def _source(trainer: pl.Trainer, stage: Stage, index: int) -> tuple[str, int]:
    """Name of a source that is evaluated, and how many rows of it this device has."""
    loaders: Any = getattr(trainer, f"{stage}_dataloaders")
    return trainer.datamodule.source_names(stage)[index], loaders[index].plan.num_rows  # type: ignore[attr-defined]


def _rows(batch: Batch) -> int:
    """Rows that a batch has dealt with, those included that were left out of it."""
    return int((batch.row_index >= 0).sum()) + len(batch.dropped)


def terminal_bar() -> Any:
    """A bar of rich, in which the bar itself gives way to what is told; None where no terminal shows it."""
    try:
        from rich import get_console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining
        from rich.table import Column
    except ModuleNotFoundError:
        return None
    if not get_console().is_interactive:
        return None
    whole = [kind(table_column=Column(no_wrap=True)) for kind in (MofNCompleteColumn, TimeElapsedColumn, Remaining)]
    texts = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[figures]")]
    return Progress(texts[0], BarColumn(bar_width=None), *whole, texts[1], refresh_per_second=4)


_SHORT = {"accuracy": "acc", "val/accuracy": "val"}


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """Names and values in a few letters and about three digits, such as ``acc 0.500`` and ``rows/s 60.1``."""
    return [f"{_SHORT.get(name, name)} {_digits(float(value))}" for name, value in metrics.items()]


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:,.{3 if size < 10 else 1 if size < 100 else 0}f}"


def _epoch(trainer: pl.Trainer) -> str:
    """Which of how many epochs; where steps alone have a limit, no epoch."""
    last = trainer.max_epochs or -1
    return f"Epoch {min(trainer.current_epoch + 1, last)}/{last}" if last > 0 else "Step"


def _total(trainer: pl.Trainer) -> int | None:
    """Steps of the whole run; None where it has no limit."""
    total = trainer.estimated_stepping_batches
    return int(total) if math.isfinite(total) else None
