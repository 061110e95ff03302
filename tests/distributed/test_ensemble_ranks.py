"""An ensemble on two processes: each row once, and what one process gives."""

from __future__ import annotations

import json
from pathlib import Path

import ensemble_runs
import pytest
import rank_runs
import torch

from lit_basereward import GenerativeRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import run_ranks

pytestmark = pytest.mark.slow


def saved(module, path: Path) -> str:
    module.configure_model()
    if hasattr(module.model.head, "layers"):
        torch.manual_seed(0)
        torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    trainer = rank_runs.trainer(str(path.parent), devices=1)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


def test_two_ranks_equal_one(backbone_folder, tmp_path):
    """A judge, a model that sees, and one that reads text, of 7 rows on 2 devices: rewards, members, figures, costs."""
    members = {
        "seeing": saved(rank_runs.naive(backbone_folder("qwen2_5_vl")), tmp_path / "seeing.ckpt"),
        "text": saved(rank_runs.naive(backbone_folder("qwen2")), tmp_path / "text.ckpt"),
        "judge": saved(GenerativeRM(Backbone(backbone_folder("qwen2_vl"), max_length=2048)), tmp_path / "judge.ckpt"),
    }
    ensemble_runs.evaluate(members, str(tmp_path / "one"), devices=1)
    assert run_ranks(ensemble_runs.two_ranks, members, str(tmp_path / "two")) == [[0, 2], [1, 2]]
    for file in ("rewards/list.jsonl", "predictions.jsonl"):
        one, two = (
            [json.loads(line) for line in (tmp_path / run / file).read_text().splitlines()] for run in ("one", "two")
        )
        assert len(one) == len(two) == 7
        for row, line, other in zip(ensemble_runs.rows(), one, two, strict=True):
            assert other["rewards"] == pytest.approx(line["rewards"], abs=1e-5)
            assert list(other["members"]) == (["seeing", "judge"] if row.images else list(members))
            for name, rewards in line["members"].items():
                assert other["members"][name] == pytest.approx(rewards, abs=1e-5)
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "two")]
    for report in reports:
        assert report["cost"].pop("seconds") > 0
    for key in ("overall", "rows", "cost", "ties"):
        assert reports[0][key] == reports[1][key], key
    ensembles = [report["ensemble"]["members"] for report in reports]
    assert {name: each["overall"] for name, each in ensembles[0].items()} == {
        name: each["overall"] for name, each in ensembles[1].items()
    }
