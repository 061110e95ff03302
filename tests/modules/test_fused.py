"""Which optimizers step by a fused kernel, and that it takes the same steps under clipping and mixed precision."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from lit_basereward.modules.fused import fuse


def parameters(device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(3, 5, generator=generator).to(device)) for _ in range(2)]


def fused(optimizer: torch.optim.Optimizer, device: str) -> list[bool | None]:
    fuse(optimizer, device)
    return [group.get("fused") for group in optimizer.param_groups]


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_pytorchs_own_where_nothing_was_said(cls):
    """Every group on the device; none where a parameter is elsewhere; what was said stays, group by group."""
    groups = [{"params": [each]} for each in parameters()]
    assert fused(cls(copy.deepcopy(groups), lr=0.1), "cpu") == [True, True]
    assert fused(cls(copy.deepcopy(groups), lr=0.1), "cuda") == [None, None]
    elsewhere = [*copy.deepcopy(groups), {"params": [nn.Parameter(torch.empty(2, device="meta"))]}]
    assert fused(cls(elsewhere, lr=0.1), "cpu") == [None, None, None]
    assert fused(cls(copy.deepcopy(groups), lr=0.1, fused=False), "cpu") == [False, False]
    assert fused(cls(copy.deepcopy(groups), lr=0.1, foreach=False), "cpu") == [None, None]
    groups[0]["foreach"] = True
    assert fused(cls(copy.deepcopy(groups), lr=0.1), "cpu") == [None, True]


def test_other_optimizers_are_left_alone():
    """Also subclasses, whose step may not know the word."""

    class Own(torch.optim.AdamW):
        pass

    for cls in (Own, torch.optim.RMSprop, torch.optim.Adafactor):
        optimizer = cls(parameters(), lr=0.1)
        before = copy.deepcopy(optimizer.state_dict())
        fuse(optimizer, "cpu")
        assert optimizer.state_dict() == before
    capturable = torch.optim.AdamW(parameters(), lr=0.1, capturable=True)
    assert fused(capturable, "cpu") == [None]


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_the_fused_step_is_the_same_step(cls):
    """Three steps on equal gradients, to float32 rounding, far below what they change."""
    found = []
    for device in ("cuda", "cpu"):  # the first leaves it alone
        weights = parameters()
        optimizer = cls(weights, lr=0.1)
        fuse(optimizer, device)
        for step in range(3):
            for weight in weights:
                weight.grad = (weight.detach() * (step + 1)).cos()
            optimizer.step()
        found.append(weights)
    for one, two, before in zip(*found, parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
        assert (one - before).abs().max() > 0.01


class Small(pl.LightningModule):
    """One layer, its optimizer fused as those of reward modules are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        fuse(optimizer, "cpu")
        return optimizer


def test_gradients_are_still_clipped_under_mixed_precision(tmp_path):
    """Lightning refuses to where an optimizer was built with ``fused=True``."""
    trainer = pl.Trainer(
        max_steps=2, precision="bf16-mixed", gradient_clip_val=1.0, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Small(), torch.utils.data.DataLoader(torch.randn(4, 3), batch_size=2))
    assert trainer.global_step == 2
