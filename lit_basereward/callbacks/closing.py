"""What a command says at its end: where to look."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger


def tell_paths(trainer: pl.Trainer, paths: Mapping[str, str | Path | None]) -> None:
    """Print a line for each of the paths that is there, and TensorBoard's command where the run logs to it.

    Args:
        trainer: of the run.
        paths: by what lies there.
    """
    lines = {what: str(path) for what, path in paths.items() if path}
    folder = next((each.log_dir for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)
    if folder:
        lines["TensorBoard"] = f"{tensorboard()} --logdir {short(folder)}"
    if lines:
        print("\n" + "\n".join(f"{what}: {path}" for what, path in lines.items()), flush=True)


def best_checkpoint(trainer: pl.Trainer) -> str:
    """Path of the best checkpoint, with what it is the best by; of the last where none is better. Empty without any."""
    for each in trainer.checkpoint_callbacks:
        if isinstance(each, ModelCheckpoint) and (path := each.best_model_path or each.last_model_path):
            score = each.best_model_score if each.monitor else None
            return short(path) + ("" if score is None else f" ({each.monitor} {float(score):.3f})")
    return ""


def short(path: str | Path) -> str:
    """A path from here where it lies below, else as it is."""
    full, here = Path(path).absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else Path(path))


def tensorboard() -> str:
    """The program of this environment, which need not be on the PATH."""
    own = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") in (str(own), None) else short(own)
