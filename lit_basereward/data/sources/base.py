"""What a corpus is to the package: a sized, indexable list of :class:`Preference`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch.utils.data import Dataset

from lit_basereward.data.types import Preference


class Source(Dataset[Preference], ABC):
    """A corpus of preferences. Subclass it, give it ``__len__`` and ``__getitem__``, and name it in YAML.

    A source yields raw typed rows without tensors and is picklable, since workers hold it. ``__getitem__`` may raise
    :class:`RowError` for a row that is bad; the datamodule's ``on_bad_row`` says what happens then.

    Attributes:
        name: the key in tables, logs and ``results.json``.
        remarks: what a reader of figures on these rows must know.
    """

    name: str = ""
    remarks: Sequence[str] = ()

    def prepare(self) -> None:
        """Download or convert; called once, on one process, before anything is read. Default: nothing."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows, bad ones included."""

    @abstractmethod
    def __getitem__(self, index: int) -> Preference:
        """Row ``index``.

        Raises:
            RowError: if the row is bad; the message names file, row and mend.
        """

    def remark(self, text: str) -> None:
        """Warn of what a reader of figures on these rows must know; the report repeats it below its tables."""
        if text not in self.remarks:
            self.remarks = [*self.remarks, text]
            print(f"warning: {self.name}: {text}", file=sys.stderr)

    def fingerprint(self) -> str:
        """Changes when the rows change: `predict` refuses to resume over another. Default: name and size."""
        return f"{type(self).__name__}:{self.name}:{len(self)}"


def unique_names(sources: Sequence[Source]) -> list[str]:
    """Names of sources, made unique: the second ``pairs`` is ``pairs_2``."""
    names: list[str] = []
    for source in sources:
        name = plain = source.name or type(source).__name__
        number = 1
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names
