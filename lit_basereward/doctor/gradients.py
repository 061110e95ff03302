"""Rewards in float32, and gradients to everything that is meant to train."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.types import Preference
from lit_basereward.data.verdict import judgement_fault
from lit_basereward.doctor.check import Check, at_least, at_most, skipped
from lit_basereward.doctor.subject import Subject
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import part_of

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
    model = subject.model
    if model is None:
        yield skipped("precision", "the head is float32 under autocast", "this module has no single head")
        return
    stored = {p.dtype for p in model.head.parameters()}
    device = subject.scorer.device
    states = torch.randn(64, model.head.hidden_size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        plain = model.head(states)
        with torch.autocast(device.type, torch.bfloat16):
            mixed = model.head(states)
    value = (plain - mixed).abs().max() / plain.abs().max().clamp(min=1e-9)
    value = value if mixed.dtype == torch.float32 and stored <= {torch.float32} else torch.tensor(float("nan"))
    yield at_most("precision", "the head is float32 under autocast", value.item(), 1e-6)


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
    """One backward pass of the module's own loss: every layer of every trainable part is reached, no frozen one is.

    A tower may leave out its last blocks (LLaVA reads an earlier one), so there it is the first block that must be
    reached; every other part needs all of its layers.
    """
    module = subject.module
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    batch = training_batch(module, subject.training_rows, subject.scorer.device)
    module.zero_grad(set_to_none=True)
    module.train()
    try:
        with torch.enable_grad(), subject.computing():
            loss, _ = module.loss(batch)
        loss.backward()
        norms = {name: _norm(p.grad) for name, p in module.named_parameters()}
    finally:
        module.zero_grad(set_to_none=True)
        module.eval()
    bad = [name for name in trained if not norms[name] < float("inf")]
    yield at_most(FAMILY, "no gradient is infinite or not a number", len(bad), 0, ", ".join(bad[:3]))
    frozen = [name for name, norm in norms.items() if name not in trained and norm]
    yield at_most(FAMILY, "no frozen weight has a gradient", len(frozen), 0, ", ".join(frozen[:3]))
    parts: dict[str, dict[str, list[str]]] = {}
    for name in trained:
        parts.setdefault(_part(name), {}).setdefault(_layer(name), []).append(name)
    if not parts:
        yield at_least(FAMILY, "something trains", 0, 1)
    for part, layers in parts.items():
        missed = [layer for layer, names in layers.items() if not any(norms[name] for name in names)]
        needed = missed
        if part == "vision":
            first = next((layer for layer in layers if re.search(r"\.\d+$", layer)), next(iter(layers)))
            needed = [layer for layer in missed if layer == first]
        note = f"{len(layers)} layers" + (f"; not reached: {', '.join(missed[:3])}" if missed else "")
        if part == "vision" and not subject.image_rows:
            yield skipped(FAMILY, f"{part}: layers without a gradient", "no row has an image")
        elif part == "lm_head" and getattr(batch, "targets", None) is None:
            yield skipped(FAMILY, f"{part}: layers without a gradient", "no row has critiques of all its responses")
        else:
            yield at_most(FAMILY, f"{part}: layers without a gradient", len(needed), 0, note)


def _norm(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.float().norm().item()


def _part(name: str) -> str:
    """Part of a parameter of a reward module."""
    for part in ("head", "lm_head"):
        if f".{part}." in f".{name}":
            return part
    return part_of(name.removeprefix("model.").removeprefix("base."))


def _layer(name: str) -> str:
    """The numbered layer that a parameter is in, as ``model.base.language_model.layers.3``; else its own module."""
    found = re.match(r"(.*?\.\d+)(?:\.|$)", name)
    return found[1] if found else name.rpartition(".")[0]
