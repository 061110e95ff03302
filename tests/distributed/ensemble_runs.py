"""What each process of these tests runs: a test of an ensemble, and its prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rank_runs

from lit_basereward import EnsembleRM
from lit_basereward.callbacks.predictions import PredictionWriter
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.routing import Route, When
from lit_basereward.data.types import Preference
from lit_basereward.testing import ListSource, preferences


def rows() -> list[Preference]:
    """Seven, so that on two devices with one at a time one computes a filler; every third row has no image."""
    return preferences(5, responses=(2, 3, 2, 4, 2, 2, 3))


def evaluate(members: dict[str, str], place: str, **options: Any) -> list[int]:
    """Test, then predict; the files are in ``place``."""
    routes = [Route([name for name in members if name != "text"], When(modality="image"))]
    module = EnsembleRM(members, routes=routes)
    source = ListSource(rows())
    data = PreferenceDataModule(test=source, predict=source, eval_batch_size=1)
    writer = PredictionWriter(str(Path(place) / "predictions.jsonl"))
    runner = rank_runs.trainer(place, callbacks=[writer], **options)
    runner.test(module, data, verbose=False)
    runner.predict(module, data, return_predictions=False)
    return [runner.global_rank, runner.world_size]


def two_ranks(members: dict[str, str], place: str) -> list[int]:
    return evaluate(members, place, devices=2, strategy="ddp")
