"""Set-up counts, messages, workers, and resuming anywhere, through the real Trainer."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from lit_basereward.data import scan as scanning
from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.collator import Collator
from lit_basereward.data.curation import Drop
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.loader import FILLER_ROW, Loader
from lit_basereward.data.manifest import CuratedSource, ManifestWriter
from lit_basereward.data.mixture import Mixture
from lit_basereward.data.scan import Scan
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.parquet import ParquetWriter
from lit_basereward.data.types import ImagePart, Message, Preference, RowError, TooLong
from lit_basereward.nn.layout import Layout
from lit_basereward.testing import ListSource, random_image

NAN = float("nan")
Row = tuple[float, ...] | str


class Rows(Source):
    """A source given by its rows' ratings. A text in place of a row is a bad row, and its message."""

    def __init__(self, rows: list[Row] | int = 3, name: str = "rows") -> None:
        self.rows: list[Row] = [(1.0, 0.0)] * rows if isinstance(rows, int) else rows
        self.name = name
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Preference:
        ratings = self.rows[index]
        if isinstance(ratings, str):
            raise RowError(f"{self.name}:{index + 1} {ratings}")
        responses = tuple("x" * (4 + index) for _ in ratings) or ("only",)
        prompt = (Message("user", (f"question {index}",)),)
        return Preference(str(index), prompt, responses, ratings, where=f"{self.name}:{index + 1}")


@dataclass
class PlainCollator:
    """The collator's contract without a tokenizer: rows listed in ``corrupt`` or ``too_long_rows`` are refused."""

    corrupt: tuple[int, ...] = ()
    too_long_rows: tuple[int, ...] = ()
    too_long: str = "error"

    def estimate(self, rows: Scan) -> np.ndarray:
        return Collator.estimate(self, rows)  # type: ignore[arg-type]

    def remark(self, rows: Scan, used: np.ndarray) -> str:
        return ""

    def prepare(self, index: int, row: Preference) -> tuple[int, Preference]:
        if index in self.corrupt:
            raise row.error("has a corrupt image")
        if index in self.too_long_rows:
            raise TooLong(str(row.error("has too many tokens")))
        return index, row

    def collate(self, items: list[tuple[int, Preference]], counts: StepCounts, dropped: list[str]) -> Batch:
        lengths = torch.tensor([len(response) for _, row in items for response in row.responses])
        return Batch(
            inputs={"number": torch.tensor([float(row.id) if row.id.isdigit() else 0.0 for _, row in items])},
            layout=Layout.padded(lengths.tolist()),
            row=torch.tensor([r for r, (_, row) in enumerate(items) for _ in row.responses]),
            ratings=torch.tensor([x for _, row in items for x in row.ratings or (NAN,) * len(row.responses)]),
            lengths=lengths,
            row_index=torch.tensor([index for index, _ in items]),
            weight=torch.ones(len(items)),
            truncated=torch.zeros(len(lengths), dtype=torch.bool),
            counts=counts,
            dropped=dropped,
        )


class Learner(LightningModule):
    """Its weights depend on which rows it saw in which order, and on when it stepped."""

    def __init__(self, collator: PlainCollator | None = None, uses_ties: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.uses_ties = uses_ties
        self._collator = collator or PlainCollator()
        self.seen: list[list[int]] = []
        self.batches: list[Batch] = []

    def collator(self, training: bool) -> PlainCollator:
        return self._collator

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch.row_index.tolist())
        self.batches.append(batch)
        number = batch.inputs["number"][:, None]
        return (torch.sin(number * torch.tensor([1.0, 2.0, 3.0])) @ self.weight - torch.cos(number)).square().sum()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.batches.append(batch)

    test_step = predict_step = validation_step

    def configure_optimizers(self) -> Any:
        total = self.trainer.estimated_stepping_batches  # makes the loader before Lightning restores its counters
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (2 * float(total)))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def trainer(path: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain = quiet | {"enable_checkpointing": bool(callbacks), "max_epochs": 1, "accelerator": "cpu", "devices": 1}
    return Trainer(default_root_dir=path, callbacks=list(callbacks), **plain | settings)


def fit(path: Path, data: PreferenceDataModule, module: Learner | None = None, **settings: Any) -> Learner:
    module = module or Learner()
    trainer(path, **settings).fit(module, data)
    return module


# ---------------------------------------------------------------------------------------------------- resuming
def mixed(num: int = 37) -> Rows:
    """Rows of K = 2 and K = 3; the numbers of comparisons come to 37 + 2 * 12 = 61."""
    return Rows([(2.0, 1.0, 0.0) if i % 3 == 1 else (1.0, 0.0) for i in range(num)])


def resumable(**settings: Any) -> PreferenceDataModule:
    return PreferenceDataModule(train=mixed(), val=Rows(4), global_batch_size=6, seed=5, **settings)


RUNS = {
    "epochs": ({"max_epochs": 3}, {}),
    "workers": ({"max_epochs": 2, "val_check_interval": 6}, {"num_workers": 2}),
    "accumulate": ({"max_epochs": 2, "accumulate_grad_batches": 3}, {}),
    "steps": ({"max_steps": 27, "max_epochs": -1, "accumulate_grad_batches": 2}, {}),
    "part of an epoch": ({"max_epochs": 3, "limit_train_batches": 7}, {}),
}


@pytest.mark.filterwarnings("error:You're resuming from a checkpoint")
@pytest.mark.parametrize("name", RUNS)
def test_stopping_at_any_step_and_resuming_changes_nothing(name: str, tmp_path: Path) -> None:
    """61 comparisons in steps of 6 are 11 steps an epoch. Checkpoints lie after each step; the run goes on from one in
    the middle of the first epoch, from its end, and from the middle of the second."""
    settings, reading = RUNS[name]
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = Learner()
    trainer(tmp_path, every, **settings).fit(whole, resumable(**reading))
    accumulate = settings.get("accumulate_grad_batches", 1)
    per_epoch = settings.get("limit_train_batches", 11)
    for stop in (4, per_epoch, 2 * per_epoch - 3):
        path = tmp_path / f"step={stop}.ckpt"
        module = Learner()
        trainer(tmp_path, **settings).fit(module, resumable(**reading), ckpt_path=str(path))
        assert module.seen == whole.seen[stop * accumulate :]
        assert torch.equal(module.weight, whole.weight)
        if per_epoch == 11:
            assert torch.load(path)["PreferenceDataModule"]["done"] == stop * accumulate


class Interrupt(Callback):
    """Raises inside a training step, and leaves a checkpoint, as one does on Ctrl-C."""

    def __init__(self, at: int, path: Path) -> None:
        self.at, self.path = at, path

    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.at:
            raise RuntimeError("interrupted")

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def test_resuming_from_inside_a_micro_batch(tmp_path: Path) -> None:
    """The micro-batch that was handed out but not learned from comes again."""
    whole = fit(tmp_path, resumable(), max_epochs=2)
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, Interrupt(14, path), max_epochs=2).fit(Learner(), resumable())
    module = Learner()
    trainer(tmp_path, max_epochs=2).fit(module, resumable(), ckpt_path=str(path))
    assert module.seen == whole.seen[14:]
    assert torch.equal(module.weight, whole.weight)


def test_resuming_from_inside_a_step_says_that_gradients_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "interrupted.ckpt"
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, Interrupt(7, path), accumulate_grad_batches=3).fit(Learner(), resumable())
    with pytest.warns(UserWarning, match="after 1 of its 3 micro-batches"):
        trainer(tmp_path, accumulate_grad_batches=3).fit(Learner(), resumable(), ckpt_path=str(path))


def test_more_epochs_after_the_last(tmp_path: Path) -> None:
    """From a checkpoint written after the end, and with the same trainer: the third epoch's order comes next."""
    whole = fit(tmp_path, resumable(), max_epochs=3)
    first = trainer(tmp_path, max_epochs=2)
    module, data = Learner(), resumable()
    first.fit(module, data)
    first.save_checkpoint(tmp_path / "end.ckpt")
    again = Learner()
    trainer(tmp_path, max_epochs=3).fit(again, resumable(), ckpt_path=str(tmp_path / "end.ckpt"))
    assert again.seen == whole.seen[22:]
    first.fit_loop.max_epochs = 3
    first.fit(module, data)
    assert module.seen == whole.seen


def test_a_new_run_with_the_same_data_starts_at_the_beginning(tmp_path: Path) -> None:
    data = resumable()
    assert fit(tmp_path, data).seen == fit(tmp_path, data).seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_batch_size": 7}, "global_batch_size was 6, is 7"),
        ({"seed": 6}, "seed was 5, is 6"),
        ({"train": mixed(36)}, "rows was 37, is 36"),
        ({"mixture": Mixture(limit={"rows": 20})}, "rows was 37, is 20"),
        ({"mixture": Mixture(repeat={"rows": 2})}, "rows was 37, is 74"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches was 1, is 2"),
    ],
)
def test_resuming_with_other_rows_or_steps_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    first = trainer(tmp_path, max_steps=4)
    first.fit(Learner(), resumable())
    first.save_checkpoint(path)
    accumulate = change.pop("accumulate_grad_batches", 1)
    given = {"train": mixed(), "global_batch_size": 6, "seed": 5} | change
    again = trainer(tmp_path, max_steps=8, accumulate_grad_batches=accumulate)
    with pytest.raises(ValueError, match=re.escape(message)):
        again.fit(Learner(), PreferenceDataModule(**given), ckpt_path=str(path))


class Notes(Callback):
    """Leaves the rows that a process has seen in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        (self.path / f"{trainer.global_step}-{trainer.global_rank}.json").write_text(json.dumps(pl_module.seen))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_mixture_comes_exactly_once_an_epoch_over_a_stop_and_a_resume(devices: int, tmp_path: Path) -> None:
    """37 rows, 1.5 times: 55 or 56 draws, each row once or twice, in two epochs; stopped after step 4 of the first."""
    mixture = Mixture(repeat={"rows": 1.5})
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "max_epochs": 2}
    if devices > 1:
        settings |= {"devices": devices, "strategy": "ddp_fork", "use_distributed_sampler": False}
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, checkpoint, Notes(tmp_path), **settings, max_steps=4).fit(Learner(), resumable(mixture=mixture))
    again = trainer(tmp_path, Notes(tmp_path), **settings)
    again.fit(Learner(), resumable(mixture=mixture), ckpt_path=str(tmp_path / "step=4.ckpt"))
    notes = sorted(tmp_path.glob("*.json"))
    assert len(notes) == 2 * devices
    seen = [i for note in notes for batch in json.loads(note.read_text()) for i in batch if i >= 0]
    data = resumable(mixture=mixture)
    data.setup("fit")
    counts = {i: seen.count(i) for i in range(37)}
    assert len(seen) == 2 * round(1.5 * 37)
    assert counts == {i: 2 * data._drawn[0].tolist().count(i) for i in range(37)}
    assert set(counts.values()) == {2, 4}


# ------------------------------------------------------------------------------------------------------- set-up
def test_summary_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """K = 3 with ratings 2 1 1 has 2 comparisons and a tie; of the rest only the pair can be used."""
    rows: list[Row] = [(1.0, 0.0), (2.0, 1.0, 1.0), (1.0, 1.0), (1.0,), (), (NAN, NAN), (NAN, 1.0), "has no prompt"]
    data = PreferenceDataModule(train=[Rows(rows, "a"), Rows(2, "a")], val=Rows(1), on_bad_row="skip")
    module = fit(tmp_path, data)
    first, second, val = data.summary
    assert (first.name, first.rows, first.used, first.comparisons, first.ties) == ("a", 8, 2, 3, 1)
    assert first.responses == (2, 3)
    assert first.left_out == {
        "all ratings equal": 1,
        "one response": 2,
        "all ratings NaN": 1,
        "one rating": 1,
        "bad row": 1,
    }
    assert first.messages == ["a:8 has no prompt"]
    assert (second.name, second.used, val.stage, val.used) == ("a_2", 2, "val", 1)
    out = capsys.readouterr().out
    assert re.search(r"train +a +8 +2 +3 +1 +2-3 +1 all ratings equal, 2 one response", out)
    assert "left out: a:8 has no prompt" in out
    (batch,) = [b for b in module.batches if b.counts.comparisons == 5]
    assert batch.counts == StepCounts(rows=4, comparisons=5, tied_rows=1, ties=1)
    assert sorted(batch.row_index.tolist()) == [0, 0, 1, 1]  # positions in their own sources


def test_table_of_a_mixture_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 6 text rows 5 can be used, three times; of 10 rows with an image, 5 make a quarter of all."""
    text = Rows([*[(1.0, 0.0)] * 5, (1.0, 1.0)], "text")
    prompt = (Message("user", (ImagePart(), "what is it")),)
    seen = ListSource(
        [Preference(str(i), prompt, ("a", "b"), (1.0, 0.0), (random_image(),)) for i in range(10)], "seen"
    )
    mixture = Mixture(repeat={"text": 3}, multimodal=0.25)
    data = PreferenceDataModule(train=[text, seen], val=Rows(2), mixture=mixture, global_batch_size=5)
    module = fit(tmp_path, data)
    out = capsys.readouterr().out
    assert re.search(r"train +text +6 +5 +15 \(75\.0%\) +5 +0 +2 +1 all ratings equal", out)
    assert re.search(r"train +seen +10 +10 +5 \(25\.0%\) +10 +0 +2$", out, re.MULTILINE)
    assert re.search(r"val +rows +2 +2 +2 +0 +2$", out, re.MULTILINE)
    assert "an epoch of training draws 20 rows, 25.0% of them with images" in out
    assert sum(map(len, module.seen)) == 20 and len(module.seen) == 4


def test_rows_of_the_manifest_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row 1 is listed, row 3 too, though it could not be used anyway; the second source is whole."""
    first, second = Rows([(1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0,), (0.0,)], "a"), Rows(2, "POVID")
    path = tmp_path / "manifest.jsonl"
    made_with = {"filters": [{"class": "Decontamination", "benchmarks": [{"suite": "vl_rewardbench"}]}]}
    with ManifestWriter(path, made_with) as manifest:
        for row in (3, 1):
            manifest.drop("a", row, Drop("tie"))
        manifest.finish(
            CuratedSource(source.name, source.fingerprint(), len(source), reasons)
            for source, reasons in ((first, {"tie": 2}), (second, {}))
        )
    data = PreferenceDataModule(train=[first, second], manifest=str(path), shuffle=False)
    assert [sorted(rows) for rows in fit(tmp_path, data).seen] == [[0, 0, 1, 2]]
    assert data.summary[0].left_out == {"one response": 1, "in the manifest": 2}
    assert (data.summary[0].used, data.summary[1].left_out) == (2, {})
    assert "warning" not in capsys.readouterr().out
    fit(tmp_path, PreferenceDataModule(train=[first, second]))
    assert "warning: POVID may hold rows of vl_rewardbench" in capsys.readouterr().out
    with pytest.raises(ValueError, match="does not know rows"):
        fit(tmp_path, PreferenceDataModule(train=Rows(3), manifest=str(path)))


def test_a_bad_row_that_the_manifest_lists_does_not_stop_a_run(tmp_path: Path) -> None:
    """Row 1 is bad and listed: the other two train. Row 1 of the second source is bad and not listed: its message."""
    path = tmp_path / "manifest.jsonl"

    def data(second: list[Row]) -> PreferenceDataModule:
        sources = [Rows([(1.0, 0.0), "row 1 is broken", (1.0, 0.0)], "a"), Rows(second, "b")]
        with ManifestWriter(path, {}) as manifest:
            manifest.drop("a", 1, Drop("bad row"))
            listed = ({"bad row": 1}, {})
            manifest.finish(
                CuratedSource(each.name, each.fingerprint(), len(each), reasons)
                for each, reasons in zip(sources, listed, strict=True)
            )
        return PreferenceDataModule(train=sources, manifest=str(path), shuffle=False)

    assert [sorted(rows) for rows in fit(tmp_path, data([(1.0, 0.0)])).seen] == [[0, 0, 2]]
    with pytest.raises(RowError, match="this one is broken, too"):
        fit(tmp_path, data([(1.0, 0.0), "this one is broken, too"]))


def test_curated_rows_are_given_by_their_path(tmp_path: Path) -> None:
    """What `curate` writes with write_rows trains as it is."""
    pytest.importorskip("datasets")
    path = tmp_path / "rows.parquet"
    with ParquetWriter(path) as writer:
        for n in range(3):
            writer.write(Preference(str(n), (Message("user", ("q",)),), ("a", "b"), (1.0, 0.0)))
    assert [sorted(rows) for rows in fit(tmp_path, PreferenceDataModule(train=str(path))).seen] == [[0, 1, 2]]


def test_large_sources_are_read_before_other_processes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning runs prepare_data on one process, before setup on all: the others find what was read on disk."""
    monkeypatch.setenv("LIT_BASEREWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scanning, "KEPT_ABOVE", 2)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "responses": ["good", "bad"], "ratings": [1, 0]}\n' * 3)
    data = PreferenceDataModule(train=str(path))
    data.prepare_data()
    assert len(list(tmp_path.glob("cache/scan/*.npz"))) == 1


def test_rows_with_ties_alone_train_where_the_module_uses_ties(tmp_path: Path) -> None:
    rows: list[Row] = [(1.0, 0.0), (1.0, 1.0)]
    assert fit(tmp_path, PreferenceDataModule(train=Rows(rows))).seen == [[0]]
    data = PreferenceDataModule(train=Rows(rows), shuffle=False)
    module = fit(tmp_path, data, Learner(uses_ties=True))
    assert sorted(module.seen[0]) == [0, 1]
    assert module.batches[0].counts == StepCounts(rows=1, comparisons=1, tied_rows=1, ties=1)
    assert data.summary[0].left_out == {}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {"train": Rows([(1.0,), (0.5, 0.5)])},
            "data.train has nothing to use. rows has 2 rows: 1 one response, 1 all",
        ),
        ({"train": Rows([])}, "data.train has nothing to use. rows has no rows"),
        ({"train": Rows(["is broken"])}, "1 bad row. It needs a row with two responses that are rated differently"),
        ({"train": Rows(["is broken"])}, "\n  rows:1 is broken"),
        ({"train": Rows(2), "val": [Rows(1), Rows([(1.0,)], "lone")]}, "data.val has nothing to use. lone has 1 rows"),
        ({"val": Rows(1)}, "no data: give data.train a JSONL file or a source"),
        ({"train": "absent.jsonl"}, "data.train: there is no file 'absent.jsonl'"),
    ],
)
def test_nothing_to_train_on(sources: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(tmp_path, PreferenceDataModule(**sources, on_bad_row="skip"))


def test_bad_row_stops_set_up(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"^rows:2 has no prompt$"):
        fit(tmp_path, PreferenceDataModule(train=Rows([(1.0, 0.0), "has no prompt"])))


def test_only_the_running_stage_is_prepared_and_read(tmp_path: Path) -> None:
    train, test = Rows(["is broken"]), Rows(2, "held out")
    data = PreferenceDataModule(train=train, test=test)
    trainer(tmp_path).test(Learner(), data, verbose=False)
    assert (train.prepared, test.prepared) == (0, 1)
    assert [line.name for line in data.summary] == ["held out"]


def test_without_a_trainer() -> None:
    """In a notebook: what does the data hold? Loaders need a module."""
    data = PreferenceDataModule(train=Rows(5), val=Rows(2))
    data.prepare_data()
    data.setup()
    assert [line.used for line in data.summary] == [5, 2]
    with pytest.raises(ValueError, match="hand the datamodule to a Trainer"):
        data.train_dataloader()


# --------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_has_a_loader_per_source_and_predict_takes_all_in_order(tmp_path: Path) -> None:
    rows: list[Row] = [(1.0, 0.0), (1.0,), (), (1.0, 1.0)] * 5
    data = PreferenceDataModule(test=[Rows(rows, "a"), Rows(3, "a")], predict=Rows(rows), eval_batch_size=3)
    tester = Learner()
    trainer(tmp_path).test(tester, data, verbose=False)
    assert data.source_names("test") == ["a", "a_2"]
    seen = [batch.row_index.tolist() for batch in tester.batches]
    assert sorted(i for indices in seen[:2] for i in indices) == [0, 4, 8, 12, 16]
    assert sorted(seen[2]) == [0, 1, 2]
    scorer = Learner()
    trainer(tmp_path).predict(scorer, data, return_predictions=False)
    assert [i for batch in scorer.batches for i in batch.row_index.tolist()] == list(range(20))


@pytest.mark.parametrize(("done", "left"), [([0, 1, 3], [2, 4]), ([0, 1, 2, 3, 4], [-1])])
def test_predict_goes_on_after_finished_rows(done: list[int], left: list[int], tmp_path: Path) -> None:
    """With nothing left there is one filler batch, so that the hooks that close the output still run."""
    data = PreferenceDataModule(predict=Rows(5))

    class Resume(Callback):
        ended = False

        def scored_rows(self, trainer: Trainer, stage: str, number: int) -> list[int]:
            return done

        def on_predict_end(self, *_: Any) -> None:
            self.ended = True

    scorer, resume = Learner(), Resume()
    trainer(tmp_path, resume).predict(scorer, data, return_predictions=False)
    assert [batch.row_index.tolist() for batch in scorer.batches] == [left]
    assert resume.ended


def test_predict_source_is_one() -> None:
    rows = Rows(5)
    assert PreferenceDataModule(predict=rows).predict_source is rows
    with pytest.raises(ValueError, match=r"data\.predict has 2 sources"):
        _ = PreferenceDataModule(predict=[rows, Rows(1)]).predict_source


def test_blanked_sources_know_the_source_underneath() -> None:
    first, second = Rows(5, "a"), Rows(4, "a")
    data = PreferenceDataModule(
        test=[first, BlankImages(first), second, BlankImages(second), BlankImages(Rows(1, "b"))]
    )
    assert data.source_names("test") == ["a", "a_blank", "a_2", "a_blank_2", "b_blank"]
    assert data.blank_of == {"a_blank": "a", "a_blank_2": "a_2", "b_blank": "b"}


def test_fingerprint_follows_the_rows() -> None:
    assert PreferenceDataModule(val=Rows(5)).fingerprint("val") == PreferenceDataModule(val=Rows(5)).fingerprint("val")
    assert PreferenceDataModule(val=Rows(5)).fingerprint("val") != PreferenceDataModule(val=Rows(6)).fingerprint("val")


# ------------------------------------------------------------------------------------------------- bad rows later
@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_of_a_row_surfaces_as_itself(num_workers: int, tmp_path: Path) -> None:
    """A worker's error is a RowError with the row's message alone, not a traceback in a RuntimeError."""
    data = PreferenceDataModule(train=Rows(4), global_batch_size=2, num_workers=num_workers)
    with pytest.raises(RowError, match=r"^rows:3 has a corrupt image$"):
        fit(tmp_path, data, Learner(PlainCollator(corrupt=(2,))))


def test_batches_of_workers_are_those_of_the_main_process(tmp_path: Path) -> None:
    """Packed for the way, unpacked with every type, shape and value; an empty tensor and a lone byte among them."""

    class More(PlainCollator):
        def collate(self, *args: Any) -> Batch:
            batch = super().collate(*args)
            batch.inputs |= {
                "empty": torch.zeros(0, 5),
                "flag": torch.tensor([True]),
                "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
                "slice": torch.arange(12, dtype=torch.int32).view(3, 4)[:, 1:3],
            }
            return batch

    both = []
    for workers in (0, 2):
        data = PreferenceDataModule(train=mixed(), global_batch_size=6, num_workers=workers)
        both.append(fit(tmp_path, data, Learner(More())).batches)
    assert len(both[0]) == 11
    for alone, sent in zip(*both, strict=True):
        assert alone.counts == sent.counts and alone.dropped == sent.dropped
        for one, two in ((alone, sent), (alone.layout, sent.layout)):
            assert [f.name for f in fields(one)] == [f.name for f in fields(two)]
            tensors = [(getattr(one, f.name), getattr(two, f.name)) for f in fields(one)]
            for first, second in [*tensors, *((alone.inputs[k], sent.inputs[k]) for k in alone.inputs)]:
                assert type(first) is type(second)
                if isinstance(first, Tensor):
                    assert (first.dtype, first.shape) == (second.dtype, second.shape)
                    assert torch.equal(first, second)


def test_skipped_rows_are_named_and_a_batch_without_rows_is_a_filler(tmp_path: Path) -> None:
    """Rows 0 to 3 in pairs; 1, 2 and 3 are refused: the first step keeps row 0, the second has only the filler."""
    data = PreferenceDataModule(train=Rows(4), global_batch_size=2, on_bad_row="skip", shuffle=False)
    module = fit(tmp_path, data, Learner(PlainCollator(corrupt=(1, 2), too_long_rows=(3,))))
    assert module.seen == [[0], [-1]]
    assert [sorted(batch.dropped) for batch in module.batches] == [
        ["rows:2 has a corrupt image"],
        ["rows:3 has a corrupt image", "rows:4 has too many tokens"],
    ]
    assert module.batches[1].ratings.isnan().all()
    assert module.batches[1].counts.comparisons == 2


def test_too_long_rows_are_dropped_where_the_module_says_so(tmp_path: Path) -> None:
    collator = PlainCollator(too_long_rows=(1,), too_long="drop")
    module = fit(tmp_path, PreferenceDataModule(train=Rows(2)), Learner(collator))
    assert module.seen == [[0]]
    with pytest.raises(TooLong, match=r"^rows:2 has too many tokens$"):
        fit(tmp_path, PreferenceDataModule(train=Rows(2)), Learner(replace(collator, too_long="error")))


def test_filler_row_adds_nothing() -> None:
    assert FILLER_ROW.comparisons() == FILLER_ROW.ties() == []
    assert len(FILLER_ROW.responses) == 2 and not FILLER_ROW.images


# ---------------------------------------------------------------------------------------------------- steps
def test_advice_where_micro_batches_stay_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of 2 rows in 3 micro-batches: a third is empty."""
    fit(tmp_path, PreferenceDataModule(train=Rows(6), global_batch_size=2), accumulate_grad_batches=3)
    assert "33% of the micro-batches are empty" in capsys.readouterr().out
    fit(tmp_path, PreferenceDataModule(train=Rows(6), global_batch_size=3), accumulate_grad_batches=3)
    assert "empty" not in capsys.readouterr().out


def test_micro_batches_of_too_many_tokens(tmp_path: Path) -> None:
    """Row i: 10 bytes of prompt, two responses of 4 + i bytes, two ends of turns: 2.5 + 2 + i / 2 + 2 tokens. Rows 0 to
    3 are 29 tokens, rows 4 to 7 are 37: in two micro-batches 10 + 8.5 and 9.5 + 9, in three 10, 9.5 and 9 + 8.5."""

    def run(max_tokens: int, **settings: Any) -> Learner:
        data = PreferenceDataModule(train=Rows(8), global_batch_size=4, shuffle=False, max_tokens=max_tokens)
        return fit(tmp_path, data, **settings)

    with pytest.raises(ValueError, match=r"step 1 of epoch 0, .* about 37 tokens, over .* 36; set .* to 2 \(it is 1\)"):
        run(36)
    with pytest.raises(ValueError, match=r"about 29 tokens, over data.max_tokens 18; set .* to 3 \(it is 1\)"):
        run(18)
    with pytest.raises(ValueError, match=r"2 rows have more .* the first is row 6 of rows, .* about 10 tokens; raise"):
        run(9)
    assert len(run(37).seen) == 2
    assert len(run(19, accumulate_grad_batches=2).seen) == 4


def test_tokens_of_later_epochs_are_checked_too(tmp_path: Path) -> None:
    """Rows 6 and 7 have 9.5 and 10 tokens. In steps of two, the first epoch keeps them apart, a later one does not."""
    data = PreferenceDataModule(train=Rows(8), global_batch_size=2, max_tokens=19)
    fit(tmp_path, data, max_epochs=1)
    with pytest.raises(ValueError, match=r"of epoch [1-9]"):
        fit(tmp_path, data, max_epochs=50)


def test_what_would_cut_steps_is_refused(tmp_path: Path) -> None:
    data = PreferenceDataModule(train=Rows(40), global_batch_size=4)
    with pytest.raises(ValueError, match="takes 7 micro-batches, which cuts an optimizer step"):
        fit(tmp_path, data, accumulate_grad_batches=2, limit_train_batches=7)
    with pytest.raises(ValueError, match=r"set trainer\.accumulate_grad_batches"):
        trainer(tmp_path, GradientAccumulationScheduler({1: 2})).fit(Learner(), data)
    fit(tmp_path, data, accumulate_grad_batches=2, fast_dev_run=1)


def test_overfitting_repeats_the_same_batches(tmp_path: Path) -> None:
    seen = fit(
        tmp_path, PreferenceDataModule(train=Rows(40), global_batch_size=4), overfit_batches=2, max_epochs=2
    ).seen
    assert seen[:2] == seen[2:] == [[3, 2, 1, 0], [7, 6, 5, 4]]


def test_lightning_leaves_the_loaders_alone(tmp_path: Path) -> None:
    """On two devices it would put its own sampler into a DataLoader, and did into the control."""
    data = PreferenceDataModule(train=Rows(8), predict=Rows(8))
    on_two = trainer(tmp_path, devices=2, strategy="ddp")
    prepare = on_two._data_connector._prepare_dataloader
    data.trainer = on_two
    on_two.strategy.connect(Learner())
    data.setup()
    for loader in [data.train_dataloader(), *data.predict_dataloader()]:
        assert isinstance(loader, Loader)
        for mode in ("train", "predict"):
            assert prepare(loader, shuffle=False, mode=mode) is loader
    control: DataLoader[Any] = DataLoader([1, 2, 3], sampler=SequentialSampler([1, 2, 3]))
    assert prepare(control, shuffle=False, mode="train") is not control


# ----------------------------------------------------------------------------------------------------- YAML
def test_mixture_from_yaml_and_command_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {train: a.jsonl, mixture: {repeat: {a: 2.5}, limit: {b: 10}}}")
    data = parse("--config", str(config), "--data.mixture.multimodal", "0.8", "--data.max_tokens", "9000").datamodule
    assert data.mixture == Mixture(repeat={"a": 2.5}, limit={"b": 10}, multimodal=0.8)
    assert (data.max_tokens, parse().datamodule.mixture) == (9000, None)


def parse(*args: str) -> LightningCLI:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LightningCLI(
            Learner,
            PreferenceDataModule,
            run=False,
            args=list(args),
            save_config_callback=None,
            auto_configure_optimizers=False,
            trainer_defaults={"logger": False, "accelerator": "cpu"},
        )


def test_sources_from_yaml_and_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of classes and paths, a lone path, appending from an overlay, and what --print_config writes read back."""
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    here = f"{__name__}.Rows"
    base.write_text(
        json.dumps({"data": {"train": [{"class_path": here, "init_args": {"name": "a"}}], "val": "v.jsonl"}})
    )
    overlay.write_text(json.dumps({"data": {"train+": [{"class_path": here, "init_args": {"rows": 7}}, "more.jsonl"]}}))
    given = parse("--config", str(base), "--config", str(overlay), "--data.test", "t.jsonl").datamodule._given
    first, second, path = given["train"]
    assert isinstance(first, Rows) and first.name == "a"
    assert isinstance(second, Rows) and len(second) == 7
    assert (path, given["val"], given["test"], given["predict"]) == ("more.jsonl", ["v.jsonl"], ["t.jsonl"], [])
    with pytest.raises(SystemExit):
        parse("--config", str(base), "--config", str(overlay), "--print_config")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    again = parse("--config", str(printed), "--data.train+=last.jsonl").datamodule._given
    assert [type(source) for source in again["train"]] == [Rows, Rows, str, str]
    assert len(again["train"][1]) == 7 and again["train"][2:] == ["more.jsonl", "last.jsonl"]
