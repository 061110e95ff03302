"""Checkpoints on disk: a file, or a folder of shards that several devices wrote together. Whole, or not there.

A sharded checkpoint is a folder in the format of ``torch.distributed.checkpoint`` (``.metadata`` and ``*.distcp``) with
all but weights and optimizer state in ``meta.pt``. Neither form is unpickled: files load with ``weights_only``, and the
metadata, which PyTorch would unpickle, may name nothing but the classes of that format.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

META = "meta.pt"  # Lightning's name
_INDEX = ".metadata"  # PyTorch's name; written when all shards are
_WEIGHTS = "state_dict."
_NAMED: dict[str, set[str]] = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}
"""What the metadata of a sharded checkpoint may name, by module."""


def is_sharded(path: str | Path) -> bool:
    """True for a folder that is, or was to become, a sharded checkpoint."""
    folder = Path(path)
    return folder.is_dir() and ((folder / _INDEX).exists() or (folder / META).exists() or any(folder.glob("*.distcp")))


def read_checkpoint(path: str | Path, weights: bool = True) -> dict[str, Any]:
    """A checkpoint in one dictionary, on the CPU; of a sharded one without its optimizer state.

    Args:
        path: a file, which is mapped into memory, or the folder of a sharded checkpoint.
        weights: False leaves ``state_dict`` of a sharded checkpoint as tensors without content (``meta``).

    Raises:
        ValueError: if it is not whole, or holds what ``weights_only`` refuses.
    """
    if not Path(path).is_dir():
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises whatever the broken bytes lead to
            raise ValueError(f"{str(path)!r} is not a whole checkpoint: {_first_line(error)}") from error
        if not isinstance(checkpoint, dict):
            raise ValueError(f"{str(path)!r} is not a checkpoint: it holds a {type(checkpoint).__name__}")
        return checkpoint
    index = read_index(path)
    checkpoint = read_meta(path)
    device = "cpu" if weights else "meta"
    sizes = {key: entry for key, entry in index.state_dict_metadata.items() if key.startswith(_WEIGHTS)}
    tensors = {key: torch.empty(e.size, dtype=e.properties.dtype, device=device) for key, e in sizes.items()}  # type: ignore[union-attr]
    if weights:
        load_shards(tensors, path, alone=True)
    return checkpoint | {"state_dict": {key.removeprefix(_WEIGHTS): value for key, value in tensors.items()}}


def read_meta(folder: str | Path) -> dict[str, Any]:
    """All but weights and optimizer state of a sharded checkpoint.

    Raises:
        ValueError: if the file is missing or broken.
    """
    try:
        return torch.load(Path(folder) / META, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{str(folder)!r} is not a whole checkpoint: {META}: {_first_line(error)}") from error


def read_index(folder: str | Path) -> Metadata:
    """Names, shapes and places of all tensors of a sharded checkpoint.

    Raises:
        ValueError: if it is missing, names other classes than its own, or a shard is missing or cut off.
    """
    folder = Path(folder)
    try:
        index: Metadata = _IndexReader(io.BytesIO((folder / _INDEX).read_bytes())).load()
        ends: dict[str, int] = {}
        for place in index.storage_data.values():
            ends[place.relative_path] = max(ends.get(place.relative_path, 0), place.offset + place.length)
        for name, end in ends.items():
            if Path(name).name != name:  # a path that leads elsewhere
                raise ValueError(f"it names {name!r}, which is no file of the folder")
            if (size := (folder / name).stat().st_size) < end:
                raise ValueError(f"{name} has {size} of {end} bytes")
    except Exception as error:  # unpickling raises whatever the broken bytes lead to
        raise ValueError(f"{str(folder)!r} is not a whole checkpoint: {_first_line(error)}") from error
    return index


class _IndexReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _NAMED.get(module, set()):
            raise ValueError(f"its {_INDEX} names {module}.{name}, which is no part of the format")
        return super().find_class(module, name)


def load_shards(state: dict[str, Any], folder: str | Path, alone: bool = False) -> None:
    """Fill the tensors of ``state``, DTensors in any division among them, and replace its other values.

    Args:
        state: by the names of the checkpoint, nested or joined by dots.
        folder: of the sharded checkpoint.
        alone: this process reads by itself; else all processes of the group read together.

    Raises:
        ValueError: if something is missing, has another shape, or is refused by ``weights_only``.
    """
    from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, FileSystemReader, load
    from torch.distributed.checkpoint.planner import ReadItem

    index = read_index(folder)

    class Reader(FileSystemReader):
        def read_metadata(self) -> Metadata:  # PyTorch's own unpickles, this file or another
            return index

    class Planner(DefaultLoadPlanner):
        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            torch.load(value, weights_only=True)  # the same bytes are read without that check below
            value.seek(0)
            super().load_bytes(read_item, value)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it is meant to be
        try:
            load(state, storage_reader=Reader(folder), planner=Planner(), no_dist=alone)
        except CheckpointException as error:
            [(reason, _), *_] = error.failures.values()
            raise ValueError(f"{str(folder)!r} cannot be read: {_first_line(reason)}") from error


def newest_whole(folders: Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint of some folders that is whole, and those newer ones that are not."""
    found = [path for folder in folders for pattern in ("*.ckpt", "*.ckpt.old") for path in Path(folder).glob(pattern)]
    broken: list[Path] = []
    for path in sorted(filter(Path.exists, found), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            read_checkpoint(path, weights=False)
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
    """Compare names and shapes of a checkpoint's weights with the module's, and look for what is no number.

    Raises:
        ValueError: naming missing, unexpected and differently shaped parameters; or those with NaN or infinite values.
    """
    own = module.state_dict()
    shapes = [
        f"{key} is {list(weights[key].shape)} there, {list(own[key].shape)} here"
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
    ]
    differences = {"lacks": own.keys() - weights.keys(), "has besides": weights.keys() - own.keys(), "differs": shapes}
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
