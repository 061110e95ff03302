"""The datamodule: sources in, planned batches out. It knows no paradigm; the module's collator does the formatting."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_basereward.data.loader import BatchDataset, Loader, TrainLoader
from lit_basereward.data.manifest import Manifest, leakage_warning
from lit_basereward.data.mixture import Mixture, leave_out
from lit_basereward.data.sampler import EvalPlan, RowStats, StepPlan
from lit_basereward.data.scan import Scan, Stage, is_kept, measure, scan
from lit_basereward.data.sources.base import Source, unique_names
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.sources.parquet import ParquetSource
from lit_basereward.data.step_checks import check_steps, check_tokens
from lit_basereward.data.summary import SourceSummary, nothing_left, table

Sources = str | Source | list[str | Source] | None
"""A JSONL or Parquet file, a source, or a list of them. A string comes first: a path is never taken for a class."""

ALL: tuple[Stage, ...] = ("train", "val", "test", "predict")
STAGES: dict[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class PreferenceDataModule(LightningDataModule):
    """Preferences for training and evaluation, from any number of sources.

    At set-up every source is read once: rows, comparisons and what was left out are printed and kept in ``summary``.
    What is found of sources of more than 20,000 rows stays on disk for later runs (``LIT_BASEREWARD_CACHE``, by default
    ``~/.cache/lit_basereward``).
    Training rows without a comparison (one response, all ratings equal, unrated) are left out and counted, as in
    validation and test; ties train where the module has a tie term. Predict takes every row.

    Args:
        train: a JSONL or Parquet file, a source, or a list of them; rows of all train sources are mixed.
        val: the same; each source has its own figures.
        test: the same.
        predict: the same; unlabelled rows and single responses are welcome.
        global_batch_size: comparisons per optimizer step, over all devices and accumulated micro-batches. How many
            rows a device computes at once follows from it, ``devices`` and ``accumulate_grad_batches``.
        eval_batch_size: rows a device computes at once in validation, test and predict.
        num_workers: processes per device that open images and tokenise ahead of the training; 0 does it in between.
        seed: of the order of training rows.
        on_bad_row: a row that cannot be used (unreadable image, broken line) stops the run, or is left out and counted.
        shuffle: False takes training rows in the sources' order.
        mixture: how often an epoch goes through the rows of each training source. None takes every row once.
        manifest: file that ``curate`` has written; the training rows that it lists are left out, and counted.
        max_tokens: most tokens, as estimated, of a training micro-batch on one device: texts as the module's paradigm
            lays them out, and images. Where one has more, set-up stops and says what ``accumulate_grad_batches`` it
            takes. None checks nothing.

    Attributes:
        summary: one :class:`SourceSummary` per source of the last set-up.
    """

    def __init__(
        self,
        train: Sources = None,
        val: Sources = None,
        test: Sources = None,
        predict: Sources = None,
        global_batch_size: int = 128,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        on_bad_row: Literal["raise", "skip"] = "raise",
        shuffle: bool = True,
        mixture: Mixture | None = None,
        manifest: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; use 1 or more, or leave it out")
        given = dict(zip(ALL, (train, val, test, predict), strict=True))
        self._given = {stage: _as_list(sources) for stage, sources in given.items()}
        self._opened: dict[Stage, list[Source]] = {}
        self._scans: dict[Stage, list[Scan]] = {}
        self.global_batch_size, self.eval_batch_size, self.num_workers = global_batch_size, eval_batch_size, num_workers
        self.seed, self.on_bad_row, self.shuffle = seed, on_bad_row, shuffle
        self.mixture, self.manifest, self.max_tokens = mixture, manifest, max_tokens
        self._drawn: list[np.ndarray] = []  # rows of each training source that an epoch goes through
        self.summary: list[SourceSummary] = []
        self._plan: StepPlan | None = None
        self._resumed: dict[str, int] = {}

    # ------------------------------------------------------------------------------------------------ sources
    def sources(self, stage: Stage) -> list[Source]:
        """The sources of a stage; a path is opened as JSONL."""
        if stage not in self._opened:
            self._opened[stage] = [_open(given, stage) for given in self._given[stage]]
        return self._opened[stage]

    def source_names(self, stage: Stage) -> list[str]:
        """Their names in the order of ``dataloader_idx``, made unique: the second ``pairs`` is ``pairs_2``."""
        return unique_names(self.sources(stage))

    @property
    def blank_of(self) -> dict[str, str]:
        """Test sources whose images are blanked: their name, and that of the source underneath."""
        names = self.source_names("test")
        plain = {source.fingerprint(): name for name, source in zip(names, self.sources("test"), strict=True)}
        return {
            name: plain.get(source.source.fingerprint(), source.source.name)
            for name, source in zip(names, self.sources("test"), strict=True)
            if isinstance(source, BlankImages)
        }

    @property
    def predict_source(self) -> Source:
        """The source of ``predict``.

        Raises:
            ValueError: if there are several: one output file belongs to one input.
        """
        sources = self.sources("predict")
        if len(sources) != 1:
            raise ValueError(f"data.predict has {len(sources)} sources; predictions are written for one at a time")
        return sources[0]

    def fingerprint(self, stage: Stage) -> str:
        """Changes when the rows of a stage change."""
        return "|".join(source.fingerprint() for source in self.sources(stage))

    def prepare_data(self) -> None:
        """Let the sources of the running stage download or convert, on one process. Large ones are read there too."""
        for stage in STAGES[self.trainer.state.fn] if self.trainer and self.trainer.state.fn else ALL:
            for source in self.sources(stage):
                source.prepare()
            if any(map(is_kept, self.sources(stage))):  # once, for all processes
                self._scanned(stage)

    def setup(self, stage: str | None = None) -> None:
        """Read the stage's sources once and print what they hold. None is every stage that has sources.

        Raises:
            RowError: at a bad row, unless ``on_bad_row`` is ``skip``.
            ValueError: if a stage has no source, or its sources no row to use.
        """
        stages = STAGES[stage] if stage else ALL
        if stage and not self._given[stages[0]]:
            raise ValueError(f"no data: give data.{stages[0]} a JSONL file or a source")
        self.summary = [line for name in stages for line in self._read(name)]
        if self.summary:
            _say(table(self.summary))

    def _read(self, stage: Stage) -> list[SourceSummary]:
        sources, names, found = self.sources(stage), self.source_names(stage), self._scanned(stage)
        used = [each.used(stage, self._use_ties) for each in found]
        manifest = Manifest.load(self.manifest) if self.manifest and stage == "train" else None
        dropped = leave_out(manifest, sources, used)
        if self.on_bad_row == "raise":
            for source, each, without in zip(sources, found, dropped, strict=True):
                for row in np.setdiff1d(each.bad_rows(), without)[:1]:
                    measure(source[int(row)])  # says what is wrong with it
        if stage == "train" and (warning := leakage_warning(sources, manifest)):
            _say(warning)
        parts = zip(found, names, used, dropped, strict=True)
        lines = [SourceSummary.of(each, stage, name, mine, without) for each, name, mine, without in parts]
        # training mixes its sources; in evaluation each has figures of its own
        for group in [lines] if stage == "train" and lines else [[line] for line in lines]:
            if not any(line.used for line in group):
                raise ValueError(nothing_left(group))
        if stage == "train":
            self._draw(used, lines)
        return lines

    def _scanned(self, stage: Stage) -> list[Scan]:
        if stage not in self._scans:
            silent = self.trainer is not None and not self.trainer.is_global_zero
            names = self.source_names(stage)
            self._scans[stage] = [
                # a manifest may list the bad rows: those that it does not are looked for afterwards
                scan(source, name, "skip" if stage == "train" and self.manifest else self.on_bad_row, silent)
                for source, name in zip(self.sources(stage), names, strict=True)
            ]
        return self._scans[stage]

    def _draw(self, used: list[np.ndarray], lines: list[SourceSummary]) -> None:
        """Fix the rows that an epoch of training goes through, and note them in the table."""
        self._drawn = [np.flatnonzero(mine) for mine in used]
        if self.mixture is None:
            return
        names, found = self.source_names("train"), self._scans["train"]
        with_images = {name: each.images > 0 for name, each in zip(names, found, strict=True)}
        drawn = self.mixture.draw(dict(zip(names, self._drawn, strict=True)), with_images, self.seed)
        self._drawn = list(drawn.values())
        for line, mine in zip(lines, self._drawn, strict=True):
            line.drawn, line.drawn_images = len(mine), int(with_images[line.name][mine].sum())

    # ------------------------------------------------------------------------------------------------ loaders
    def train_dataloader(self) -> TrainLoader:
        """Micro-batches of the optimizer steps, from where training stands."""
        trainer = self._attached()
        collator = self._collator(training=True)
        starts = np.cumsum([0, *map(len, self._scans["train"])])[:-1]
        self._plan = StepPlan(
            RowStats.join([found.stats(collator, self._max_pixels) for found in self._scans["train"]]),
            self.global_batch_size,
            seed=self.seed,
            **self._place(trainer),
            accumulate=trainer.accumulate_grad_batches,
            shuffle=self.shuffle and not trainer.overfit_batches,
            use_ties=self._use_ties,
            rows=np.concatenate([mine + start for mine, start in zip(self._drawn, starts, strict=True)]),
        )
        for number, mine in enumerate(self._drawn):
            self._remark("train", number, collator, mine)
        check_steps(trainer, self._plan)
        if self.max_tokens is not None:
            check_tokens(trainer, self._plan, self.max_tokens, self._train_row)
        self._check_resumed()
        dataset = BatchDataset(self.sources("train"), collator, self.on_bad_row)
        return TrainLoader(dataset, self._plan, self._position, **self._reading(trainer))

    def val_dataloader(self) -> list[Loader]:
        """One loader per source."""
        if not self._given["val"]:  # training without validation is meant, no need to ask
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[Loader]:
        """One loader per source."""
        return self._eval_loaders("test")

    def predict_dataloader(self) -> list[Loader]:
        """One loader per source, rows in their order."""
        return self._eval_loaders("predict")

    def _eval_loaders(self, stage: Stage) -> list[Loader]:
        trainer = self._attached()
        collator = self._collator(training=False)
        loaders = []
        for number, (source, found) in enumerate(zip(self.sources(stage), self._scans[stage], strict=True)):
            used = found.used(stage)
            for callback in trainer.callbacks:  # what an earlier, interrupted run has scored
                if hasattr(callback, "scored_rows"):
                    used[callback.scored_rows(trainer, stage, number)] = False
            self._remark(stage, number, collator, np.flatnonzero(used))
            plan = EvalPlan(
                found.stats(collator, self._max_pixels),
                np.flatnonzero(used),
                self.eval_batch_size,
                **self._place(trainer),
                order="input" if stage == "predict" else "cost",
            )
            loaders.append(Loader(BatchDataset([source], collator, self.on_bad_row), plan, **self._reading(trainer)))
        return loaders

    def _remark(self, stage: Stage, number: int, collator: Any, rows: np.ndarray) -> None:
        """Print what the paradigm has to say of a source's rows."""
        if remark := collator.remark(self._scans[stage][number], rows):
            _say(f"{stage} {self.source_names(stage)[number]}: {remark}")

    def _attached(self) -> Any:  # a Trainer; it gets most of its attributes where mypy does not see them
        if self.trainer is None:
            raise ValueError("the loaders need a module to format the rows: hand the datamodule to a Trainer")
        return self.trainer

    def _collator(self, training: bool) -> Any:
        return self._attached().lightning_module.collator(training=training)

    @property
    def _use_ties(self) -> bool:
        return bool(self.trainer and getattr(self.trainer.lightning_module, "uses_ties", False))

    @property
    def _max_pixels(self) -> int | None:
        """Pixels to which the module's backbone shrinks images, where it says so."""
        return getattr(getattr(self._attached().lightning_module, "backbone", None), "max_pixels", None)

    def _train_row(self, index: int) -> str:
        """Name of a training row, by its position in all of them."""
        ends = np.cumsum([len(found) for found in self._scans["train"]])
        number = int(np.searchsorted(ends, index, side="right"))
        row = index - int(ends[number]) + len(self._scans["train"][number])
        return f"row {row} of {self.source_names('train')[number]}, counted from 0,"

    @staticmethod
    def _place(trainer: Any) -> dict[str, int]:
        """Data-parallel size and rank, which under tensor parallelism are not those of the process."""
        place = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        return {"world_size": place["num_replicas"], "rank": place["rank"]}

    def _reading(self, trainer: Any) -> dict[str, Any]:
        device = trainer.strategy.root_device.type
        if device == "cpu" and self.num_workers and "OMP_NUM_THREADS" not in os.environ:
            # Threads that wait for a core that a worker has spin, which is slower than doing without them.
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - self.num_workers))
        return {"num_workers": self.num_workers, "pin_memory": device == "cuda"}

    # ----------------------------------------------------------------------------------------------- resuming
    def _position(self) -> int:
        """Micro-batches that training has seen. Read off Lightning's own counters, which also decide when it steps:
        a second counter would drift from them when a run is interrupted inside a micro-batch."""
        trainer = self._attached()
        assert self._plan is not None
        seen = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if inside := seen % self._plan.accumulate:
            rank_zero_warn(
                f"This checkpoint was written inside an optimizer step, after {inside} of its {self._plan.accumulate} "
                "micro-batches. Their gradients are lost: the step is made with the rest of them."
            )
        return trainer.current_epoch * len(self._plan) + seen

    def state_dict(self) -> dict[str, Any]:
        """Micro-batches handed out, and what their order hangs on."""
        return {"done": self._plan.done, "plan": self._plan.signature()} if self._plan else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the checkpoint's rows and steps are the present ones.

        Raises:
            ValueError: where they are not.
        """
        self._resumed = state_dict["plan"]
        self._check_resumed()

    def _check_resumed(self) -> None:
        if not (self._plan and self._resumed):
            return
        now = self._plan.signature()
        changed = [f"{key} was {old}, is {now[key]}" for key, old in self._resumed.items() if now[key] != old]
        if changed:
            raise ValueError(
                f"cannot resume this run: {'; '.join(changed)}. The rows would come in another order. "
                "Resume with the same data and settings, or start a new run from the checkpoint's weights."
            )


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


def _as_list(sources: Sources) -> list[str | Source]:
    if sources is None:
        return []
    return list(sources) if isinstance(sources, list | tuple) else [sources]


def _open(given: str | Source, stage: Stage) -> Source:
    if isinstance(given, Source):
        return given
    if not Path(given).is_file():
        raise ValueError(
            f"data.{stage}: there is no file {given!r}; give a JSONL or Parquet file, or a source as class_path"
        )
    return ParquetSource(given) if given.endswith(".parquet") else JSONLSource(given)
