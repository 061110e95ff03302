"""From rewards to figures: the one place that knows both the rows of a source and what the model gave them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from lit_basereward.callbacks.plot import can_draw, draw_margins
from lit_basereward.data.batch import Batch
from lit_basereward.losses.functional import comparisons
from lit_basereward.metrics import accuracy_interval, pair_accuracy_by_row, reward_length_correlation

# Per response: row_index, reward, rating, length. One such block per batch, so that a row is never cut in two.
_COLUMNS = 4


@dataclass
class SourceResult:
    """What a model reached on one source.

    Args:
        rows: evaluated rows.
        comparisons: strictly ordered pairs in them.
        accuracy: share of comparisons whose better response scores strictly higher (ties are wrong).
        low, high: 95 % interval of the accuracy, rows as clusters.
        reward_ties: share of comparisons with equal rewards.
        margin: mean reward difference of better and worse.
        better_reward, worse_reward: means; the ``_std`` their standard deviations.
        reward_length_correlation: Pearson, over responses.
        dropped: rows left out because they could not be read.
    """

    rows: int
    comparisons: int
    accuracy: float
    low: float
    high: float
    reward_ties: float
    margin: float
    better_reward: float
    better_reward_std: float
    worse_reward: float
    worse_reward_std: float
    reward_length_correlation: float
    dropped: int = 0


def evaluate(index: Tensor, rewards: Tensor, ratings: Tensor, lengths: Tensor, dropped: int = 0) -> SourceResult:
    """Figures of one source.

    Args:
        index: [N] row of each response, ascending.
        rewards: [N]
        ratings: [N] NaN is unrated.
        lengths: [N] tokens.
        dropped: rows that were left out.
    """
    rows, row = torch.unique_consecutive(index, return_inverse=True)
    correct, ties, total = pair_accuracy_by_row(rewards, row, ratings)
    accuracy, low, high = accuracy_interval(correct, total)
    better, worse = comparisons(row, ratings)
    b, w = rewards[better], rewards[worse]

    def mean_std(values: Tensor) -> tuple[float, float]:
        return (values.mean().item(), values.std(correction=0).item()) if len(values) else (float("nan"),) * 2

    return SourceResult(
        len(rows), len(b), accuracy, low, high,
        (ties.sum() / total.sum()).item(),
        mean_std(b - w)[0], *mean_std(b), *mean_std(w),
        float(reward_length_correlation(rewards, lengths)), dropped,
    )  # fmt: skip


class Evaluation(Callback):
    """Gathers rewards over ranks by row, and logs, prints and stores each source's figures.

    In validation: ``val/<source>/<figure>`` and ``val/accuracy``, the mean over sources, to monitor. In test: a table,
    and in the run's folder ``results.json`` and ``results.png``. Histograms of rewards go to TensorBoard.
    """

    def __init__(self) -> None:
        self.results: dict[str, SourceResult] = {}
        self.margins: dict[str, Tensor] = {}
        self._blocks: dict[int, list[Tensor]] = {}
        self._dropped: dict[int, list[str]] = {}

    def _start(self) -> None:
        self._blocks, self._dropped = {}, {}

    def _add(self, rewards: Tensor, batch: Batch, loader: int) -> None:
        dropped = self._dropped.setdefault(loader, [])
        dropped.extend(batch.dropped)
        if cut := int(batch.truncated.sum()):
            rank_zero_warn(f"{cut} responses of a batch were cut to backbone.max_length and scored without their ends")
        columns = (batch.row_index[batch.row], rewards, batch.ratings, batch.lengths)
        block = torch.stack([column.detach().cpu().double() for column in columns])
        self._blocks.setdefault(loader, []).append(block[:, block[0] >= 0])

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Gather, sort by row, reckon, log."""
        names = trainer.datamodule.source_names(stage)  # type: ignore[attr-defined]
        results = {}
        for loader, name in enumerate(names):
            own = torch.cat(self._blocks.get(loader, [torch.empty(_COLUMNS, 0, dtype=torch.float64)]), dim=1)
            dropped = self._dropped.get(loader, [])
            if trainer.world_size > 1:
                gathered: list[Any] = [None] * trainer.world_size
                torch.distributed.all_gather_object(gathered, (own, dropped))
                own = torch.cat([block for block, _ in gathered], dim=1)
                dropped = [message for _, messages in gathered for message in messages]
            for message in dropped:
                rank_zero_warn(f"left out of {name}: {message}")
            index, rewards, ratings, lengths = own[:, own[0].argsort(stable=True)]
            results[name] = evaluate(index.long(), rewards.float(), ratings.float(), lengths, len(dropped))
            better, worse = comparisons(torch.unique_consecutive(index, return_inverse=True)[1], ratings)
            self.margins[name] = (rewards[better] - rewards[worse]).float()
            self._histograms(trainer, f"{stage}/{name}", rewards)
        self.results = results
        if results:
            accuracies = [result.accuracy for result in results.values() if result.comparisons]
            mean = sum(accuracies) / max(1, len(accuracies))
            module.log(f"{stage}/accuracy", mean, prog_bar=True, sync_dist=True)
        for name, result in results.items():
            logs = {f"{stage}/{name}/{key}": float(value) for key, value in asdict(result).items()}
            module.log_dict(logs, sync_dist=True)

    @rank_zero_only
    def _histograms(self, trainer: pl.Trainer, tag: str, rewards: Tensor) -> None:
        """Rewards and margins of a source, to TensorBoard."""
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            if hasattr(writer, "add_histogram") and len(rewards):
                writer.add_histogram(f"{tag}/rewards", rewards.numpy(), trainer.global_step)
                writer.add_histogram(f"{tag}/margins", self.margins[tag.partition("/")[2]].numpy(), trainer.global_step)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last pass."""
        self._start()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last pass."""
        self._start()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's rewards."""
        self._add(outputs, batch, dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every source; a sanity check sees too few rows to be of use."""
        if trainer.sanity_checking:
            return
        self._finish(trainer, pl_module, "val")
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            print(f"\n{format_table(results_table(self.results, {}))}")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every source, print the table, write ``results.json``."""
        self._finish(trainer, pl_module, "test")
        blank_of = trainer.datamodule.blank_of  # type: ignore[attr-defined]
        table = results_table(self.results, blank_of)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "results.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(table, indent=2) + "\n")
            print(f"\n{format_table(table)}\n\nresults: {path}")
            if can_draw():
                picture = path.with_suffix(".png")
                draw_margins(picture, self.margins, blank_of)
                print(f"picture: {picture}")


def results_table(results: dict[str, SourceResult], blank_of: dict[str, str]) -> dict[str, dict[str, Any]]:
    """``{source: {rows, accuracy, low, high, accuracy_blank_image}}``, a blanked copy beside its source.

    Args:
        results: by source.
        blank_of: name of a source with blanked images -> name of the source itself.
    """
    blanks = {blank_of[name]: result.accuracy for name, result in results.items() if name in blank_of}
    return {
        name: {
            "rows": result.rows,
            "accuracy": result.accuracy,
            "low": result.low,
            "high": result.high,
            "accuracy_blank_image": blanks.get(name),
        }
        for name, result in results.items()
        if blank_of.get(name) not in results
    }


def format_table(table: dict[str, dict[str, Any]]) -> str:
    """The table as aligned text."""
    width = max([len("source"), *map(len, table)])
    lines = [f"{'source':<{width}}   rows  accuracy  95 % interval   image blanked"]
    for name, r in table.items():
        blank = "" if r["accuracy_blank_image"] is None else f"{r['accuracy_blank_image']:.3f}"
        lines.append(
            f"{name:<{width}}  {r['rows']:>5}  {r['accuracy']:>8.3f}  {r['low']:.3f} to {r['high']:.3f}  {blank:>14}"
        )
    return "\n".join(lines)
