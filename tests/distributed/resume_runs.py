"""What the processes of `test_resume` run: four steps, whole or from a checkpoint, of all weights or of adapters."""

from __future__ import annotations

from typing import Any

import rank_runs
from lightning.pytorch.strategies import DDPStrategy

from lit_basereward.nn.lora import LoRA

KINDS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"freeze": ["vision"], "lora": LoRA(rank=4, alpha=16.0)}}


class Record(rank_runs.Record):
    """Gradients of what trains."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self.gradients.append({name: rank_runs.whole(p.grad) for name, p in trained})


def fit(
    folder: str, place: str, kind: str = "full", resume: str | None = None, save: str | None = None, **options: Any
) -> dict[str, Any]:
    """Four steps, or the last two of them. Clipped, as clipping needs the norm over all ranks."""
    record = Record(save)
    module = rank_runs.naive(folder, KINDS[kind])
    runner = rank_runs.trainer(place, callbacks=[record], gradient_clip_val=1.0, **options)
    runner.fit(module, rank_runs.data(), ckpt_path=resume)
    return {
        "gradients": record.gradients,
        "weights": {name: rank_runs.whole(p) for name, p in module.named_parameters() if p.requires_grad},
        "logged": {name: float(value) for name, value in runner.callback_metrics.items()},
    }


def ddp() -> dict[str, Any]:
    """As in configs/overlays/ddp.yaml."""
    return {"devices": 2, "strategy": DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=False)}


def two_ranks(folder: str, place: str, alone: dict[str, str], together: dict[str, str]) -> dict[str, Any]:
    """Under DDP: straight through, from what it has saved, and from what one process has. Then so under FSDP2.

    Args:
        folder: of the backbone.
        place: for what Lightning writes.
        alone: checkpoints after step 2 that there are, by kind, and ``sharded``.
        together: where to write those of two ranks.
    """
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = {
            "straight": fit(folder, place, kind, save=together[kind], **ddp()),
            "same ranks": fit(folder, place, kind, together[kind], **ddp()),
            "more ranks": fit(folder, place, kind, alone[kind], **ddp()),
        }
    places = {"same ranks": together["sharded"], "more ranks": alone["sharded"], "a file": alone["full"]}
    fit(folder, place, save=together["sharded"], devices=2, strategy=rank_runs.fsdp())
    found["sharded"] = {
        name: fit(folder, place, resume=path, devices=2, strategy=rank_runs.fsdp()) for name, path in places.items()
    }
    return found


def shards_of_one(folder: str, place: str, save: str) -> None:
    fit(folder, place, save=save, devices=1, strategy=rank_runs.fsdp())
