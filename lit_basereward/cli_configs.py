"""Configs by name: those of ``configs/`` are in the package, so that commands of the docs work from any folder."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_basereward.cli_errors import one_line

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
    for place, prefix, value in _configs(args):
        path = _find(value)
        if path != value:
            lines.append(f"config {value}: that of the package, {path}")
        found[place] = prefix + path
    return found, lines


def read_configs(args: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the config files among arguments hold, by their paths.

    Raises:
        ValueError: for a file that is no YAML, or holds no settings.
    """
    return {value: _read(value) for _, _, value in _configs(args) if os.path.isfile(value)}


def _configs(args: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Place, what stands before it there, and value of each ``--config``."""
    for place, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if equals and option in ("-c", "--config"):
            yield place, f"{option}=", value
        elif place and args[place - 1] in ("-c", "--config"):
            yield place, "", argument


def _read(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"config {path} is not valid YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} is not YAML text: {one_line(error)}") from error
    if not isinstance(content, dict) or not any(value is not None for value in content.values()):
        raise ValueError(f"config {path} holds no settings; accepted: keys such as model and trainer, with values")
    return content


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
