"""From rewards to figures: the one place that knows both the rows of a source and what the model gave them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from copy import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.members import member_notes
from lit_basereward.benchmarks.plots import HOW_TO_DRAW, can_draw
from lit_basereward.benchmarks.report import Section, format_section, section, strict, write_report
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.benchmarks.score import Result, score
from lit_basereward.callbacks.closing import tell_paths
from lit_basereward.callbacks.gathering import Gathered, Gathering, benchmark_rewards
from lit_basereward.callbacks.plot import draw_margins
from lit_basereward.callbacks.predictions import unscored
from lit_basereward.callbacks.results import SourceResult, format_table, results_table, source_result
from lit_basereward.callbacks.reward_log import RewardLog, model_identity
from lit_basereward.data.batch import Batch
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.metrics import Calibration
from lit_basereward.modules.cost import Meter


class Evaluation(Callback):
    """Gathers rewards over ranks by row, and logs, prints and stores each source's figures.

    In validation: ``val/<source>/<figure>``, a benchmark's official figures among them, and ``val/accuracy``, the mean
    over sources, to monitor; and the rewards' calibration, on the sources that are no benchmarks, is fitted and goes
    into the checkpoint. In test: a table, and in the run's folder ``results.json``, ``results.png``, ``report.html``,
    ``report.json`` and ``rewards/<source>.jsonl``, which is written row by row: a test that was interrupted goes on
    after the rows that are there. Histograms of rewards go to TensorBoard.

    What scoring cost stands beside accuracy, and critiques and verdicts that rewards rest on go into the files, see
    :mod:`lit_basereward.benchmarks.evidence`. Where rewards are comparable inside a row only, figures that compare
    them over rows are left out.

    Attributes:
        results: of the last pass, by source.
        suites: official figures of those that are benchmarks.
        headlines: what each source counts with in the mean accuracy; none of a source without a comparison.
        gathered: what the figures are from.
    """

    def __init__(self) -> None:
        self.results: dict[str, SourceResult] = {}
        self.suites: dict[str, Result] = {}
        self.headlines: dict[str, float] = {}
        self.gathered: dict[str, Gathered] = {}
        self._parts: defaultdict[int, Gathering] = defaultdict(Gathering)
        self._logs: list[RewardLog] = []
        self._meter = Meter()

    # ---------------------------------------------------------------------------------------- while rewards come
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the last run, and say what this one will not show."""
        self._parts.clear()
        self._logs = []
        if stage != "predict" and not pl_module.comparable_across_rows:
            rank_zero_info(
                "rewards of this model are comparable inside a row only: their means over rows, their correlation with "
                "length and an offset are left out; margins, accuracy and a temperature stay"
            )

    def scored_rows(self, trainer: pl.Trainer, stage: str, number: int) -> list[int]:
        """Rows of a test source that an interrupted run has scored; the datamodule asks for each source in order."""
        if stage != "test" or _limited(trainer, "test"):
            return []
        data = trainer.datamodule  # type: ignore[attr-defined]
        source, name = data.sources("test")[number], data.source_names("test")[number]
        identity = {"input": source.fingerprint(), "model": model_identity(trainer, trainer.lightning_module)}
        log = RewardLog(Path(trainer.default_root_dir) / "rewards" / f"{name}.jsonl", identity)
        done = log.take_up(trainer)
        self._logs.append(log)
        if done and trainer.is_global_zero:
            print(f"test: {len(done)} rows of {name} are scored already; going on after them")
            for line in done.values():
                self._parts[number].take_up(line, source)
        return sorted(done)

    def _add(self, trainer: pl.Trainer, module: Any, rewards: Tensor, batch: Batch, loader: int) -> None:
        rewards = rewards.detach().cpu()
        lines = self._parts[loader].add(rewards, batch, module.evidence, self._meter.stop(module, batch))
        if self._logs:
            self._write(trainer.datamodule.sources("test")[loader], self._logs[loader], lines)  # type: ignore[attr-defined]

    @staticmethod
    def _write(source: Source, log: RewardLog, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            whole = {"row": line["row"], "id": source[line["row"]].id} | line
            if not all(map(math.isfinite, line["rewards"])):
                whole |= {"rewards": None, "error": "the model gave NaN or infinity"}
            if getattr(source, "text_only", False):
                whole["text_only"] = True
            log.add(whole)
        log.flush()

    # ------------------------------------------------------------------------------------------ when all are there
    def _finish(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        """Gather, sort by row, reckon, log."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        comparable = module.comparable_across_rows
        self.results, self.suites, self.gathered = {}, {}, {}
        for loader, (name, source) in enumerate(zip(data.source_names(stage), data.sources(stage), strict=True)):
            found = self.gathered[name] = self._parts[loader].gather(trainer)
            for message in found.dropped:
                rank_zero_warn(f"left out of {name}: {message}")
            if found.cut:
                rank_zero_warn(f"{found.cut} responses of {name} were cut to backbone.max_length, their ends unseen")
            self.results[name] = source_result(found, comparable)
            if isinstance(source, Benchmark):
                rewards = benchmark_rewards(source, found, _limited(trainer, stage))
                self.suites[name] = score(source, rewards, source.text_only)
            self._histograms(trainer, f"{stage}/{name}", found, comparable)
        self.headlines = {
            name: self.suites[name].figures["overall"].value if name in self.suites else result.accuracy
            for name, result in self.results.items()
            if result.comparisons
        }
        if self.results:
            mean = sum(self.headlines.values()) / max(1, len(self.headlines))
            module.log(f"{stage}/accuracy", mean, prog_bar=True, sync_dist=True)
        for name, result in self.results.items():
            logs = {f"{stage}/{name}/{key}": value for key, value in result.logs().items()}
            if name in self.suites:
                official = self.suites[name].figures.items()
                logs |= {f"{stage}/{name}/{key.replace(' ', '_')}": figure.value for key, figure in official}
            module.log_dict(logs, sync_dist=True)

    @rank_zero_only
    def _histograms(self, trainer: pl.Trainer, tag: str, found: Gathered, comparable: bool) -> None:
        """Margins of a source, and its rewards where they mean something over rows, to TensorBoard."""
        shown = {"margins": found.margins()} | ({"rewards": found.rewards} if comparable else {})
        for logger in trainer.loggers:
            writer: Any = getattr(logger, "experiment", None)
            for key, values in shown.items():
                finite = values[values.isfinite()]
                if hasattr(writer, "add_histogram") and len(finite):
                    writer.add_histogram(f"{tag}/{key}", finite.numpy(), trainer.global_step)

    # --------------------------------------------------------------------------------------------------- hooks
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last pass."""
        self._parts.clear()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the meter."""
        self._meter.start(pl_module)

    on_test_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's rewards, evidence and cost."""
        self._add(trainer, pl_module, outputs, batch, dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every source and fit the calibration; a sanity check sees too few rows to be of use."""
        if trainer.sanity_checking:
            return
        self._finish(trainer, pl_module, "val")
        self._calibrate(trainer, pl_module)
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            print(f"\n{format_table(results_table(self.results, self.suites, {}))}")
            print(f"calibration: {pl_module.calibration or self._uncalibrated}")
            tell_paths(trainer, {})

    def _calibrate(self, trainer: pl.Trainer, module: Any) -> None:
        """Fit on the held-out rows; benchmarks are for reporting, and blanked images for control."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        found = {
            name: self.gathered[name]
            for name, source in zip(data.source_names("val"), data.sources("val"), strict=True)
            if not isinstance(source, Benchmark | BlankImages)
        }
        module.calibration, self._uncalibrated = None, "none: no source of data.val but benchmarks"
        if not found or _limited(trainer, "val"):
            return
        margins = torch.cat([each.margins() for each in found.values()])
        rewards = torch.cat([each.rewards for each in found.values()]) if module.comparable_across_rows else None
        try:
            module.calibration = Calibration.fit(margins, rewards, source=", ".join(found))
        except ValueError as error:  # nothing learnt yet, or nothing wrong
            self._uncalibrated = f"none: {error}"

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every source, print the tables, write results, rewards and report."""
        self._finish(trainer, pl_module, "test")
        for log in self._logs:
            log.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._store(trainer, pl_module)

    def _store(self, trainer: pl.Trainer, module: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        sources = dict(zip(data.source_names("test"), data.sources("test"), strict=True))
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        collator = module.collator(training=False)
        for log, source in zip(self._logs, sources.values(), strict=bool(self._logs)):
            log.join(len(source), lambda row, source=source: unscored(source, collator, row))  # type: ignore[misc]
        table = results_table(self.results, self.suites, data.blank_of)
        path = folder / "results.json"
        path.write_text(json.dumps(strict(table), indent=2, allow_nan=False) + "\n")
        print(f"\n{format_table(table)}")
        sections = self._sections(data, module, _limited(trainer, "test"))
        for each in sections:
            if each.benchmark.name in self.suites:
                print(f"\n{format_section(each)}")
            elif ensemble := each.models[0].ensemble:
                print("\n".join([f"\n{each.benchmark.name}", *member_notes(ensemble)]))
        margins = {name: found.margins() for name, found in self.gathered.items()}
        picture = (
            draw_margins(path.with_suffix(".png"), margins, data.blank_of) if can_draw() else f"none; {HOW_TO_DRAW}"
        )
        report = write_report(sections, folder)[0] if sections else None
        tell_paths(trainer, {"results": path, "picture": picture, "report": report})

    def _sections(self, data: Any, module: Any, limited: bool) -> list[Section]:
        """One of the report's sections per source; a blanked copy is the second model of its source's."""
        blank_of = data.blank_of
        sources = dict(zip(data.source_names("test"), data.sources("test"), strict=True))
        blanks = {plain: blank for blank, plain in blank_of.items()}
        sections = []
        for name, source in sources.items():
            if blank_of.get(name) in sources or not self.results[name].comparisons:
                continue
            suite = copy(source) if isinstance(source, Benchmark) else SourceRows(source, name, data.on_bad_row)
            suite.name = name  # a suite that is there twice, by two groupings, has two names
            models = {"model": self.gathered[name]}
            if name in blanks:
                models["images blanked"] = self.gathered[blanks[name]]
            sections.append(
                section(
                    suite,
                    {key: benchmark_rewards(suite, found, limited) for key, found in models.items()},
                    text_only=suite.text_only,
                    calibration=module.calibration,
                    accounts={
                        key: found.account(suite, module.comparable_across_rows) for key, found in models.items()
                    },
                )
            )
        return sections


def _limited(trainer: pl.Trainer, stage: str) -> bool:
    """True if the run takes a part of the rows only."""
    return bool(getattr(trainer, "fast_dev_run", False)) or getattr(trainer, f"limit_{stage}_batches") != 1.0
