"""Rewards in float32, and gradients to everything that is meant to train."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.types import Preference
from lit_basereward.data.verdict import judgement_fault
from lit_basereward.doctor.check import Check, at_least, at_most, skipped
from lit_basereward.doctor.subject import Subject
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import part_of
from lit_basereward.nn.heads import RewardHead

FAMILY = "gradients"


def float32(subject: Subject) -> Iterator[Check]:
    """Float32 in name and in value: bfloat16 keeps 8 bits, in which close responses tie."""
    with torch.inference_mode(), subject.computing():
        batch = subject.collator(list(enumerate(subject.rows))).to(subject.scorer.device)
        rewards = subject.module.score(batch)
    note = f"{str(rewards.dtype).removeprefix('torch.')}, {len(rewards)} rewards"
    finer = (rewards.float() != rewards.bfloat16().float()).float().mean().item()
    finer = finer if rewards.dtype == torch.float32 else 0.0
    yield at_least("precision", "part of the rewards that bfloat16 could not hold", finer, 0.5, note)
    name = "the head is float32 under autocast"
    if subject.model is None:
        yield skipped("precision", name, "this module has no single head")
        return
    head, device = subject.model.head, subject.scorer.device
    if any(isinstance(module, RewardHead) for module in head.modules() if module is not head):
        yield skipped("precision", name, "a head inside of this one is float32 by itself, so there is nothing finer")
        return
    states = torch.randn(64, head.hidden_size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        exact, plain = _in_float64(head, states), head(states)
        with torch.autocast(device.type, torch.bfloat16):
            mixed = head(states)
    off = torch.stack([plain - exact, mixed - exact]).abs().max() / exact.abs().max().clamp(min=1e-9)
    stored = {p.dtype for p in head.parameters()}
    note = "" if stored <= {torch.float32} else f"stored as {', '.join(sorted(map(str, stored)))}"
    yield at_most("precision", name, float("nan") if note else off.item(), 1e-5, note or "against the same in float64")


def _in_float64(head: RewardHead, states: Tensor) -> Tensor:
    """Rewards [N] of states [N, H] in float64, whatever types the head casts to on the way."""
    with _Float64():
        return nn.Module.__call__(head, states.double())  # a reward head's own call wants float32 rewards


class _Float64(TorchDispatchMode):
    """What meets a float64 tensor becomes one, as does what is cast to a floating point type or made in one.

    The head and its weights stay as they are: ``.double()`` is what a reward head refuses, and a judge's reads those of
    the language head, which are too many to be copied.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(given)):
            given = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, given)
        dtype = given[1].get("dtype")
        wider = {"dtype": torch.float64} if dtype is not None and dtype.is_floating_point else {}
        return func(*given[0], **given[1] | wider)


def training_batch(module: RewardModule, rows: Sequence[Preference], device: torch.device) -> Batch:
    """Rows with two or more responses as one micro-batch that is a whole step; where none differ in rating, rated here.

    Args:
        module: whose collator makes it.
        rows: those with one response are left out.
        device: where it goes.
    """
    rated = [_rated(row) for row in rows if len(row.responses) > 1]
    ties = [len(row.ties()) for row in rated]
    comparisons = sum(len(row.comparisons()) for row in rated)
    counts = StepCounts(len(rated), comparisons, sum(t > 0 for t in ties), sum(ties))
    return module.collator(training=True)(list(enumerate(rated)), counts).to(device)


def _rated(row: Preference) -> Preference:
    """With ratings that differ, and a judgement that agrees with them."""
    if not row.comparisons():
        row = replace(row, ratings=tuple(float(k) for k in range(len(row.responses))))
    if not judgement_fault(row):
        return row
    if row.ratings[0] == row.ratings[1] or any(math.isnan(rating) for rating in row.ratings[:2]):
        row = replace(row, ratings=(1.0, 0.0, *row.ratings[2:]))
    better = 1 if row.ratings[0] > row.ratings[1] else 2
    return replace(row, judgement=f"<think>It is {better}.</think><answer>{better}</answer>")


def gradients(subject: Subject) -> Iterator[Check]:
    """What trains is what the config says, and one backward pass of the module's own loss reaches all of it alone.

    Every tensor must be reached, but for what cannot be: the last blocks of a tower, which some leave out (LLaVA reads
    an earlier one), and A of an adapter while B is zero, as it begins. A bias may have a gradient of zero, as
    Bradley-Terry does not see a shift of all rewards, nor softmax one of all keys.
    """
    module = subject.module
    if subject.model is not None:
        yield _trains_as_configured(subject)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    batch = training_batch(module, subject.training_rows, subject.scorer.device)
    module.zero_grad(set_to_none=True)
    module.train()
    try:
        with torch.enable_grad(), subject.computing():
            loss, _ = module.loss(batch)
        loss.backward()
        norms = {name: p.grad.float().norm().item() for name, p in module.named_parameters() if p.grad is not None}
    finally:
        module.zero_grad(set_to_none=True)
        module.eval()
    bad = [name for name in trained if not norms.get(name, 0.0) < float("inf")]
    yield at_most(FAMILY, "no gradient is infinite or not a number", len(bad), 0, ", ".join(bad[:3]))
    frozen = [name for name in norms.keys() - set(trained) if norms[name]]
    yield at_most(FAMILY, "no frozen weight has a gradient", len(frozen), 0, ", ".join(sorted(frozen)[:3]))
    parts: dict[str, list[str]] = {}
    for name in trained:
        parts.setdefault(_part(name), []).append(name)
    if not parts:
        yield at_least(FAMILY, "something trains", 0, 1)
    waiting = _waiting(module)
    for part, names in parts.items():
        check = f"{part}: tensors without a gradient"
        reached = {name for name in names if norms.get(name) or (name in norms and _may_be_zero(name, waiting))}
        needed = _without_tail(names, reached) if part == "vision" else names
        missed = [name for name in needed if name not in reached]
        note = f"of {len(names)}" + (f"; not reached: {', '.join(missed[:3])}" if missed else "")
        if len(needed) < len(names):
            note += f"; {len(names) - len(needed)} behind the last block that is read"
        if part == "vision" and not subject.image_rows:
            yield skipped(FAMILY, check, "no row has an image")
        elif part == "lm_head" and getattr(batch, "targets", None) is None:
            yield skipped(FAMILY, check, "no row has critiques of all its responses")
        else:
            yield at_most(FAMILY, check, len(missed), 0, note)


def _trains_as_configured(subject: Subject) -> Check:
    """A part that is frozen by mistake has no gradient either, and none is missed."""
    backbone = subject.module.backbone
    writes = backbone.lora is None and "language" not in backbone.freeze
    wrong: dict[str, list[str]] = {"frozen": [], "trains": []}
    for name, p in subject.module.model.named_parameters():  # type: ignore[union-attr]
        owner, _, own = name.partition(".")
        meant = backbone._trains(own) if owner == "base" else owner == "head" or writes
        if p.requires_grad != meant:
            wrong["trains" if p.requires_grad else "frozen"].append(name)
    told = [f"{what}, against the config: {', '.join(names[:3])}" for what, names in wrong.items() if names]
    return at_most(FAMILY, "what trains is what the config says", sum(map(len, wrong.values())), 0, "; ".join(told))


def _waiting(module: nn.Module) -> set[str]:
    """Names of the adapters' A whose B is zero: all that A gives is multiplied by it."""
    zero = [name for name, p in module.named_parameters() if ".lora_B." in name and not p.any()]
    return {name.replace(".lora_B.", ".lora_A.") for name in zero}


def _may_be_zero(name: str, waiting: set[str]) -> bool:
    return name in waiting or name.endswith("bias")


def _without_tail(names: list[str], reached: set[str]) -> list[str]:
    """The tower's tensors up to the last layer that is reached, in their order; all of them where none is."""
    layers = [_layer(name) for name in names]
    last = max((n for n, name in enumerate(names) if name in reached), default=len(names) - 1)
    end = max(n for n, layer in enumerate(layers) if layer == layers[last])
    return names[: end + 1]


def _part(name: str) -> str:
    """Part of a parameter of a reward module; of one that is not in its network, what holds it, such as a loss."""
    owner = name.removeprefix("model.").partition(".")[0]
    return part_of(name.removeprefix("model.base.")) if owner == "base" else owner


def _layer(name: str) -> str:
    """The numbered layer that a parameter is in, as ``model.base.language_model.layers.3``; else its own module."""
    found = re.match(r"(.*?\.\d+)(?:\.|$)", name)
    return found[1] if found else name.rpartition(".")[0]
