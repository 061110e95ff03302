"""Every YAML under configs/ parses and builds its model and data; none is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_basereward.cli import RewardCLI
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.losses import BradleyTerry
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.heads import MLPHead

ROOT = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.y*ml"))


class Built(RewardCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_all_are_found():
    """A new config raises this number, so that none slips past the test below."""
    assert CONFIGS == ["7b.yaml", "demo.yaml"]


@pytest.mark.parametrize("config", CONFIGS)
def test_builds(config, tmp_path, monkeypatch):
    """Model, data and trainer are made from it; nothing runs."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(ROOT / config)])
    assert isinstance(cli.model, NaiveRM) and isinstance(cli.datamodule, PreferenceDataModule)


def test_7b_is_the_papers_recipe(tmp_path, monkeypatch):
    """Two layers with SiLU, Bradley-Terry alone, lr 3e-6, 128 comparisons, one epoch, vision tower frozen."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(ROOT / "7b.yaml")])
    model = cli.model
    head = model.head(8)
    assert isinstance(head, MLPHead) and [type(layer).__name__ for layer in head.layers] == ["Linear", "SiLU", "Linear"]
    assert isinstance(model.ranking_loss, BradleyTerry) and model.ranking_loss.margin == 0 and model.regularizers == []
    assert not model.ranking_loss.length_norm and model.ranking_loss.label_smoothing == 0
    assert model.make_optimizer([torch.nn.Parameter()]).defaults["lr"] == 3e-6
    assert model.backbone.name_or_path == "Qwen/Qwen2.5-VL-7B-Instruct" and model.backbone.freeze == ["vision"]
    assert cli.datamodule.global_batch_size == 128
    assert cli.trainer.max_epochs == 1
