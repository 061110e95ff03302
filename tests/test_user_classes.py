"""A head, a loss, a source and a backbone recipe from files outside the package, named in YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from lit_basereward.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"

USER_FILE = '''
from dataclasses import dataclass

from torch import nn

from lit_basereward import Backbone, Preference
from lit_basereward.data.sources import Source
from lit_basereward.nn.heads import MLPHead
from lit_basereward.testing import preferences


class Rows(Source):
    name = "mine"

    def __init__(self, num: int = 3) -> None:
        self.rows = [row for seed in range(num) for row in preferences(seed, responses=(2, 4, 3))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Preference:
        return self.rows[index]


class DeepHead(MLPHead):
    """Has an argument of the default head's name, with a default of its own."""

    def __init__(self, hidden_size: int, num_layers: int = 4) -> None:
        super().__init__(hidden_size, num_layers)


@dataclass
class Short(Backbone):
    """A recipe with another default."""

    max_length: int = 999
'''


@pytest.fixture()
def user(tmp_path, monkeypatch):
    """A folder on the import path with the user's file, and the examples beside it."""
    (tmp_path / "my_parts.py").write_text(USER_FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        ("quantile_head.QuantileHead", None),
        pytest.param("my_parts.DeepHead", 4, marks=pytest.mark.slow),
        pytest.param("MLPHead", 2, marks=pytest.mark.slow),
    ],
)
def test_parts_from_elsewhere_train(user, backbone_folder, head, layers):
    """One step each. Defaults of our head do not leak into theirs: DeepHead keeps its 4 layers."""
    short = {"class_path": "my_parts.Short", "init_args": {"name_or_path": backbone_folder("qwen2_vl")}}
    config = {
        "model": {
            "class_path": "NaiveRM",
            "init_args": {
                "backbone": short,
                "head": {"class_path": head},
                "loss": {"class_path": "plackett_luce.PlackettLuce"},
                "pair_weighting": "row",
            },
        },
        "data": {"train": [{"class_path": "my_parts.Rows", "init_args": {"num": 2}}], "global_batch_size": 10},
        "trainer": {
            "max_steps": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
            "enable_model_summary": False, "default_root_dir": str(user),
        },
    }  # fmt: skip
    (user / "mine.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "mine.yaml"])
    (checkpoint,) = user.rglob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(saved))["backbone"]["init_args"]["max_length"] == 999
    if layers:
        assert saved["head"]["init_args"]["num_layers"] == layers
