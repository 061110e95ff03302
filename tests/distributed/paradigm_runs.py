"""Short fits of critics and judges, in this process or in one of several."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import rank_runs
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lit_basereward import CriticRM, GenerativeRM
from lit_basereward.data.batch import StepCounts
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import Preference
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.sharding import shard
from lit_basereward.testing import ListSource, preferences

WRITING = {"max_new_tokens": 6, "stop": ["a", "e", "o"]}  # texts of a random model end at unequal lengths


def rows() -> list[Preference]:
    """As in rank_runs, the rows with images, which one device has all of, with critiques, the others without."""
    critiques = ("the red cat sits", "not here")
    return [replace(row, critiques=critiques) if row.images else row for row in rank_runs.rows()]


def data() -> PreferenceDataModule:
    evaluated = ListSource(preferences(9, responses=(2, 3, 2)))
    return PreferenceDataModule(
        train=ListSource(rows()), val=evaluated, global_batch_size=4, eval_batch_size=1, shuffle=False
    )


def build(kind: type[RewardModule], folder: str, **options: Any) -> RewardModule:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.0, eps=1e-2)
    return kind(Backbone(folder, freeze=[], max_length=2048), optimizer=optimizer, **options)


class Seen(Callback):
    """Whether micro-batches had text to learn, and by place in the source what rewards of validation rest on."""

    def __init__(self) -> None:
        self.taught: list[bool] = []
        self.evidence: dict[int, Any] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.taught.append(batch.targets is not None)

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            return  # by then it has learnt to write next to nothing
        found = zip(batch.row_index.tolist(), module.evidence, strict=True)
        self.evidence |= {index: row for index, row in found if index >= 0}


def fit(module: RewardModule, place: str, **options: Any) -> dict[str, Any]:
    """As in rank_runs, with what was seen."""
    record, seen = rank_runs.Record(None), Seen()
    runner = rank_runs.trainer(
        place, callbacks=[record, seen], gradient_clip_val=1.0, num_sanity_val_steps=-1, **options
    )
    runner.fit(module, data())
    return {
        "gradients": record.gradients,
        "weights": {name: rank_runs.whole(p) for name, p in module.named_parameters()},
        "logged": {name: float(value) for name, value in runner.callback_metrics.items()},
        "taught": seen.taught,
        "evidence": seen.evidence,
    }


def critic(folder: str) -> RewardModule:
    return build(CriticRM, folder, **WRITING)


def judge(folder: str) -> RewardModule:
    return build(GenerativeRM, folder)


STRATEGIES: dict[str, Callable[[], dict[str, Any]]] = {
    "one": lambda: {"devices": 1},
    "ddp": lambda: {"devices": 2, "strategy": "ddp"},
    "fsdp": lambda: {"devices": 2, "strategy": rank_runs.fsdp()},
}


def runs(folder: str, place: str, strategy: str) -> dict[str, Any]:
    return {make.__name__: fit(make(folder), place, **STRATEGIES[strategy]()) for make in (critic, judge)}


def two_ranks(folder: str, place: str) -> dict[str, Any]:
    """Both under both strategies; and votes, of which each device would need its own number."""
    found: dict[str, Any] = {strategy: runs(folder, place, strategy) for strategy in ("ddp", "fsdp")}
    voting = build(GenerativeRM, folder, style="reasoning", num_votes=3, temperature=1.0, **WRITING)
    seen = Seen()
    rank_runs.trainer(place, callbacks=[seen], **STRATEGIES["fsdp"]()).validate(voting, data())
    return found | {"votes": seen.evidence}


class Forgetful(LanguageRewardModel):
    """Without targets its language head is not a part of what is computed."""

    def forward(self, inputs: Any, layout: Any, targets: Any = None) -> tuple[Tensor, Tensor]:
        if targets is not None:
            return super().forward(inputs, layout, targets)
        states, unused = self.states(inputs, layout)
        read = self.head(states[layout.pooled]) + unused
        return read, read.new_zeros(0)


def by_hand(folder: str, strategy: str, forgetful: bool) -> dict[str, Tensor]:
    """Gradients of a loss over both ranks' rows, the first rank's with critiques and the second's without."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.nn.parallel import DistributedDataParallel

    rank = int(os.environ["LOCAL_RANK"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    module: Any = critic(folder)
    module.configure_model()
    if forgetful:
        module.model.__class__ = Forgetful
    row = rows()[0] if rank == 0 else replace(rows()[4], critiques=())
    collator = module.collator(training=True)
    if strategy == "fsdp":
        shard(module.model, init_device_mesh("cpu", (2,)))
    else:
        module.model = DistributedDataParallel(module.model)
    for _ in range(2):  # DistributedDataParallel finds out when it is to go on
        loss, _ = module.loss(collator([(0, row)], StepCounts(rows=2, comparisons=2)))
        (2 * loss).backward()
        gradients = {n.replace(".module.", "."): rank_runs.whole(p.grad) for n, p in module.named_parameters()}
    torch.distributed.barrier()
    return gradients
