"""Tiny backbones, built once per session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from more, and lose much on a busy machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``backbone_folder(family)``: folder of a tiny random model of that family, with weights."""
    from lit_basereward.testing import tiny_backbone_folder

    made: dict[str, str] = {}

    def folder(family: str) -> str:
        if family not in made:
            made[family] = tiny_backbone_folder(Path(tmp_path_factory.mktemp("backbones")) / family, family)
        return made[family]

    return folder
