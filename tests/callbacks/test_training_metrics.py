"""What is logged of training steps whose loss has parts, and of rewards that mean something inside their row only."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward import CriticRM, GenerativeRM
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource, preferences


def first_step(module: RewardModule, folder, accumulate: int = 1) -> dict[str, float]:
    """What the first step logs: four rows of two responses, of which two have critiques."""
    rows = [row for seed in range(2) for row in preferences(seed, images=False, responses=(2, 3, 2))[::2]]
    rows = [replace(row, critiques=("it is right", "wrong: red") if n % 2 else ()) for n, row in enumerate(rows)]
    trainer = pl.Trainer(
        max_steps=1, accumulate_grad_batches=accumulate, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, PreferenceDataModule(train=ListSource(rows), global_batch_size=4))
    logged = {name.removeprefix("train/"): float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in logged.items() if not name.endswith(("_per_s", "/s"))}


def test_parts_of_a_critics_loss_add_up(backbone_folder, tmp_path):
    """Rewards start equal, as the last layer is zero: ranking_loss is log 2. The parts make the loss, and the same in
    two micro-batches of which one or the other may lack critiques. With weight 2 the critiques' part is twice as large;
    without critiques there is none."""

    def critic(**options) -> CriticRM:
        torch.manual_seed(0)
        module = CriticRM(Backbone(backbone_folder("qwen2"), max_length=2048), **options)
        module.configure_model()
        torch.nn.init.zeros_(module.model.head.layers[-1].weight)
        return module

    once = first_step(critic(), tmp_path)
    assert once["ranking_loss"] == pytest.approx(math.log(2), abs=1e-6) and once["critique_loss"] > 1
    assert once["loss"] == pytest.approx(once["ranking_loss"] + once["critique_loss"], abs=1e-5)
    twice = first_step(critic(), tmp_path, accumulate=2)
    assert {name: twice[name] for name in once} == pytest.approx(once, abs=1e-4)
    heavier = first_step(critic(critique_weight=2.0), tmp_path)
    assert heavier["critique_loss"] == pytest.approx(2 * once["critique_loss"], rel=1e-5)
    assert "critique_loss" not in first_step(critic(critique="none"), tmp_path)


def test_rows_without_critiques_are_told_of(backbone_folder, tmp_path, capsys):
    """Two of the four rows have them."""
    first_step(CriticRM(Backbone(backbone_folder("qwen2"), max_length=2048)), tmp_path)
    assert re.search("train .*: 2 of 4 rows do not have a critique of each response", capsys.readouterr().out)


def test_a_judges_rewards_are_not_averaged_over_rows(backbone_folder, tmp_path):
    """What is about the order inside a row stays; what compares rows is not there."""
    torch.manual_seed(0)
    logged = first_step(GenerativeRM(Backbone(backbone_folder("qwen2"), max_length=2048)), tmp_path)
    assert {"loss", "accuracy", "margin", "reward_ties", "grad_norm"} <= logged.keys()
    assert not [name for name in logged if "better_reward" in name or "worse_reward" in name or "length" in name]
