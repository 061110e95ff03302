"""What scoring takes: forwards, generated tokens and time, which stand beside accuracy."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from lit_basereward.benchmarks.evidence import COST
from lit_basereward.data.batch import Batch


@dataclass
class Cost:
    """What scoring rows took. A row's cost is its even share of its batch, so counts of rows need not be whole.

    Args:
        rows: scored rows.
        forwards: branches that went through the backbone whole, to be scored or to be written behind; one per response
            for Naive-RM. The steps of generation are counted as tokens.
        generated_tokens: that the model wrote.
        seconds: wall time of the batches, summed over devices; reading and collating, which workers do, is not in it.
    """

    rows: int = 0
    forwards: float = 0
    generated_tokens: float = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Of both together."""
        return Cost(
            self.rows + other.rows,
            self.forwards + other.forwards,
            self.generated_tokens + other.generated_tokens,
            self.seconds + other.seconds,
        )

    def per_row(self) -> dict[str, float]:
        """``{forwards, generated_tokens, seconds}`` of one row on average, to nine digits; empty without rows."""
        if not self.rows:
            return {}
        return {name: float(f"{getattr(self, name) / self.rows:.9g}") for name in COST}


class Meter:
    """The cost of a batch: the module counts forwards and tokens while it scores, this the rows and the time."""

    def __init__(self) -> None:
        self._began = 0.0

    def start(self, module: Any) -> None:
        """Before a batch is scored.

        Args:
            module: a :class:`~lit_basereward.modules.base.RewardModule`, whose counts begin anew.
        """
        module.cost = Cost()
        self._began = time.perf_counter()

    def stop(self, module: Any, batch: Batch) -> Cost:
        """After a batch is scored and its rewards are on the CPU: a GPU has not finished before.

        Args:
            module: that scored it.
            batch: a device without a row computes a filler, which nobody asked for: it costs nothing.
        """
        seconds = time.perf_counter() - self._began
        rows = int((batch.row_index >= 0).sum())
        return replace(module.cost, rows=rows, seconds=seconds) if rows else Cost()
