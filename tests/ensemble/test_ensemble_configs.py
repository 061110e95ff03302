"""The ensembles' YAMLs build; no member is there yet, and none is needed to build."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_basereward import EnsembleRM
from lit_basereward.cli import RewardCLI
from lit_basereward.data.routing import Route, When
from lit_basereward.ensemble import Mean

ROOT = Path(__file__).parents[2] / "configs"


class Built(RewardCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize("config", ["ensemble.yaml", "demo_ensemble.yaml"])
def test_builds_the_papers_arrangement(config, tmp_path, monkeypatch):
    """Mean of raw rewards; rows with images go to the two that see, others to all three."""
    monkeypatch.chdir(tmp_path)
    model = Built(["test", "--config", str(ROOT / config)]).model
    assert isinstance(model, EnsembleRM) and model.combiner == Mean() and len(model.names) == 3
    assert model.routes == [Route(model.names[:2], When(modality="image"))]
