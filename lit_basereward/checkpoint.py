"""Checkpoints on disk: a file, or a folder of shards that several devices wrote together. Whole, or not there.

A sharded checkpoint is a folder of shards with all but weights and optimizer state in ``meta.pt``. Neither form is
unpickled: files load with ``weights_only``; of folders see :mod:`lit_basereward.shards`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lit_basereward.shards import INDEX, META, WEIGHTS, check_bytes, first_line, load_shards, read_index

_TABLES = ("state_dict", "hyper_parameters", "base")


def is_sharded(path: str | Path) -> bool:
    """True for a folder that is, or was to become, a sharded checkpoint."""
    folder = Path(path)
    return folder.is_dir() and ((folder / INDEX).exists() or (folder / META).exists() or any(folder.glob("*.distcp")))


def read_checkpoint(path: str | Path, weights: bool = True) -> dict[str, Any]:
    """A checkpoint in one dictionary, on the CPU; of a sharded one without its optimizer state.

    Args:
        path: a file, which is mapped into memory, or the folder of a sharded checkpoint.
        weights: False leaves ``state_dict`` of a sharded checkpoint as tensors without content (``meta``), and the
            bytes of a file unread, damaged or not.

    Raises:
        ValueError: if it is not whole, damaged, of another form, or holds what ``weights_only`` refuses.
    """
    if not Path(path).is_dir():
        return _read_file(path, check=weights)
    index = read_index(path)
    checkpoint = read_meta(path)
    device = "cpu" if weights else "meta"
    sizes = {key: entry for key, entry in index.state_dict_metadata.items() if key.startswith(WEIGHTS)}
    tensors = {key: torch.empty(e.size, dtype=e.properties.dtype, device=device) for key, e in sizes.items()}  # type: ignore[union-attr]
    if weights:
        load_shards(tensors, path, alone=True)
    return checkpoint | {"state_dict": {key.removeprefix(WEIGHTS): value for key, value in tensors.items()}}


def read_meta(folder: str | Path) -> dict[str, Any]:
    """All but weights and optimizer state of a sharded checkpoint.

    Raises:
        ValueError: if the file is missing, broken, or of another form.
    """
    return _read_file(Path(folder) / META, check=True)


def _read_file(path: str | Path, check: bool) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if check:
            check_bytes(path)
    except Exception as error:  # torch raises whatever the broken bytes lead to
        raise ValueError(f"{str(path)!r} is not a whole checkpoint: {first_line(error)}") from error
    return check_form(checkpoint, path)


def check_form(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    """``checkpoint`` as it is, if its parts that are tables by name are such, and its weights tensors.

    Raises:
        ValueError: naming the part.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{str(path)!r} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    for part in _TABLES:
        table = checkpoint.get(part, {})
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
            raise ValueError(f"{str(path)!r} is not a checkpoint: its {part} is no table by name: {str(table)[:60]}")
    for name, value in checkpoint.get("state_dict", {}).items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{str(path)!r} is not a checkpoint: its weight {name} is a {type(value).__name__}")
    return checkpoint


def newest_whole(folders: Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint of some folders that is whole, and those newer ones that are not."""
    found = [path for folder in folders for pattern in ("*.ckpt", "*.ckpt.old") for path in Path(folder).glob(pattern)]
    broken: list[Path] = []
    for path in sorted(filter(Path.exists, found), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path, weights=False)
            if path.is_file():  # of shards each process checks what it reads; all of them are too much for each
                check_bytes(path)
            return path, broken
        except ValueError:
            broken.append(path)
    return None, broken


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes files beside their place, then renames them; reads files, and folders of shards for their weights.

    Lightning's own keeps the whole checkpoint in memory once more while it writes, and moves it over from the system's
    temporary folder, in the course of which an interruption leaves part of it. Places that are no local paths are left
    to it.

    Args:
        resumes: optimizer states are wanted, which one process cannot read from shards.
    """

    def __init__(self, resumes: bool = False) -> None:
        self.resumes = resumes

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file; what was at its place is there until the new one is."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with beside(path).open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(beside(path), path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a file, or the weights and all else but optimizer states of a folder.

        Raises:
            ValueError: if it is not whole, or a sharded run is to be resumed without sharding.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, *args, **kwargs)
        if Path(path).is_dir() and self.resumes:
            raise ValueError(
                f"{str(path)!r} is a sharded checkpoint, whose optimizer state is resumed by FSDP2 on any number of "
                "devices: add --config configs/overlays/fsdp.yaml; or start anew from its weights by model.init_from"
            )
        if Path(path).is_dir() or kwargs.get("weights_only") is not False:
            return read_checkpoint(path)
        return super().load_checkpoint(path, *args, **kwargs)


def check_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Compare names, shapes and kinds of a checkpoint's weights with the module's; look for what is no number.

    Raises:
        ValueError: naming missing, unexpected and differently shaped parameters; or those with NaN or infinite values.
    """
    own = module.state_dict()
    both = own.keys() & weights.keys()
    shapes = [
        f"{key} is {list(weights[key].shape)} there, {list(own[key].shape)} here"
        for key in both
        if weights[key].shape != own[key].shape
    ]
    types = [  # whole numbers would be taken for weights, rounded; among floating-point types there is a choice
        f"{key} is {weights[key].dtype} there, {own[key].dtype} here"
        for key in both
        if weights[key].is_floating_point() != own[key].is_floating_point()
    ]
    differences = {
        **{"lacks": own.keys() - weights.keys(), "has besides": weights.keys() - own.keys()},
        "differs": [*shapes, *types],
    }
    if any(differences.values()):
        told = [
            f"{what} {len(keys)}: {', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''}"
            for what, keys in differences.items()
            if keys
        ]
        raise ValueError(
            f"the checkpoint is of another network ({'; '.join(told)}); "
            "configure the head and backbone that it was trained with"
        )
    check_finite({name: weights[name] for name, _ in module.named_parameters()})


def check_finite(weights: dict[str, Tensor]) -> None:
    """Look through all weights that have content; of DTensors, through this device's share.

    Raises:
        ValueError: naming parameters with NaN or infinite values.
    """
    wrong = [name for name, value in weights.items() if not _is_finite(value)]
    if wrong:
        raise ValueError(
            f"the checkpoint has NaN or infinite values in {len(wrong)} of its {len(weights)} parameters: "
            f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}; its run diverged, so use an earlier one"
        )


def _is_finite(value: Tensor) -> bool:
    value = value.to_local() if hasattr(value, "to_local") else value
    if value.is_meta or not value.is_floating_point() or value.numel() == 0:
        return True
    return all(bool(each.isfinite()) for each in value.aminmax())  # unlike isfinite, allocates nothing


def checkpoint_folder(trainer: Trainer) -> Path | None:
    """The local folder of the first ModelCheckpoint of a run; None where nothing is kept."""
    if getattr(trainer, "fast_dev_run", False):
        return None
    folders = [str(getattr(callback, "dirpath", None) or "://") for callback in trainer.checkpoint_callbacks]
    return next((Path(folder) for folder in folders if "://" not in folder), None)


def beside(path: str | Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return Path(f"{path}.tmp")


def put_in_place(whole: Path, path: str | Path) -> None:
    """Rename a file or folder to ``path``; what stood there is removed when the new one does."""
    path, before = Path(path), Path(f"{path}.old")
    if path.is_dir() or (path.exists() and whole.is_dir()):  # a file alone is replaced in one go
        remove(before)
        os.replace(path, before)
    os.replace(whole, path)
    remove(before)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
