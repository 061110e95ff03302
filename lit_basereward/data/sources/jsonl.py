"""Preferences in a file: our documented schema (docs/data_format.md) and TRL's preference forms, one JSON object a line."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import operator
import os
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_basereward.data.images import image_ref
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError

_SHARED_KEYS = frozenset(
    ("id", "prompt", "images", "image", "critiques", "judgement", "finished", "weight", "category")
)
_LIST_KEYS = _SHARED_KEYS | {"responses", "ratings"}
_PAIR_KEYS = _SHARED_KEYS | {"chosen", "rejected", "margin", "score_chosen", "score_rejected"}
# Keys that other formats use for something that would change the row, and that is not read here.
_REFUSED = {
    "system": "make it the first message of `prompt`, with role system",
    "video": "give its frames as `images`",
    "videos": "give their frames as `images`",
}
_BOM = b"\xef\xbb\xbf"


class JSONLSource(Source):
    """Rows from a JSON Lines file, in the schema of docs/data_format.md or one of TRL's preference forms.

    Nothing is read before the first access, and then only where the lines begin: a file of any size takes 16 bytes of
    memory a row. ``.gz`` files and ``.json`` files that hold one list are read whole.

    Args:
        path: the file: ``.jsonl``, ``.json`` (one list of objects), or either of them with ``.gz`` behind.
        image_root: folder that image paths are relative to and cannot leave. None is the folder of the file.
        name: key in tables and logs. Empty is the file's name without its ending.
        limit: read the first rows only. None reads all.
        image_token: literal, such as ``<image>``, that marks an image's place in prompts and messages given as strings.
            None leaves such literals as text.
        allow_empty: accept responses without text.
    """

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        name: str = "",
        limit: int | None = None,
        image_token: str | None = None,
        allow_empty: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; use a number of rows from 1 on, or leave it out to read all")
        if image_token == "":
            raise ValueError("image_token is empty; give the literal, such as <image>, or leave it out")
        self.path, self.image_root, self.limit = path, image_root, limit
        self.image_token, self.allow_empty = image_token, allow_empty
        self.name = name or Path(path.removesuffix(".gz")).stem
        self._lines: array[int] | np.ndarray | None = None  # [rows] line of each row, from 1
        self._offsets: np.ndarray | None = None  # [rows] byte where it begins; None if the rows are held
        self._held: list[Any] = []  # lines of a .gz file, objects of a .json file
        self._stamp = (0, 0)

    def prepare(self) -> None:
        """Look through the file once, so that a missing or empty one is known at once.

        Raises:
            ValueError: if the file is missing, empty, or not what its ending says.
        """
        self._index()

    def __len__(self) -> int:
        """Number of rows, bad ones included."""
        return len(self._index())

    def __getitem__(self, index: int) -> Preference:
        """Row ``index``, counted from 0.

        Raises:
            RowError: if the row is bad; the message names file, line and mend.
            IndexError: if there is no such row.
        """
        lines = self._index()
        index = operator.index(index)
        if not 0 <= index < len(lines):
            raise IndexError(f"{self.path} has rows 0 to {len(lines) - 1}, not {index}")
        number = int(lines[index])
        where = f"{self.path}:{number}"
        return read_row(
            self._record(index, where),
            where,
            root=Path(self.image_root) if self.image_root is not None else Path(self.path).parent,
            source=self.name,
            default_id=str(number),
            image_token=self.image_token,
            allow_empty=self.allow_empty,
        )

    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes and of the settings that change rows."""
        self._index()
        settings = [self.image_root, self.limit, self.image_token, self.allow_empty]
        with open(self.path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(json.dumps([content, *settings]).encode()).hexdigest()

    def _index(self) -> array[int] | np.ndarray:
        """Lines of the rows; looks through the file at the first call."""
        if self._lines is None:
            try:
                self._stamp = _stamp(self.path)
                self._read_index()
            except FileNotFoundError as error:
                raise ValueError(f"there is no file {self.path}; correct the path of source {self.name!r}") from error
            except (OSError, EOFError) as error:  # a folder, no permission, or half a .gz file
                raise ValueError(f"{self.path} cannot be read ({error}); give a readable, complete file") from error
        assert self._lines is not None
        if not len(self._lines):
            self._lines = None
            raise ValueError(f"{self.path} has no rows; give a file with one JSON object a line, or remove the source")
        return self._lines

    def _read_index(self) -> None:
        zipped = self.path.endswith(".gz")
        if self.path.removesuffix(".gz").endswith(".json"):
            with gzip.open(self.path) if zipped else open(self.path, "rb") as file:
                self._held = _json_list(file.read(), self.path)[: self.limit]
            self._lines = np.arange(1, len(self._held) + 1)
            return
        lines, offsets, held, offset = array("q"), array("q"), [], 0
        with gzip.open(self.path) if zipped else open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                start = offset + (len(_BOM) if number == 1 and line.startswith(_BOM) else 0)
                offset += len(line)
                if line[start - offset :].strip():
                    lines.append(number)
                    offsets.append(start)
                    if zipped:
                        held.append(line)
                if len(lines) == self.limit:
                    break
        self._lines, self._held = np.array(lines, dtype=np.int64), held
        self._offsets = None if zipped else np.array(offsets, dtype=np.int64)
