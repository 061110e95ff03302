"""Three tiny trained-looking members on disk: two that see, of different families, and one that reads text only."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward import NaiveRM
from lit_basereward.nn.backbone import Backbone

QUIET = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="session")
def members(backbone_folder, tmp_path_factory) -> dict[str, str]:
    """Checkpoints by name: ``qwen``, ``intern`` and ``text``."""
    folder = Path(tmp_path_factory.mktemp("members"))
    families = {"qwen": "qwen2_5_vl", "intern": "internvl", "text": "qwen2"}
    return {name: write(backbone_folder(family), folder / f"{name}.ckpt") for name, family in families.items()}


def write(backbone: str, path: Path, seed: int = 0) -> str:
    """A Naive-RM with a wide random head, as a checkpoint."""
    torch.manual_seed(seed)
    module = NaiveRM(Backbone(backbone, max_length=2048))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)
