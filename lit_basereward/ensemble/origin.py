"""Which rows a combiner was fitted on, known by the bytes of their files."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

from lit_basereward.data.records.base import Records
from lit_basereward.data.records.cache import digest
from lit_basereward.data.records.locate import ENDINGS
from lit_basereward.data.sources.base import Source, unique_names
from lit_basereward.ensemble.combiners import Combiner

FITTED_HERE = "the ensemble's combiner was fitted on these very rows: its figures are too good"


def origin(source: Source) -> set[str]:
    """SHA-256 of each file that rows are from, whatever settings they are read with, their images blanked or not.

    A dataset of the hub is known by its name and revision, and any other source without files by its fingerprint.
    """
    while isinstance(inner := getattr(source, "source", None), Source):
        source = inner
    records = getattr(source, "records", None)
    if not isinstance(records, Records):
        return path_origin(getattr(source, "path", None) or "") or {source.fingerprint()}
    whole = copy.copy(records)
    whole.limit = None
    return set(map(digest, _files(records))) or {whole.fingerprint()}


def path_origin(path: str) -> set[str]:
    """The same of a file, or of the files with records in a folder; empty where there are none."""
    place = Path(path)
    inside = place.rglob("*") if path and place.is_dir() else ()
    files = [place, *(file for file in inside if file.name.endswith(ENDINGS))]
    return {digest(str(file)) for file in files if file.is_file()}


def _files(records: Any) -> list[str]:
    """Files underneath records: of shards, of an archive's members, or the one file."""
    parts = getattr(records, "_parts", None) or [getattr(records, "_inside", None)]
    if parts != [None]:
        return [file for part in parts for file in _files(part)]
    return [file for file in getattr(records, "_parquet", [records.path]) if Path(file).is_file()]


def was_fitted_on(combiner: Combiner, source: Source) -> bool:
    """True if the combiner was fitted on a file that rows of the source are from."""
    seen = set(combiner.fitted_on.values())
    return bool(seen) and not seen.isdisjoint(origin(source))


def marked(combiner: Combiner, *sources: Source) -> Combiner:
    """A combiner that knows which files it was fitted on, where it is one that is fitted."""
    if "fitted_on" not in inspect.signature(type(combiner)).parameters:
        return combiner
    combiner = copy.copy(combiner)
    combiner.fitted_on = {
        name if number == 1 else f"{name} {number}": each
        for name, source in zip(unique_names(sources), sources, strict=True)
        for number, each in enumerate(sorted(origin(source)), 1)
    }
    return combiner
