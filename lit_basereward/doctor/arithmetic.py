"""The first section: what a training step costs, from the model's shapes alone and, where it is built, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lit_basereward.data.batch import Batch
from lit_basereward.doctor import flops
from lit_basereward.doctor.activations import Activations, SavedTensors, Sizes, estimate
from lit_basereward.doctor.check import Check, at_most, skipped
from lit_basereward.doctor.gradients import training_batch
from lit_basereward.doctor.memory import Stored, gradient_bytes, optimizer_bytes, stored
from lit_basereward.doctor.subject import Subject
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.reward_model import RewardModel


@dataclass(frozen=True)
class Costs:
    """Memory and arithmetic of one training step on one device.

    Args:
        precision: the trainer's.
        optimizer: its name.
        weights: by part and storage.
        gradients: bytes.
        optimizer_state: bytes; None where it is not known.
        rows: in the micro-batch that the rest is of.
        responses: of them.
        sizes: its tokens.
        activations: estimated bytes.
        flops_per_row: by 6 N T.
        counted_activations: bytes counted by hooks; None where the model was not built.
        counted_flops_per_row: by PyTorch's counter, attention included; recomputing too, with gradient checkpointing.
        seconds: of that forward and backward pass here.
    """

    precision: str
    optimizer: str
    weights: list[Stored]
    gradients: int
    optimizer_state: int | None
    rows: int
    responses: int
    sizes: Sizes
    activations: Activations
    flops_per_row: float
    counted_activations: int | None = None
    counted_flops_per_row: float | None = None
    seconds: float | None = None

    @property
    def peak(self) -> float:
        """Everything at once."""
        held = sum(each.bytes for each in self.weights) + self.gradients + (self.optimizer_state or 0)
        return held + self.activations.peak

    def days(self, rows: int, tflops: float) -> float:
        """Days for ``rows`` at a rate in 10^12 operations a second."""
        return rows * (self.counted_flops_per_row or self.flops_per_row) / (tflops * 1e12) / 86_400

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        saved = {"saved": self.activations.saved, "peak": self.activations.peak}
        return asdict(self) | {"activations": asdict(self.activations) | saved, "peak": self.peak}


def costs(module: RewardModule, model: RewardModel, batch: Batch, precision: str, varlen: bool) -> Costs:
    """By arithmetic alone; ``model`` may be on `meta`.

    Args:
        module: for its optimizer.
        model: the network.
        batch: a micro-batch as training makes it.
        precision: the trainer's.
        varlen: see :class:`Sizes`.
    """
    sizes = Sizes.of(batch, model.base.config, varlen)
    optimizer = module.make_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "backbone"}])
    return Costs(
        precision=precision,
        optimizer=type(optimizer).__name__,
        weights=stored(model, four_bit=module.backbone.quantize is not None),
        gradients=gradient_bytes(model),
        optimizer_state=optimizer_bytes(module, model),
        rows=len(batch),
        responses=len(batch.row),
        sizes=sizes,
        activations=estimate(model, sizes, _mixed(precision)),
        flops_per_row=flops.formula(model, sizes) / len(batch),
    )


def measured(subject: Subject) -> tuple[Costs, Check]:
    """The same with what a real forward and backward pass keeps, computes and takes; and the estimate's check."""
    module, model = subject.module, subject.model
    assert model is not None
    batch = training_batch(module, subject.training_rows, subject.scorer.device)
    device = subject.scorer.device.type
    mixed = _mixed(subject.precision) or module.backbone.dtype == "bfloat16"
    costs_ = costs(module, model, batch, "bf16-mixed" if mixed else subject.precision, mixed and device == "cuda")
    module.train()
    try:
        started = time.perf_counter()
        with flops.counter() as counted:
            with torch.autocast(device, torch.bfloat16, enabled=mixed), SavedTensors(model, batch) as saved:
                loss, _ = module.loss(batch)
            if loss.requires_grad:
                loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    finally:
        module.zero_grad(set_to_none=True)
        module.eval()
    found = {
        "counted_activations": saved.bytes,
        "counted_flops_per_row": counted.get_total_flops() / len(batch),
        "seconds": seconds,
    }
    name = "activations, estimate against count (relative error)"
    if not saved.bytes:
        return Costs(**{**vars(costs_), **found}), skipped("arithmetic", name, "nothing is kept")
    error = abs(costs_.activations.saved / saved.bytes - 1)
    return Costs(**{**vars(costs_), **found}), at_most("arithmetic", name, error, 0.25)


def _mixed(precision: str) -> bool:
    return precision.startswith(("bf16", "16"))


def table(costs_: Costs, rows: int, tflops: float) -> list[str]:
    """Lines for the terminal."""
    c = costs_
    weights = sum(each.bytes for each in c.weights)
    lines = [
        f"memory and arithmetic of a training step on one device: precision {c.precision}, {c.rows} rows at once",
        f"  {c.responses} responses, {c.sizes.language:,} tokens, {c.sizes.patches:,} image patches",
        f"  {'part':<10} {'stored as':<10} {'parameters':>16} {'of them train':>16} {'bytes':>10}",
    ]
    lines += [
        f"  {w.part:<10} {w.dtype:<10} {w.parameters:>16,} {w.trainable:>16,} {size(w.bytes):>10}" for w in c.weights
    ]
    total = [sum(getattr(w, key) for w in c.weights) for key in ("parameters", "trainable")]
    lines.append(f"  {'together':<10} {'':<10} {total[0]:>16,} {total[1]:>16,} {size(weights):>10}")
    counted = "" if c.counted_activations is None else f"; counted {size(c.counted_activations)}"
    held: Sequence[tuple[str, float | None, str]] = [
        ("weights", weights, "exact"),
        ("gradients", c.gradients, "exact"),
        ("optimizer state", c.optimizer_state, f"{c.optimizer}, exact"),
        ("activations", c.activations.saved, f"estimate{counted}"),
        ("recomputed block", c.activations.recomputed, "estimate, in the backward pass"),
        ("a chunk of logits", c.activations.logits, "estimate, of the language head"),
        ("cached bf16 weights", c.activations.cached_copies, "estimate, until the forward pass ends"),
        ("at most, together", c.peak, "without the framework's own"),
    ]
    for name, value, note in held:
        if value != 0:
            lines.append(f"  {name:<22} {'unknown' if value is None else size(value):>10}  {note}")
    rate = f"{c.flops_per_row:.3g} by 6 N T"
    if c.counted_flops_per_row is not None:
        rate += f", {c.counted_flops_per_row:.3g} counted, attention included"
    lines.append(f"  {'operations per row':<22} {rate}")
    lines.append(f"  {'days for ' + f'{rows:,} rows':<22} {c.days(rows, tflops):.3g} at {tflops:g} TFLOP/s")
    if c.seconds and c.counted_flops_per_row:
        here = c.counted_flops_per_row * c.rows / c.seconds / 1e12
        lines[-1] += f"; {c.days(rows, here):.3g} at the {here:.2g} of this machine, once measured"
    return lines


def size(number: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
