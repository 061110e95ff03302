"""Rewards on disk while they come: a run that was interrupted goes on after the rows that are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_basereward.modules.recipe import recipe


class RewardLog:
    """One JSON line per finished row, in ``<path>.part-<rank>``, joined in the input's order when all are there.

    Args:
        path: the file that the parts become.
        identity: of input and model; kept in ``<path>.state.json`` beside the parts.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path, self.identity = path, identity
        self._state = Path(f"{path}.state.json")
        self._part: IO[str] | None = None

    @property
    def begun(self) -> bool:
        """True if an earlier run has left unfinished parts."""
        return self._state.exists()

    @property
    def fits(self) -> bool:
        """True if those are of the same input and model."""
        return json.loads(self._state.read_text()) == self.identity

    def lines(self) -> dict[int, dict[str, Any]]:
        """Finished rows by their number; a line that was cut off in the middle is none."""
        return {line["row"]: line for part in self._parts() for line in map(json.loads, _whole_lines(part))}

    def take_up(self, trainer: pl.Trainer) -> dict[int, dict[str, Any]]:
        """Lines of an earlier run with the same input and model, and the file open for more, on all ranks together."""
        done = self.lines() if self.begun and self.fits else {}
        if self.begun and not self.fits and trainer.is_global_zero:
            print(f"{self.path} was begun with another input or model: its unfinished rows are forgotten")
        trainer.strategy.barrier()  # no rank writes before all have read
        if trainer.is_global_zero and not done:
            self.forget()
        trainer.strategy.barrier()
        self._open(trainer.global_rank)
        return done

    def _open(self, rank: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            self._state.write_text(json.dumps(self.identity))
        part = Path(f"{self.path}.part-{rank}")
        if part.exists():
            part.write_text("".join(f"{line}\n" for line in _whole_lines(part)))
        self._part = part.open("a")

    def add(self, line: dict[str, Any]) -> None:
        """Append a row; its number is ``line["row"]``."""
        assert self._part is not None
        self._part.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Make what was added safe."""
        assert self._part is not None
        self._part.flush()

    def close(self) -> None:
        """End writing; the parts stay."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def join(self, num_rows: int, missing: Callable[[int], dict[str, Any]]) -> int:
        """Write the whole file, on one rank, when all have closed theirs, and remove the parts.

        Args:
            num_rows: of the input.
            missing: what stands in the place of a row that is in no part.

        Returns:
            how many rows those are.
        """
        lines = self.lines()
        temporary = Path(f"{self.path}.tmp")
        with temporary.open("w") as file:
            for row in range(num_rows):
                line = lines[row] if row in lines else missing(row)
                file.write(json.dumps({key: value for key, value in line.items() if key != "row"}) + "\n")
        temporary.replace(self.path)
        self.forget()
        return num_rows - len(lines)

    def forget(self) -> None:
        """Remove unfinished parts."""
        for file in (*self._parts(), self._state):
            file.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.part-*"))


def _whole_lines(part: Path) -> Iterator[str]:
    yield from part.read_text().split("\n")[:-1]


def plain(values: Tensor) -> list[float]:
    """Rewards for JSON: nine digits tell any two float32 apart."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def model_identity(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """What rewards hang on: settings, precision and weights, of which training moves all."""
    texts = getattr(getattr(module, "template", None), "pieces", ())  # its name may stay when its file changes
    settings = json.dumps([recipe(dict(module.hparams)), texts], sort_keys=True, default=str)
    own = [getattr(p, "_local_tensor", p).detach().flatten()[:8].float().cpu() for p in module.parameters()]
    weights = torch.cat(own) if own else torch.empty(0)
    return f"{_digest(settings)}:{trainer.precision}:{_digest(weights.numpy().tobytes())}"


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
