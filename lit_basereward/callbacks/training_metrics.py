"""What a training step did, logged once per optimizer step over all devices and accumulated micro-batches."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_basereward.data.batch import Batch
from lit_basereward.losses.functional import comparisons


class _Part:
    """What a micro-batch's figures come from; its images and tokens are not kept."""

    def __init__(self, outputs: dict[str, Any], batch: Batch) -> None:
        self.rewards: Tensor = outputs["rewards"]
        self.shares: dict[str, Tensor] = {"loss": outputs["share"]} | outputs.get("parts", {})
        self.row, self.ratings, self.lengths, self.row_index = batch.row, batch.ratings, batch.lengths, batch.row_index
        self.tokens, self.padding = batch.layout.num_tokens, batch.layout.num_padding

    def sums(self) -> dict[str, float]:
        """What adds up over the micro-batches of a step; the same names in the same order in each of them."""
        rewards, lengths = self.rewards.cpu().double(), self.lengths.cpu().double()
        row, rows = self.row.cpu(), (self.row_index >= 0).cpu()
        kept = rows[row]
        better, worse = comparisons(row, self.ratings.cpu())
        b, w, r, n = rewards[better], rewards[worse], rewards[kept], lengths[kept]
        sums: dict[str, Any] = {
            "comparisons": len(b), "correct": (b > w).sum(), "reward_ties": (b == w).sum(), "margin": (b - w).sum(),
            "better": b.sum(), "better_sq": (b * b).sum(), "worse": w.sum(), "worse_sq": (w * w).sum(),
            "n": len(r), "r": r.sum(), "l": n.sum(), "rr": (r * r).sum(), "ll": (n * n).sum(), "rl": (r * n).sum(),
            "tokens": self.tokens, "padding": self.padding,
        }  # fmt: skip
        return {name: float(value) for name, value in (self.shares | sums).items()}


class TrainingMetrics(Callback):
    """Logs loss, accuracy, margins, rewards, their correlation with length, gradient norm, throughput and padding.

    A module whose loss is a sum of several may return these in ``parts``, shares of the step's that add up over
    micro-batches as ``share`` does: each is logged under its name. Where rewards mean something inside their row only,
    their means and their correlation with length are left out. Accuracy counts a tie of rewards as wrong, and ties are
    logged apart. Rates (``tokens_per_s``, ``rows_per_s``) are over the wall time since the last logged step. The first
    step is told in one line: Bradley-Terry starts at log 2 = 0.693 when rewards start equal.

    Attributes:
        logged: the last step that was logged, and its figures by name.
    """

    def __init__(self) -> None:
        self.logged: tuple[int, dict[str, float]] = (0, {})
        self._parts: list[_Part] = []  # micro-batches of this step
        self._tokens, self._rows = 0, torch.tensor(0)  # since the last logged step
        self._since = 0.0
        self._step = 0
        self._first = True
        self._dropped = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since, self._step = time.perf_counter(), trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log the gradient norm before clipping."""
        if self._due(trainer, trainer.global_step + 1):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            pl_module.log("train/grad_norm", getattr(norm, "full_tensor", lambda: norm)())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the micro-batch; after the last one of an optimizer step that is logged, sum up and log.

        Only then are numbers asked for, since a GPU has to finish what it was given before it can tell.
        """
        part = _Part(outputs, batch)
        self._parts.append(part)
        self._tokens += part.tokens
        self._rows = self._rows.to(batch.row_index.device, non_blocking=True) + (batch.row_index >= 0).sum()
        for message in batch.dropped:
            rank_zero_warn(f"left out in training: {message}")
        self._dropped += len(batch.dropped)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._first or self._due(trainer, trainer.global_step):
            device = pl_module.device
            parts = [part.sums() for part in self._parts]
            own = {name: sum(part[name] for part in parts) for name in parts[0]}
            others = [self._tokens, float(self._rows), self._dropped]
            precision = torch.float32 if device.type == "mps" else torch.float64
            both = torch.tensor([*own.values(), *others], dtype=precision, device=device)
            both = trainer.strategy.reduce(both, reduce_op="sum")
            now = time.perf_counter()
            sums = dict(zip(own, both.tolist(), strict=False))
            logs = figures(sums, bool(pl_module.comparable_across_rows))
            shares = {name: sums[name] for name in part.shares}
            if 0 < sums["comparisons"] < batch.counts.comparisons:  # rows left out while opening them were planned for
                shares = {name: s * batch.counts.comparisons / sums["comparisons"] for name, s in shares.items()}
            logs |= shares
            logs["tokens_per_s"], logs["rows_per_s"] = (both[-3:-1] / (now - self._since)).tolist()
            logs["dropped_rows"] = both[-1].item()  # since the start of the run
            self._tokens, self._rows = 0, torch.zeros_like(self._rows)
            self._since = now
            if self._first and trainer.global_step == 1 and "accuracy" in logs:
                rank_zero_info(_first_step(logs, list(part.shares), int(sums["comparisons"]), pl_module))
            self._first = False
            pl_module.log_dict({f"train/{name}": value for name, value in logs.items()})
            self.logged = (trainer.global_step, logs)
            shown: dict[str, Any] = {name: logs[name] for name in ("loss", "accuracy") if name in logs}
            shown["rows/s"] = logs["rows_per_s"]
            pl_module.log_dict(shown, prog_bar=True, logger=False)
        self._parts.clear()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how many rows were left out while they were opened: unreadable, too long, or not for this paradigm."""
        if self._dropped:
            print(f"left out in training, over all epochs: {self._dropped} rows that could not be used")

    @staticmethod
    def _due(trainer: Any, step: int) -> bool:
        return step == 1 or step % trainer.log_every_n_steps == 0


def _first_step(logs: dict[str, float], losses: list[str], comparisons: int, module: Any) -> str:
    """The losses and the accuracy of the first step, in a sentence."""
    told = ", ".join(f"{name.replace('_', ' ')} {logs[name]:.3f}" for name in losses)
    hint = " (Bradley-Terry on equal rewards is 0.693)" if module.comparable_across_rows else ""
    return f"first step: {told}{hint}, accuracy before training {logs['accuracy']:.3f} on {comparisons} comparisons"


def figures(sums: dict[str, float], comparable_across_rows: bool = True) -> dict[str, float]:
    """Means, standard deviations and the reward-length correlation from sums over a step.

    Without a comparison there is nothing to be right about, so only what exists is given.

    Args:
        sums: see ``_Part.sums``.
        comparable_across_rows: False leaves out what compares rewards of different rows.
    """
    c, n = sums["comparisons"], max(sums["n"], 1.0)

    def std(square: float, total: float, count: float) -> float:
        return max(square / count - (total / count) ** 2, 0.0) ** 0.5

    found = {"padding_fraction": sums["padding"] / max(sums["padding"] + sums["tokens"], 1.0)}
    if c:
        found |= {
            "accuracy": sums["correct"] / c,
            "reward_ties": sums["reward_ties"] / c,
            "margin": sums["margin"] / c,
        }
    if not comparable_across_rows:
        return found
    spread = std(sums["rr"], sums["r"], n) * std(sums["ll"], sums["l"], n)
    covariance = sums["rl"] / n - sums["r"] * sums["l"] / n**2
    found["reward_length_correlation"] = covariance / spread if spread > 1e-12 else 0.0
    if c:
        found |= {
            "better_reward": sums["better"] / c,
            "better_reward_std": std(sums["better_sq"], sums["better"], c),
            "worse_reward": sums["worse"] / c,
            "worse_reward_std": std(sums["worse_sq"], sums["worse"], c),
        }
    return found
