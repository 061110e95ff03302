"""Sharded checkpoints: folders in the format of ``torch.distributed.checkpoint`` (``.metadata`` and ``*.distcp``).

The metadata is a pickle, which PyTorch would unpickle. Here a reader builds nothing but the records of that format and
changes nothing but records that it has built; tensors and all else in the shards load with ``weights_only``.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

META = "meta.pt"  # Lightning's name: all but weights and optimizer state
WEIGHTS = "state_dict."
INDEX = ".metadata"  # PyTorch's name; written when all shards are
_FORMAT = "torch.distributed.checkpoint.metadata"
_RECORDS: dict[str, set[str]] = {
    _FORMAT: {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}
_NAMED = {
    **_RECORDS,
    _FORMAT: _RECORDS[_FORMAT] | {"_MEM_FORMAT_ENCODING"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath"},
    "collections": {"OrderedDict"},
}
"""What the metadata of a sharded checkpoint may name, by module; of these the records alone have fields to fill."""


def read_index(folder: str | Path) -> Metadata:
    """Names, shapes and places of all tensors of a sharded checkpoint.

    Raises:
        ValueError: if it is missing, holds other things than its own, its shapes do not fit what is stored of them, or
            a shard is missing or cut off.
    """
    folder = Path(folder)
    try:
        index: Metadata = _IndexReader(io.BytesIO((folder / INDEX).read_bytes())).load()
        _check_places(index, folder)
        _check_shapes(index)
    except Exception as error:  # broken bytes lead to whatever they lead to
        raise ValueError(f"{str(folder)!r} is not a whole checkpoint: {first_line(error)}") from error
    return index


class _IndexReader(pickle._Unpickler):  # the one written in Python, whose steps can be refused one by one
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if name not in _NAMED.get(module, set()):
            raise ValueError(f"its {INDEX} names {module}.{name}, which is no part of the format")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """Fill the fields of a record. Of anything else, a class say, it would change what the whole process uses."""
        record, fields = self.stack[-2:]
        if type(record).__name__ not in _RECORDS.get(type(record).__module__, set()):
            raise ValueError(f"its {INDEX} would change {record!r}, which is no record of the format")
        if type(fields) is tuple and not hasattr(type(record), "__setstate__"):  # fields to be set one by one
            raise ValueError(f"its {INDEX} fills a {type(record).__name__} in another way than the format does")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


def _check_places(index: Metadata, folder: Path) -> None:
    ends: dict[str, int] = {}
    for place in index.storage_data.values():
        name, offset, length = place.relative_path, place.offset, place.length
        if type(name) is not str or os.path.basename(name) != name or name in ("", ".", ".."):  # it leads elsewhere
            raise ValueError(f"it names {name!r}, which is no file of the folder")
        if not (type(offset) is type(length) is int and offset >= 0 and length >= 0):
            raise ValueError(f"it names the bytes from {offset!r} on, {length!r} of them, of {name}")
        ends[name] = max(ends.get(name, 0), offset + length)
    for name, end in ends.items():
        if (size := (folder / name).stat().st_size) < end:
            raise ValueError(f"{name} has {size} of {end} bytes")


def _check_shapes(index: Metadata) -> None:
    """Shapes are believed only as far as the shards have bytes for them: memory is asked for by shape."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    stored: dict[str, int] = {}
    for key, place in index.storage_data.items():
        stored[key.fqn] = stored.get(key.fqn, 0) + place.length
    for name, entry in index.state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            if name.startswith(WEIGHTS):
                raise ValueError(f"its weight {name.removeprefix(WEIGHTS)} is no tensor")
            continue
        shapes = [entry.size, *(chunk.sizes for chunk in entry.chunks)]
        if any(type(size) is not int or size < 0 for shape in shapes for size in shape):
            raise ValueError(f"{name} has the shape {list(entry.size)}")
        needed = math.prod(entry.size) * entry.properties.dtype.itemsize
        if needed > stored.get(name, 0) or math.prod(entry.size) != sum(map(math.prod, shapes[1:])):
            raise ValueError(f"{name} has the shape {list(entry.size)}, and {stored.get(name, 0)} bytes stored of it")


def load_shards(state: dict[str, Any], folder: str | Path, alone: bool = False) -> None:
    """Fill the tensors of ``state``, DTensors in any division among them, and replace its other values.

    Args:
        state: by the names of the checkpoint, nested or joined by dots.
        folder: of the sharded checkpoint.
        alone: this process reads by itself; else all processes of the group read together.

    Raises:
        ValueError: if something is missing or damaged, has another shape, or is refused by ``weights_only``.
    """
    from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, FileSystemReader, load
    from torch.distributed.checkpoint.planner import ReadItem

    index = read_index(folder)

    class Reader(FileSystemReader):
        def read_metadata(self) -> Metadata:  # PyTorch's own unpickles, this file or another
            return index

        def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
            """The bytes of one entry, each a file of ``torch.save``; private, so held by a test."""
            entry = io.BytesIO(super()._slice_file(file, sinfo).read())
            check_bytes(entry)
            entry.seek(0)
            return entry

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
            raise ValueError(f"{str(folder)!r} cannot be read: {first_line(reason)}") from error


def check_bytes(file: str | Path | IO[bytes]) -> None:
    """Hold a file of ``torch.save`` against the checksums in it, which ``torch.load`` does not look at.

    It is read once, at about 0.5 seconds of one core a GB.

    Raises:
        ValueError: naming the first entry that is not as it was written.
    """
    try:
        with zipfile.ZipFile(file) as entries:
            damaged = entries.testzip()
    except Exception as error:  # of a file that ends early, say
        raise ValueError(f"damaged: {first_line(error)}") from error
    if damaged is not None:
        raise ValueError(f"its entry {damaged} is damaged, the bytes are not those that were written")


def first_line(error: BaseException) -> str:
    """What an error says, as one line of at most 200 characters."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
