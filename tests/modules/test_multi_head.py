"""Several heads on one backbone, through NaiveRM: a loss each, evidence of each, checkpoints."""

from __future__ import annotations

import json
from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward import NaiveRM, load
from lit_basereward.data.batch import StepCounts
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import Preference
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MultiHead, RewardHead
from lit_basereward.testing import ListSource, preferences

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Pinned(RewardHead):
    """Rewards 2, 1 of the first made, 0, 1 of the second."""

    made = 0

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.rewards = ([2.0, 1.0], [0.0, 1.0])[Pinned.made % 2]
        Pinned.made += 1

    def forward(self, states):
        return torch.tensor(self.rewards) + 0 * states.sum(-1)


def test_each_head_has_a_loss_of_its_own(backbone_folder):
    """d = 1 and -1: the mean of log(1 + e^-1) = 0.313262 and 1.313262, 0.813262. The mean rewards 1, 1 have 0.693147.

    In evaluation the rewards are that mean, and the evidence has what each head gave.
    """
    Pinned.made = 0
    module = NaiveRM(Backbone(backbone_folder("qwen2")), head=partial(MultiHead, num_heads=2, head=Pinned))
    module.configure_model()
    (row,) = preferences(images=False, responses=(2,))
    row = Preference(row.id, row.prompt, row.responses, (1.0, 0.0))
    batch = module.collator(True)([(0, row)], StepCounts(rows=1, comparisons=1))
    loss, out = module.loss(batch)
    assert loss.item() == pytest.approx(0.813262, abs=1e-5) and out["rewards"].tolist() == [1.0, 1.0]
    assert module.model.head.each is None and module.evidence == []
    module.eval()
    with torch.no_grad():
        assert module.score(batch).tolist() == [1.0, 1.0]
    assert module.evidence == [{"members": {"head 1": [2.0, 1.0], "head 2": [0.0, 1.0]}}]


def test_trains_tests_and_loads(backbone_folder, tmp_path):
    """All heads move, the test's report has their pairs, and the checkpoint gives the same rewards."""
    torch.manual_seed(0)
    backbone = Backbone(backbone_folder("qwen2"), freeze=[], max_length=2048)
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    module = NaiveRM(backbone, head=partial(MultiHead, num_heads=3), optimizer=optimizer)
    rows = preferences(images=False, responses=(2, 3, 2, 4))
    data = PreferenceDataModule(train=ListSource(rows), test=ListSource(rows), global_batch_size=11)
    trainer = pl.Trainer(**QUIET, max_steps=2, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.strategy.connect(module)
    module.configure_model()
    before = [p.detach().clone() for p in module.model.head.parameters()]
    trainer.fit(module, data)
    assert all(not p.equal(old) for p, old in zip(module.model.head.parameters(), before, strict=True))
    trainer.save_checkpoint(tmp_path / "multi.ckpt")
    trainer.test(module, data, verbose=False)
    ensemble = json.loads((tmp_path / "report.json").read_text())["ensemble"]
    assert set(ensemble["members"]) == {"head 1", "head 2", "head 3"} and len(ensemble["pairs"]) == 3
    loaded = load(tmp_path / "multi.ckpt", "cpu")
    assert isinstance(loaded.module.model.head, MultiHead)
    lines = (tmp_path / "rewards").glob("*.jsonl")
    given = [json.loads(line)["rewards"] for line in next(lines).read_text().splitlines()]
    for rewards, expected in zip(loaded.score_rows(rows), given, strict=True):
        assert rewards.tolist() == pytest.approx(expected, abs=1e-5)
