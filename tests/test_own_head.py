"""A head in a user's file, all the way on the command line: trained, exported, loaded, and never imported unasked."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
import torch
import yaml

import lit_basereward
from lit_basereward.__main__ import main
from lit_basereward.testing import preferences

HEAD = """
import torch
from torch import nn
from lit_basereward import RewardHead

class Bounded(RewardHead):
    def __init__(self, hidden_size: int, bound: float = 3.0) -> None:
        super().__init__(hidden_size)
        self.proj, self.bound = nn.Linear(hidden_size, 1), bound

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.bound * self.proj(states).squeeze(-1).tanh()
"""


def test_trained_exported_and_loaded(backbone_folder, tmp_path, monkeypatch, capsys):
    """Its argument comes along: rewards lie within the 0.25 that the command line gave, not the default 3."""
    (tmp_path / "own_head_of_a_user.py").write_text(HEAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "is it red", "responses": ["yes", "no"], "ratings": [1, 0]}
    (tmp_path / "train.jsonl").write_text((json.dumps(row) + "\n") * 2)
    backbone = {"name_or_path": backbone_folder("qwen2"), "max_length": 2048}
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "model": {"class_path": "lit_basereward.NaiveRM", "init_args": {"backbone": backbone}},
        "data": {"train": "train.jsonl", "global_batch_size": 2},
        "trainer": {"max_steps": 1, "default_root_dir": str(tmp_path / "run"), **quiet},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    head = ["--model.head", "own_head_of_a_user.Bounded", "--model.head.bound", "0.25"]
    main(["fit", "--config", "model.yaml", *head])
    (path,) = map(str, (tmp_path / "run").rglob("*.ckpt"))

    del sys.modules["own_head_of_a_user"]
    refused = r"names the class own_head_of_a_user\.Bounded; to run it"
    with pytest.raises(SystemExit) as stop:
        main(["export", "--ckpt_path", path, "--output", "out"])
    assert stop.value.code == 1 and "own_head_of_a_user.Bounded; to run it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=refused):
        lit_basereward.load(path, "cpu")
    assert "own_head_of_a_user" not in sys.modules

    allow = ["own_head_of_a_user"]
    main(["export", "--ckpt_path", path, "--output", "out", "--allow", "own_head_of_a_user"])
    del sys.modules["own_head_of_a_user"]
    with pytest.raises(ValueError, match=refused):
        lit_basereward.load("out", "cpu")
    assert "own_head_of_a_user" not in sys.modules
    rewards = [
        torch.cat(lit_basereward.load(place, "cpu", allow=allow).score_rows(preferences(3, images=False)))
        for place in (path, "out")
    ]
    torch.testing.assert_close(rewards[1], rewards[0], rtol=0, atol=1e-5)
    assert rewards[0].abs().max() <= 0.25 and rewards[0].std() > 1e-3
    loaded = lit_basereward.load("out", "cpu", allow=allow).module.model.head
    assert isinstance(loaded, importlib.import_module("own_head_of_a_user").Bounded)
