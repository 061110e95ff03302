"""What the corpora have in common: records from a file or the hub in, one pure function a corpus, rows out."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lit_basereward.data.records import Records, open_records
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.record import read_row
from lit_basereward.data.sources.turns import chat, conversation
from lit_basereward.data.sources.video import place_videos
from lit_basereward.data.types import Preference, RowError

__all__ = ["CorpusSource", "as_list", "chat", "conversation"]


class CorpusSource(Source, ABC):
    """A published corpus. Subclass it, say where it lives, and write :meth:`row`.

    Args:
        path: the corpus on disk: a file, a folder or a pattern, see :func:`open_records`; or the id of a dataset of the
            Hugging Face hub. Empty is the corpus's own id there.
        image_root: folder that image paths are relative to and cannot leave. None is the folder of the corpus; rows
            from the hub then need their images as bytes, since paths in them are of another machine.
        name: key in tables and logs. Empty is the name of the class.
        limit: read the first rows only. None reads all.
        split: name of the split. Empty is the corpus's own.
        revision: commit, branch or tag on the hub. None is the newest.

    Attributes:
        hub_id: ``owner/name`` on the Hugging Face hub.
        hub_split: the split to read.
        hub_config: the configuration to read; None where there is one only.
        in_folders: the split lies in several folders, all of which are read: one of each part of the corpus.
        needs: keys that each record must have.
    """

    hub_id: ClassVar[str] = ""
    hub_split: ClassVar[str] = "train"
    hub_config: ClassVar[str | None] = None
    in_folders: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: str = "",
        image_root: str | None = None,
        name: str = "",
        limit: int | None = None,
        split: str = "",
        revision: str | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; use a number of rows from 1 on, or leave it out to read all")
        self.path = str(path) or self.hub_id
        if not self.path:
            raise ValueError(f"{type(self).__name__} needs a `path`: a file, a folder, or an id of the hub")
        self.image_root, self.name, self.limit = image_root, name or type(self).__name__, limit
        self.split, self.revision = split or self.hub_split, revision
        self._records: Records | None = None
        self._root: Path | None = None

    @abstractmethod
    def row(self, record: dict[str, Any], where: str) -> Preference:
        """One record as a row. Pure: the same record gives the same row.

        Args:
            record: has all the keys of ``needs``.
            where: names the record in error messages.

        Raises:
            RowError: if the record is bad; the message begins with ``where`` and says the mend.
        """

    @property
    def records(self) -> Records:
        """The records underneath; opened at the first access."""
        if self._records is None:
            self._records = open_records(
                self.path, self.split, self._config, self.revision, self.limit, self.in_folders
            )
        return self._records

    @property
    def _config(self) -> str | None:
        return self.hub_config

    @property
    def root(self) -> Path:
        """Folder that image paths of the rows are relative to."""
        if self._root is None:
            self._root = Path(self.image_root) if self.image_root is not None else _folder(self.path)
        return self._root

    def prepare(self) -> None:
        """Download, convert or look through the corpus once, so that a missing or broken one is known at once.

        Raises:
            ValueError: if it cannot be read.
        """
        len(self)

    def __len__(self) -> int:
        """Number of rows, bad ones included."""
        return len(self.records)

    def __getitem__(self, index: int) -> Preference:
        """Row ``index``, counted from 0.

        Raises:
            RowError: if the row is bad; the message names file, line or row, and mend.
            IndexError: if there is no such row.
        """
        record, where = self.records[index], self.records.where(index)
        missing = [key for key in self.needs if key not in record]
        if missing:
            raise RowError(
                f"{where} has no `{missing[0]}`; it has {list(record)}. Is this {type(self).__name__}, in the form of "
                "its card? Else correct `path`"
            )
        return self.row(record, where)

    def fingerprint(self) -> str:
        """Follows the content and the settings that change rows, not the name or the place."""
        places = ("path", "name", "limit", "split", "revision", "remarks")
        settings = {key: value for key, value in vars(self).items() if key not in places and key[0] != "_"}
        parts = [type(self).__qualname__, self.records.fingerprint(), settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def preference(self, record: dict[str, Any], where: str, image_token: str = "<image>") -> Preference:
        """A row from the fields of docs/data_format.md, TRL's ``chosen`` and ``rejected`` among them, and ``videos``.

        Where ``images`` or ``videos`` are given, each ``image_token`` or ``<video>`` in prompts and messages that are
        strings is the place of the next; where there is no such literal, videos and then images stand before the first
        user turn's text. Without both keys, literals stay text.

        Args:
            record: the fields. ``images`` is one image, a list or None; ``videos`` is a folder of
                frames, a list of frame files, a list of such videos, or None.
            where: names the record in error messages.
            image_token: literal that marks an image's place.

        Raises:
            RowError: see :func:`read_row`; also where literals and images differ in number.
        """
        fields = dict(record)
        token = image_token if {"images", "videos"} & fields.keys() else None
        fields["images"] = as_list(fields.get("images"))
        videos = fields.pop("videos", None)
        if videos not in (None, "", []):
            fields = place_videos(fields, videos, self.root, where, image_token)
        return read_row(fields, where, self.root, self.name, re.split("[: ]", where)[-1], token)


def _folder(path: str) -> Path:
    """The folder that a path names, or that its file or pattern lies in."""
    place = Path(path)
    if not place.exists():
        if not glob.has_magic(path):
            return Path(os.devnull)  # of the hub: a folder that nothing is in
        place = next(parent for parent in place.parents if not glob.has_magic(str(parent)))
    return place if place.is_dir() else place.parent


def as_list(value: Any) -> list[Any]:
    """What corpora write for images: one, a list, or for none null, an empty string or an empty list."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]
