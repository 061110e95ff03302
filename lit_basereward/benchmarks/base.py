"""What a benchmark is: rows to score, and the official figures of any rewards of them.

Shape legend: E entries (lines of the benchmark's file), C clusters (entries that share a prompt), J cells of a tally.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from lit_basereward.benchmarks.types import Entry, Published, Rewards, Tally, Ties, outcome, ratio
from lit_basereward.data.images import image_ref
from lit_basereward.data.records import Records, open_records
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError


class Benchmark(Source):
    """A benchmark of reward models. It yields rows to score, and turns rewards, of any model, into official figures.

    A suite gives :meth:`read`, and :meth:`figures` where its figures are not accuracies of groups and their pool.

    Args:
        path: the benchmark's file, or the folder of a download of it. None loads it from the Hugging Face hub.
        images: ``required`` makes a missing image an error; ``optional`` runs the whole suite on its texts alone where
            one is missing, and says so in the title of every table.
        image_root: folder that image paths are relative to and cannot leave. None is the folder of the file.
        name: key in tables and logs. Empty is the suite's own name.
        revision: commit, tag or branch on the hub. None is its main branch.
    """

    suite: ClassVar[str]
    title: str
    groups: ClassVar[tuple[str, ...]]
    hub_id: ClassVar[str]
    hub_split: ClassVar[str] = "test"
    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the data file in a folder, the first that exists is taken."""
    official_rows: ClassVar[tuple[int, ...]]
    """Entries of the releases that published figures are on; another number is warned of."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys that tell this benchmark's file from another's."""
    published: ClassVar[tuple[Published, ...]] = ()

    def __init__(
        self,
        path: str | None = None,
        images: Literal["required", "optional"] = "required",
        image_root: str | None = None,
        name: str = "",
        revision: str | None = None,
    ) -> None:
        if images not in ("required", "optional"):
            raise ValueError(f"images is {images!r}; accepted: required, optional")
        self.path, self.images, self.image_root, self.revision = path, images, image_root, revision
        self.name = name or self.suite

    # ------------------------------------------------------------------------------------- what a suite defines
    @abstractmethod
    def read(self, record: dict[str, Any], where: str) -> Entry:
        """One line of the file, in any of the formats the benchmark comes in.

        Raises:
            RowError: if it is none of them; the message begins with ``where``.
        """

    def image_values(self, record: dict[str, Any], where: str) -> list[Any]:
        """What the record says of its images (paths, bytes); empty for a row without. Default: the key ``image``."""
        value = record.get("image")
        return [] if value in (None, "", []) else value if isinstance(value, list) else [value]

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the J cells of a tally. Default: the groups."""
        return self.groups

    def tally(self, rewards: Rewards, ties: Ties = "official") -> Tally:
        """Right answers by cluster and cell. Default: every pair of ``better`` is a question in its group's cell.

        Args:
            rewards: of all entries.
            ties: equal rewards are wrong (``official``), half right, or left out.
        """
        right, asked = np.zeros((2, self.num_clusters, len(self.cells)))
        for e, entry in enumerate(self.entries):
            given = rewards[e]
            if given is None:
                continue
            cell, cluster = self.cells.index(entry.group), self.clusters[e]
            for i, j in entry.better:
                value, counts = outcome(float(given[i]), float(given[j]), ties)
                right[cluster, cell] += value
                asked[cluster, cell] += counts
        return Tally(right, asked)

    def num_ties(self, rewards: Rewards) -> int:
        """Comparisons with equal rewards."""
        scored = [(entry, given) for entry, given in zip(self.entries, rewards, strict=True) if given is not None]
        return sum(bool(given[i] == given[j]) for entry, given in scored for i, j in entry.better)

    def figures(self, right: np.ndarray, asked: np.ndarray) -> dict[str, np.ndarray]:
        """Official figures from sums. Default: accuracy of each group, and ``overall``, the pooled accuracy.

        Args:
            right: [..., J] sums over clusters.
            asked: [..., J]

        Returns:
            figures of shape [...]: ``overall``, others of the whole suite, those of the groups by the group's name, and
            second figures of a group as ``<group>/<figure>``.
        """
        accuracy = ratio(right, asked)
        found = {"overall": ratio(right.sum(-1), asked.sum(-1))}
        return found | {group: accuracy[..., n] for n, group in enumerate(self.groups)}

    def counts(self, right: np.ndarray, asked: np.ndarray) -> dict[str, tuple[float, int]]:
        """``{figure: (correct, total)}`` of the figures that are a ratio of counts. Default: groups and ``overall``."""
        found = {group: (right[n], asked[n]) for n, group in enumerate(self.groups)}
        found["overall"] = (right.sum(), asked.sum())
        return {key: (float(r), int(a)) for key, (r, a) in found.items()}

    # ----------------------------------------------------------------------------------------------- the entries
    @cached_property
    def records(self) -> Records:
        """The file's own records.

        Raises:
            ValueError: if there is no such file, or it is another benchmark's.
        """
        if self.path is None:
            return open_records(self.hub_id, split=self.hub_split, revision=self.revision)
        path = Path(self.path)
        if not path.exists():
            raise ValueError(f"{self.name}: there is no {self.path}; give the file or folder of {self.title}")
        if path.is_dir():
            found = [pattern for pattern in self.files if list(path.glob(pattern))]
            if not found:
                raise ValueError(
                    f"{self.name}: the folder {self.path} has no {' nor '.join(self.files)}; give the file itself"
                )
            path = path / found[0]
        return open_records(str(path), split=self.hub_split)

    @cached_property
    def entries(self) -> list[Entry]:
        """All lines of the file, in its order.

        Raises:
            RowError: at the first line that is not as the benchmark's are.
        """
        entries = [self._read(self.records, e) for e in range(len(self.records))]
        self.check(entries)
        if len(entries) not in self.official_rows:
            published = " or ".join(f"{n:,}" for n in self.official_rows)
            self.remark(
                f"the file has {len(entries):,} rows, the published figures of {self.title} are on {published}: those "
                "of this file do not compare with them"
            )
        return entries

    def check(self, entries: list[Entry]) -> None:
        """Look at all entries together. Default: nothing.

        Raises:
            ValueError: if they are not this benchmark's.
        """

    def _read(self, records: Records, index: int) -> Entry:
        record, where = records[index], records.where(index)
        missing = [key for key in self.needs if key not in record]
        if missing:
            raise RowError(
                f"{where} is no row of {self.title}: it lacks {', '.join(missing)} and has {', '.join(record)}; "
                "is it another benchmark's file?"
            )
        return self.read(record, where)

    @cached_property
    def clusters(self) -> np.ndarray:
        """[E] cluster of each entry, numbered from 0 in order of first appearance."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(entry.cluster, len(numbers)) for entry in self.entries], dtype=np.int64)

    @property
    def num_clusters(self) -> int:
        """C."""
        return int(self.clusters.max()) + 1

    @cached_property
    def strata(self) -> np.ndarray:
        """[C] group of each cluster's first entry, as a number."""
        _, first = np.unique(self.clusters, return_index=True)
        return np.array([self.groups.index(self.entries[e].group) for e in first], dtype=np.int64)

    # ----------------------------------------------------------------------------------------- rows for a model
    def prepare(self) -> None:
        """Read the file and look for the images.

        Raises:
            ValueError: if images are required and some are missing; says how many.
        """
        _ = self.entries, self.text_only

    @cached_property
    def text_only(self) -> bool:
        """True where images are optional and at least one of them is missing."""
        missing = [e for e in range(len(self.entries)) if self._image_missing(e)]
        if missing and self.images == "required":
            first = f"the first is that of {self.records.where(missing[0])}"
            raise ValueError(
                f"{self.name}: {len(missing):,} of {len(self.entries):,} rows lack their images ({first}); give "
                "image_root or a file with the images in it, or set images: optional to run on the texts alone"
            )
        return bool(missing)

    def _image_missing(self, index: int) -> bool:
        try:
            self.image_refs(index)
        except RowError:
            return True
        return False

    def image_refs(self, index: int) -> tuple[ImageRef, ...]:
        """Images of an entry, unopened.

        Raises:
            RowError: if one of them is missing, outside the image root, or a URL.
        """
        record, where = self.records[index], self.records.where(index)
        return tuple(image_ref(value, self._root, where) for value in self.image_values(record, where))

    def has_images(self, index: int) -> bool:
        """True for an entry with images, also where they are not here."""
        return bool(self.image_values(self.records[index], self.records.where(index)))

    @property
    def _root(self) -> Path:
        if self.image_root is not None:
            return Path(self.image_root)
        path = Path(self.path or ".")
        return path if path.is_dir() else path.parent

    def __len__(self) -> int:
        """Rows for a model to score."""
        return len(self.entries)

    def __getitem__(self, index: int) -> Preference:
        """Row ``index`` for a model to score; ``ratings`` are 1 for better responses and 0 for the others."""
        entry = self.entries[index]
        winners = {i for i, _ in entry.better}
        return self.row(index, entry, entry.responses, [float(i in winners) for i in range(len(entry.responses))])

    def row(self, index: int, entry: Entry, responses: Sequence[str], ratings: Sequence[float]) -> Preference:
        """A row with the images of entry ``index`` in front of the text of its first user turn."""
        images = () if self.text_only else self.image_refs(index)
        asked = next(n for n, message in enumerate(entry.prompt) if message.role == "user")
        prompt = list(entry.prompt)
        prompt[asked] = Message("user", (*(ImagePart() for _ in images), *prompt[asked].content))
        return Preference(
            id=entry.id,
            prompt=tuple(prompt),
            responses=tuple(responses),
            ratings=tuple(ratings),
            images=images,
            source=self.name,
            category=entry.group,
            where=self.records.where(index),
        )

    def entry_rewards(self, rows: dict[int, np.ndarray]) -> list[np.ndarray | None]:
        """Rewards of scored rows, by row, as rewards of entries; None where a row was not scored.

        Args:
            rows: [K] rewards of each scored row.
        """
        return [rows.get(e) for e in range(len(self.entries))]

    def fingerprint(self) -> str:
        """Changes with the file, and with what of its images is seen."""
        return f"{self.suite}:{self.records.fingerprint()}:{self.text_only}"


def length_rewards(benchmark: Benchmark) -> list[np.ndarray]:
    """Rewards of the rule "the longer response wins", in characters; their negatives are those of "the shorter"."""
    return [np.array([len(text) for text in entry.responses], dtype=np.float64) for entry in benchmark.entries]
