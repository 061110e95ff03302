"""Preferences in a file, one JSON object a line: our schema (docs/data_format.md) and TRL's preference forms."""

from __future__ import annotations

import gzip
import hashlib
import json
import operator
import os
import zlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.record import json_kind, read_row
from lit_basereward.data.types import Preference, RowError

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
        self.path, self.image_root, self.limit = str(path), image_root, limit
        self.image_token, self.allow_empty = image_token, allow_empty
        self.name = name or Path(self.path.removesuffix(".gz")).stem
        self._lines: np.ndarray | None = None  # [rows] line of each row, from 1; in a .json list its place
        self._offsets: np.ndarray | None = None  # [rows] byte where it begins
        self._held: list[Any] = []  # lines of a .gz file, objects of a .json file; else empty
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

    def _index(self) -> np.ndarray:
        """Lines of the rows; looks through the file at the first call."""
        if self._lines is None:
            try:
                self._stamp = _stamp(self.path)
                self._read_index()
            except FileNotFoundError as error:
                raise ValueError(f"there is no file {self.path}; correct the path of source {self.name!r}") from error
            except (OSError, EOFError, zlib.error) as error:  # a folder, no permission, a broken .gz file
                raise ValueError(f"{self.path} cannot be read ({error}); give a readable, complete file") from error
        assert self._lines is not None
        if not len(self._lines):
            raise ValueError(f"{self.path} has no rows; give a file with one JSON object a line, or remove the source")
        return self._lines

    def _read_index(self) -> None:
        zipped = self.path.endswith(".gz")
        if self.path.removesuffix(".gz").endswith(".json"):
            with gzip.open(self.path) if zipped else open(self.path, "rb") as file:
                self._held = _json_list(file.read(), self.path)[: self.limit]
            self._lines = np.arange(1, len(self._held) + 1)
            return
        lines, offsets, offset, held = array("q"), array("q"), 0, []
        with gzip.open(self.path) if zipped else open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                content = line.removeprefix(_BOM) if number == 1 else line
                if content.strip():
                    lines.append(number)
                    offsets.append(offset + len(line) - len(content))
                    if zipped:
                        held.append(content)
                offset += len(line)
                if len(lines) == self.limit:
                    break
        self._lines, self._offsets = np.array(lines, dtype=np.int64), np.array(offsets, dtype=np.int64)
        self._held = held

    def _record(self, index: int, where: str) -> dict[str, Any]:
        """The row's JSON object."""
        if self._held:
            line = self._held[index]
        else:
            assert self._offsets is not None
            # opened for each row: a handle shared by forked workers would share its position
            with open(self.path, "rb") as file:
                if _stamp(file.fileno()) != self._stamp:
                    raise ValueError(f"{self.path} was changed while it was in use; start again")
                file.seek(self._offsets[index])
                line = file.readline()
        record = _parse(line, where) if isinstance(line, bytes) else line
        if not isinstance(record, dict):
            raise RowError(f"{where} is a JSON {json_kind(record)}; write one object {{...}} a row")
        return record


def _stamp(file: str | int) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def _parse(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is not UTF-8 (byte {error.start} of the line); save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise RowError(
            f"{where} is not valid JSON ({error.msg}, character {error.pos + 1}); write one whole object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets a thousand deep
        raise RowError(f"{where} is JSON that cannot be read ({error}); remove the row") from error


def _json_list(content: bytes, path: str) -> list[Any]:
    if not content.strip():
        return []
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not one JSON list ({error}); is it JSON Lines? Then name it .jsonl") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} is a JSON {json_kind(rows)}; give a list, or .jsonl with one object a line")
    return rows
