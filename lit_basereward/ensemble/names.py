"""Names of models, after the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ENDINGS = (".ckpt", ".json", ".jsonl")
"""What is no part of a name; in folders such as ``qwen2.5-vl`` a dot begins no ending."""


def name_paths(paths: Sequence[str]) -> list[str]:
    """A name for each file: its stem, with as many of its folders in front as tell it from the others.

    Raises:
        ValueError: if a file is given twice.
    """
    refuse_twice(paths)
    resolved = [Path(path).resolve() for path in paths]
    parts = [path.with_suffix("").parts if path.suffix in ENDINGS else path.parts for path in resolved]
    if len(set(parts)) < len(parts):  # they differ by their endings
        parts = [path.parts for path in resolved]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def refuse_twice(paths: Sequence[str]) -> None:
    """Refuse a file that is given twice, whatever it is called."""
    resolved = [Path(path).resolve() for path in paths]
    if len(set(resolved)) < len(paths):
        twice = next(path for path, each in zip(paths, resolved, strict=True) if resolved.count(each) > 1)
        raise ValueError(f"the file {twice} is given twice; give the files of different models")
