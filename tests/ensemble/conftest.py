"""Three tiny trained-looking members on disk: two that see, of different families, and one that reads text only."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

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


@pytest.fixture
def config(members, tmp_path, monkeypatch) -> str:
    """Two members, weighted by accuracy, not fitted; the checkpoints lie beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("qwen", "text"):
        (tmp_path / f"{name}.ckpt").write_bytes(Path(members[name]).read_bytes())
    path = tmp_path / "ensemble.yaml"
    arguments = {
        "members": {name: str(tmp_path / f"{name}.ckpt") for name in ("qwen", "text")},
        "combiner": {"class_path": "lit_basereward.ensemble.AccuracyWeighted"},
        "routes": [{"when": {"modality": "image"}, "members": ["qwen"]}],
    }
    path.write_text(yaml.safe_dump({"model": {"class_path": "lit_basereward.EnsembleRM", "init_args": arguments}}))
    return str(path)
