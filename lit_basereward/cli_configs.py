"""Configs by name: those of ``configs/`` are in the package, so that commands of the docs work from any folder."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "configs"
"""In a checkout a link to its ``configs/``."""
_PATH = re.compile(r"[\w.~/-]+")  # anything else is YAML on the command line, or a URL


def find_configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments in which the package's configs stand by their path.

    ``--config configs/7b.yaml``, where there is no such file, and the bare name ``--config 7b`` are the package's. What
    is on disk always wins. A file name without ``configs/`` before it, such as ``7b.yaml``, is never looked up: it is
    meant to be a file here.

    Args:
        args: of the command line; the values of ``--config`` and ``-c`` are looked at.

    Returns:
        the arguments, and a line for each config that is the package's.

    Raises:
        ValueError: for a path that is nowhere, with those near it.
    """
    found, lines = list(args), []
    for place, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if equals and option in ("-c", "--config"):
            prefix = f"{option}="
        elif place and args[place - 1] in ("-c", "--config"):
            prefix, value = "", argument
        else:
            continue
        path = _find(value)
        if path != value:
            lines.append(f"config {value}: that of the package, {path}")
        found[place] = prefix + path
    return found, lines


def _find(value: str) -> str:
    if os.path.exists(value) or not _PATH.fullmatch(value):
        return value
    packaged = {f"configs/{file.relative_to(FOLDER).as_posix()}": str(file) for file in sorted(FOLDER.rglob("*.yaml"))}
    names = {path.removeprefix("configs/").removesuffix(".yaml"): path for path in packaged}
    path = packaged.get(names.get(value, value))
    if path is None:
        raise ValueError(f"config {value!r} does not exist{_near(value, list(packaged))}")
    return path


def _near(value: str, packaged: Sequence[str]) -> str:
    """What may have been meant, of the package's and of what lies beside; else where to choose from."""
    here = [str(file) for file in sorted(Path(value).parent.glob("*.y*ml"))]
    stems: dict[str, list[str]] = {}
    for path in dict.fromkeys((*here, *packaged)):
        stems.setdefault(Path(path).stem, []).append(path)
    near = [path for stem in difflib.get_close_matches(Path(value).stem, stems, cutoff=0.7) for path in stems[stem]]
    if near:
        return f", here or in the package; did you mean {', '.join(map(repr, near[:4]))}?"
    top = ", ".join(Path(path).stem for path in packaged if path.count("/") == 1)
    return f"; accepted: a YAML file, or a config of the package: {top}, and others in {FOLDER}"
