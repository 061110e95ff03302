"""Any source of preferences as a benchmark, so that a user's own test rows get the report that the suites get."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Literal

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.types import Entry
from lit_basereward.data.images import image_key
from lit_basereward.data.records import Records
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImageRef, Message, Preference, RowError


class SourceRows(Benchmark):
    """Rows of a source as entries: ``overall`` is the accuracy over all strictly ordered pairs, groups are categories.

    Rows to score are the source's own, by their numbers there; entries are those of them that can be read. Rows
    without ratings ask nothing and are in no figure. Rows that share prompt and images are resampled together.

    Args:
        source: of the rows.
        name: key in tables and logs. Empty is the source's own name.
        on_bad_row: ``raise`` at the first row that cannot be used, or ``skip`` and count them in ``left_out``.
    """

    suite = "source"
    hub_id = ""

    def __init__(self, source: Source, name: str = "", on_bad_row: Literal["raise", "skip"] = "raise") -> None:
        super().__init__(path=getattr(source, "path", None), name=name or source.name or "rows")
        self.source, self.on_bad_row = source, on_bad_row
        self.title, self.remarks = self.name, source.remarks
        self.left_out: list[str] = []

    @cached_property
    def _kept(self) -> dict[int, Entry]:
        """Entries by the row's number in the source. The rows themselves, which may hold images, are not kept."""
        entries = {}
        self.left_out = []
        for index in range(len(self.source)):
            try:
                entries[index] = self._entry(self.source[index])
            except RowError as error:
                if self.on_bad_row == "raise":
                    raise
                self.left_out.append(str(error))
        if not entries:
            raise ValueError(f"{self.name} has no row that can be used; the first says: {(self.left_out or ['-'])[0]}")
        return entries

    @cached_property
    def _numbers(self) -> list[int]:
        """The number in the source of each entry's row."""
        return list(self._kept)

    def _entry(self, row: Preference) -> Entry:
        prompt = repr((row.prompt, [image_key(ref) for ref in row.images]))
        return Entry(
            id=row.id,
            group=row.category or self.name,
            prompt=tuple(
                Message(m.role, tuple(part for part in m.content if isinstance(part, str))) for m in row.prompt
            ),
            responses=row.responses,
            better=tuple(row.comparisons()),
            cluster=hashlib.sha256(prompt.encode()).hexdigest(),
            subset=row.source,
        )

    @cached_property
    def entries(self) -> list[Entry]:
        """Rows that can be used, in the source's order."""
        return list(self._kept.values())

    @cached_property
    def groups(self) -> tuple[str, ...]:  # type: ignore[override]
        """Categories in order of first appearance; rows without one are in a group named after the source."""
        return tuple(dict.fromkeys(entry.group for entry in self.entries))

    @cached_property
    def records(self) -> Records:
        """Names of the rows that can be used."""
        return _Rows(self.name, self.source, self._numbers)

    @cached_property
    def text_only(self) -> bool:
        """False: a row comes with its images, or is none."""
        return False

    def prepare(self) -> None:
        """Prepare the source underneath."""
        self.source.prepare()

    def __len__(self) -> int:
        """Rows of the source, bad ones included."""
        return len(self.source)

    def __getitem__(self, index: int) -> Preference:
        """Row ``index`` of the source; its errors are the source's."""
        return self.source[index]

    def row_of(self, index: int) -> Preference:
        """The row of entry ``index``."""
        return self.source[self._numbers[index]]

    def image_refs(self, index: int) -> tuple[ImageRef, ...]:
        """Images of entry ``index``, unopened."""
        return self.row_of(index).images

    def has_images(self, index: int) -> bool:
        """True for an entry with images."""
        return bool(self.image_refs(index))

    def entry_rewards(self, rows: dict[int, Any]) -> list[Any]:
        """Rewards of scored rows, by their number in the source, as rewards of entries."""
        return [rows.get(index) for index in self._kept]

    def read(self, record: dict[str, Any], where: str) -> Entry:
        """Not asked: a source gives rows, not records."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """That of the source underneath."""
        return f"rows:{self.source.fingerprint()}"


class _Rows(Records):
    """A source's rows by the names that error messages give them."""

    def __init__(self, path: str, source: Source, rows: list[int]) -> None:
        super().__init__(path)
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, index: int) -> str:
        row = self._source[self._rows[index]]
        return row.where or f"{self.path} row {self._rows[index] + 1}"

    def columns(self) -> tuple[str, ...]:
        return ()

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def _record(self, index: int) -> dict[str, Any]:
        return {}
