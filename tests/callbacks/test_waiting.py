"""What a training step asks tensors for: on a GPU each such question waits for all work before it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_basereward.callbacks.training_metrics import TrainingMetrics
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.reward_model import RewardModel
from lit_basereward.testing import ListSource, preferences

PACKAGE = str(Path(sys.modules["lit_basereward"].__file__).parent)
METHODS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
SIZES = ("nonzero", "unique", "_local_scalar_dense", "masked_select", "is_nonzero", "equal")  # results of unknown size


def our_caller() -> str | None:
    """``file:function`` of ours where the nearest frame outside of torch is one."""
    frame: Any = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    file = frame.f_code.co_filename
    return f"{Path(file).name}:{frame.f_code.co_name}" if file.startswith(PACKAGE) else None


class Sizes(TorchDispatchMode):
    """Notes operations whose result has a size that only the device knows, boolean indexing among them."""

    def __init__(self, asked: set[str]) -> None:
        super().__init__()
        self.asked = asked

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [each for each in args[1] if each is not None] if name == "index" else []
        if (name.startswith(SIZES) or any(mask.dtype == torch.bool for mask in masks)) and (where := our_caller()):
            self.asked.add(where)
        return func(*args, **(kwargs or {}))


@contextmanager
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The places of ours that ask a tensor for numbers meanwhile."""
    asked: set[str] = set()
    with monkeypatch.context() as patch, Sizes(asked):
        for method in METHODS:
            original = getattr(torch.Tensor, method)

            def noting(self, *args, original=original, **kwargs):
                if where := our_caller():
                    asked.add(where)
                return original(self, *args, **kwargs)

            patch.setattr(torch.Tensor, method, noting)
        yield asked


def test_the_question_is_noted(monkeypatch):
    """The recorder sees a list, a truth value and a boolean index where code of ours asks for them."""
    from lit_basereward.losses.functional import comparisons
    from lit_basereward.nn.reward_model import _select

    class Features:
        pooler_output = (torch.ones(2), torch.zeros(2))

    with asking(monkeypatch) as asked:
        comparisons(torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
        _select(Features(), torch.tensor([1, 0, 1]), None)
    assert asked == {"functional.py:comparisons", "functional.py:_same_row", "reward_model.py:_select"}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2"])
def test_a_step_asks_nothing_but_for_its_pairs(backbone_folder, tmp_path, monkeypatch, family):
    """From the batch on its device to the backward pass; figures are asked for at logged steps alone, here the first.

    Rows 0 and 1 of step 2 have the same image, so that features are chosen among. Which responses are compared is asked
    for by the loss. (Transformers asks on its own account where there are images.)
    """
    images = family == "qwen2_5_vl"
    rows = [row for _ in range(2) for row in preferences(0, images, responses=(2, 3, 2))[:2]]
    data = PreferenceDataModule(train=ListSource(rows * 2), global_batch_size=10_000)
    module = NaiveRM(Backbone(backbone_folder(family), max_length=2048))
    asked: dict[str, set[str]] = {}
    forward, metrics = RewardModel.forward, TrainingMetrics.on_train_batch_end
    chosen = []

    def watched_forward(self, inputs, layout):
        chosen.append(layout.image_entries)
        with asking(monkeypatch) as found:
            rewards = forward(self, inputs, layout)
        asked.setdefault("forward", set()).update(found)
        return rewards

    def watched_metrics(self, trainer, *args):
        with asking(monkeypatch) as found:
            metrics(self, trainer, *args)
        asked.setdefault(f"metrics of step {trainer.global_step}", set()).update(found)

    monkeypatch.setattr(RewardModel, "forward", watched_forward)
    monkeypatch.setattr(TrainingMetrics, "on_train_batch_end", watched_metrics)
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=50, max_epochs=2,
    )  # fmt: skip
    trainer.fit(module, data)
    assert any(chosen) == images
    assert asked["forward"] == set()
    assert asked["metrics of step 2"] == set()
    assert "training_metrics.py:sums" in asked["metrics of step 1"]
