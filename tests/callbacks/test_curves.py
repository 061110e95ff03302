"""What is left of a training run beside its checkpoints: lines of figures, and pictures of them.

The module of these tests is ``Known``: its rewards are ratings times 1 + the steps made, so all figures are known.
"""

from __future__ import annotations

import math
import re
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from lit_basereward.callbacks.curves import Curves, quantiles, read_metrics
from lit_basereward.callbacks.evaluation import Evaluation
from lit_basereward.callbacks.gathering import Gathered
from lit_basereward.callbacks.interrupt import GracefulStop, Interrupted
from lit_basereward.callbacks.results import evaluate
from lit_basereward.callbacks.training_metrics import TrainingMetrics
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import Message, Preference
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource


class Known(NaiveRM):
    """Rewards are ratings times 1 + the steps made."""

    def score(self, batch):
        return 0 * super().score(batch) + batch.ratings * (1 + self.trainer.global_step)


def rows(*ratings: tuple[float, ...]) -> list[Preference]:
    prompt = (Message("user", ("the cat",)),)
    return [Preference(str(n), prompt, ("a dog", "it is red")[: len(each)], each) for n, each in enumerate(ratings)]


def fit(folder: Path, backbone: str, steps: int, ckpt: Path | None = None, **settings: Any) -> pl.Trainer:
    """Steps of two comparisons with margins 1 and 3, validation after each second one; a checkpoint then, too."""
    data = PreferenceDataModule(
        train=ListSource(rows((1, 0), (3, 0))),
        val=[ListSource(rows((1, 0), (2, 0)), "pairs"), ListSource(rows((1, 2)), "one")],
        global_batch_size=2,
    )
    saves = ModelCheckpoint(folder, filename="best", monitor="val/accuracy", mode="max", save_last=True)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=folder, log_every_n_steps=1, check_val_every_n_epoch=2,
        enable_progress_bar=False, enable_model_summary=False,
        **{"logger": False, **settings, "callbacks": [saves, *settings.get("callbacks", [])]},
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(Known(Backbone(backbone, max_length=2048)), data, ckpt_path=ckpt)
    return trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    """Those of a run, without what hangs on the machine."""
    found = read_metrics(folder / "metrics.jsonl")
    for line in found:
        for key in ("tokens_per_s", "rows_per_s"):
            line.get("train", {}).pop(key, None)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory, backbone_folder) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, backbone_folder("qwen2"), 4)
    return folder


def test_lines_by_hand(whole):
    """Step s is made with s - 1 behind it: margins s and 3 s, all right; loss -log sigmoid.

    Validation after 2 steps: factor 3. `pairs`: margins 3 and 6, better rewards 3 and 6, worse 0; quantile q of two
    values a, b is a + q (b - a). `one`: reward 6 is better than 3.
    """
    found = lines(whole)
    assert [(line["step"], "val" in line) for line in found] == [
        (1, False), (2, False), (2, True), (3, False), (4, False), (4, True),
    ]  # fmt: skip

    def loss(*margins: float) -> float:
        return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)

    for s in (1, 2, 3, 4):
        train = next(line["train"] for line in found if line["step"] == s and "train" in line)
        assert (train["accuracy"], train["margin"], train["better_reward"]) == (1, 2 * s, 2 * s)
        assert train["better_reward_std"] == s and train["worse_reward"] == 0
        assert train["loss"] == pytest.approx(loss(s, 3 * s), rel=1e-5)
    val = found[2]["val"]
    assert list(val) == ["pairs", "one"]
    assert (val["pairs"]["accuracy"], val["pairs"]["margin"]) == (1, 4.5)
    assert val["pairs"]["log_loss"] == pytest.approx(loss(3, 6), rel=1e-5)
    assert val["pairs"]["margin_quantiles"] == val["pairs"]["better_quantiles"] == [3.15, 3.75, 4.5, 5.25, 5.85]
    assert val["pairs"]["worse_quantiles"] == [0] * 5
    assert (val["one"]["better_quantiles"], val["one"]["worse_quantiles"]) == ([6] * 5, [3] * 5)


def test_a_benchmarks_headline_and_a_judges_margins(tmp_path):
    """The official figure stands for the accuracy, as in `val/accuracy`; rewards of a judge have no spread over rows.

    Two rows with margins 1 and -3: quantile q is -3 + 4 q; one of two is right.
    """
    evaluation = Evaluation()
    given = [torch.tensor(each) for each in ([0, 0, 1, 1], [1.0, 0.0, 0.0, 3.0], [1.0, 0.0, 1.0, 0.0], [1, 1, 1, 1])]
    evaluation.gathered = {name: Gathered(*given) for name in ("suite", "pairs")}
    evaluation.results = {name: evaluate(*given, comparable_across_rows=False) for name in evaluation.gathered}
    evaluation.headlines = {"suite": 0.25, "pairs": 0.5}
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, callbacks=[ModelCheckpoint(tmp_path)])
    curves = Curves(TrainingMetrics(), evaluation)
    curves.on_train_start(trainer, GenerativeRM)
    curves.on_validation_epoch_end(trainer, GenerativeRM)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert [figures["accuracy"] for figures in line["val"].values()] == [0.25, 0.5]
    assert line["val"]["suite"]["margin_quantiles"] == pytest.approx([-2.8, -2, -1, 0, 0.8])
    assert "better_quantiles" not in line["val"]["suite"]


def test_pictures_lie_beside_the_checkpoint(whole):
    pytest.importorskip("matplotlib")
    files = {path.name for path in whole.iterdir()}
    assert files == {"best.ckpt", "last.ckpt", "metrics.jsonl", "curves.png", "rewards.png"}
    for name in ("curves.png", "rewards.png"):
        assert Image.open(whole / name).width > 800


def test_a_resumed_run_has_the_lines_of_one_that_was_not_stopped(whole, tmp_path, backbone_folder):
    """Two steps, of later ones that were lost lines that are forgotten, and two more from the checkpoint: in another
    folder, then in the same."""
    fit(tmp_path / "first", backbone_folder("qwen2"), 2)
    with (tmp_path / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train": {"loss": 99.0}}\n{"step": 5, "train": {"loss": 99.0}}\n{"step": 6, "tra')
    for folder in (tmp_path / "second", tmp_path / "first"):
        fit(folder, backbone_folder("qwen2"), 4, ckpt=tmp_path / "first" / "last.ckpt")
        assert lines(folder) == lines(whole)
        assert (folder / "curves.png").exists() == (whole / "curves.png").exists()


def test_lines_of_another_run_are_not_taken_up(whole, tmp_path, backbone_folder):
    """By one that resumes a checkpoint which has no lines beside it; below, by a new one."""
    (tmp_path / "metrics.jsonl").write_text('{"run": "another"}\n{"step": 1, "train": {"loss": 99.0}}\n')
    fit(tmp_path / "first", backbone_folder("qwen2"), 2)
    (tmp_path / "first" / "metrics.jsonl").unlink()
    fit(tmp_path, backbone_folder("qwen2"), 4, ckpt=tmp_path / "first" / "last.ckpt")
    assert lines(tmp_path) == lines(whole)[3:]


@pytest.mark.slow
def test_loggers_make_no_difference(whole, tmp_path, backbone_folder, capsys):
    """And the last lines name the paths, the command of TensorBoard among them, each once."""
    loggers = [kind(tmp_path, name="", version="") for kind in (CSVLogger, TensorBoardLogger)]
    (tmp_path / "metrics.jsonl").write_text('{"run": "another"}\n{"step": 1, "train": {"loss": 99.0}}\n')
    fit(tmp_path, backbone_folder("qwen2"), 4, logger=loggers)
    assert lines(tmp_path) == lines(whole)
    checkpoint, curves, board = capsys.readouterr().out.splitlines()[-3:]
    assert checkpoint == f"checkpoint: {tmp_path}/best.ckpt (val/accuracy 1.000)"
    assert re.fullmatch(rf"curves: {tmp_path}/(curves.png, {tmp_path}/rewards.png|metrics.jsonl \(.*\))", curves)
    assert re.fullmatch(rf"TensorBoard: \S*tensorboard --logdir {tmp_path}", board)


class Signal(pl.Callback):
    """Ctrl-C in the third step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_is_drawn_and_goes_on(whole, tmp_path, backbone_folder):
    """It ends after the third step, before that is logged: that line alone is missing."""
    with pytest.raises(Interrupted):
        fit(tmp_path, backbone_folder("qwen2"), 4, callbacks=[GracefulStop(), Signal()])
    assert (tmp_path / "curves.png").exists() == (whole / "curves.png").exists()
    assert lines(tmp_path) == lines(whole)[:3]
    fit(tmp_path, backbone_folder("qwen2"), 4, ckpt=tmp_path / "interrupted.ckpt")
    assert lines(tmp_path) == [*lines(whole)[:3], *lines(whole)[4:]]


def test_without_matplotlib_lines_are_left_and_what_to_install_is_said(
    whole, tmp_path, backbone_folder, capsys, monkeypatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fit(tmp_path, backbone_folder("qwen2"), 4)
    assert lines(tmp_path) == lines(whole) and not list(tmp_path.glob("*.png"))
    assert capsys.readouterr().out.count('pip install "lit_basereward[demo]"') == 1


def test_nothing_is_written_where_nothing_is_kept(tmp_path, backbone_folder, capsys):
    data = PreferenceDataModule(train=ListSource(rows((1, 0))), global_batch_size=1)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Known(Backbone(backbone_folder("qwen2"), max_length=2048)), data)
    assert list(tmp_path.iterdir()) == [] and "curves" not in capsys.readouterr().out


def test_quantiles_leave_out_what_is_no_number():
    """Of 1 to 5: 5 % lies a fifth of the way from the first to the second."""
    assert quantiles(torch.tensor([5.0, 1, 2, math.nan, 3, 4, math.inf])) == pytest.approx([1.2, 2, 3, 4, 4.8])
    assert quantiles(torch.tensor([math.nan])) is None
