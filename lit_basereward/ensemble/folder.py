"""An ensemble on disk: a folder with one small file, which names members by path and content, and holds the combiner.

Members stay where they are. Each has a digest, so that an ensemble whose member was changed is refused: its combiner
was fitted for another.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from lit_basereward.serving.folder import MANIFEST

if TYPE_CHECKING:
    from lit_basereward.metrics.calibration import Calibration
    from lit_basereward.modules.ensemble import EnsembleRM

FILE = "ensemble.json"
FORMAT = 1
_OURS = "lit_basereward.modules.ensemble.EnsembleRM"
_NOT_STORED = ("members", "combiner", "allow", "trust_remote_code", "devices", "report_fitted", "calibration")
"""Given by who loads it, or written by us."""


def is_ensemble(path: str | Path) -> bool:
    """True for a folder that holds an ensemble, and for a YAML file, which may describe one."""
    return (Path(path) / FILE).is_file() or Path(path).suffix in (".yaml", ".yml")


def write_ensemble(module: EnsembleRM, folder: str | Path) -> Path:
    """Write ``ensemble.json``, whole or not at all.

    Args:
        module: its members' files are read for their digests.
        folder: made if it is not there.

    Returns:
        the file.
    """
    from lit_basereward.modules.recipe import class_path

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "members": {
            name: {"path": _path_from(folder, path), "sha256": digest(Path(path))}
            for name, path in module.paths.items()
        },
        "hyper_parameters": {"_class_path": class_path(type(module)), **_settings(module)},
        "calibration": module.calibration.to_dict() if module.calibration else None,
    }
    return _write(folder, content)


def _plain(route: dict[str, Any]) -> dict[str, Any]:
    """A route as a config has it, without class paths."""
    arguments = route["init_args"]
    return {"members": arguments["members"], "when": arguments["when"]["init_args"]}


def _path_from(folder: Path, path: str) -> str:
    """Relative to the ensemble's folder where that and the member lie in one, so that they can move together."""
    member, home = Path(path).resolve(), folder.resolve().parent
    return os.path.relpath(member, folder.resolve()) if member.is_relative_to(home) else str(member)


def read_ensemble(path: str | Path) -> dict[str, Any]:
    """An ensemble as a checkpoint without weights: ``hyper_parameters`` that build it, its calibration among them.

    Args:
        path: a folder of :func:`write_ensemble`, or a YAML file with a ``model`` section.

    Raises:
        ValueError: if it is not whole, or a member is missing or was changed; names it.
    """
    path = Path(path)
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path)
    content = _read(path)
    members = {}
    for name, member in content["members"].items():
        place = path / member["path"]
        if not place.exists():
            raise ValueError(f"member {name!r} of the ensemble {str(path)!r} is not at {str(place)!r}; put it back")
        if digest(place) != member["sha256"]:
            raise ValueError(
                f"member {name!r} of the ensemble {str(path)!r} was changed since (calibrating it changes it, too); "
                "write the ensemble again"
            )
        members[name] = os.path.normpath(place)
    arguments = {**content["hyper_parameters"], "members": members}
    if stored := content.get("calibration"):
        of = _identity(members, arguments.get("combiner"), arguments.get("routes"))
        arguments["calibration"] = {**stored, "of": of}
    return {"hyper_parameters": arguments}


def _identity(members: Mapping[str, str], combiner: Any, routes: Any) -> str:
    """What rewards follow from, as a hash."""
    paths = {name: os.path.abspath(path) for name, path in members.items()}
    return hashlib.sha256(json.dumps([paths, combiner, routes], sort_keys=True).encode()).hexdigest()


def own_calibration(module: EnsembleRM, stored: Mapping[str, Any] | None) -> Calibration | None:
    """The calibration of :func:`read_ensemble`, unless the ensemble is another by now; then that is told."""
    from lit_basereward.metrics.calibration import Calibration

    if stored is None:
        return None
    numbers = dict(stored)
    if numbers.pop("of", None) == _identity(module.paths, *_settings(module).values()):
        return Calibration.from_dict(numbers)
    print("calibration: left out, as it is of other members, other routes or another combiner", file=sys.stderr)
    return None


def _settings(module: EnsembleRM) -> dict[str, Any]:
    from lit_basereward.modules.recipe import recipe

    return {"combiner": recipe(module.combiner), "routes": [_plain(recipe(route)) for route in module.routes]}


def _read_yaml(path: Path) -> dict[str, Any]:
    import lit_basereward.ensemble

    if not path.exists():
        raise ValueError(f"there is no {str(path)!r}; correct the path")
    try:
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        kept = {key: value for key, value in model["init_args"].items() if key not in ("allow", "trust_remote_code")}
        arguments = {"_class_path": _full_name(model["class_path"], lit_basereward, path), **kept}
        if isinstance(combiner := arguments.get("combiner"), str):
            arguments["combiner"] = combiner = {"class_path": combiner}
        if combiner is not None:
            name = _full_name(combiner["class_path"], lit_basereward.ensemble, path)
            arguments["combiner"] = {**combiner, "class_path": name}
        return {"hyper_parameters": arguments}
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} describes no ensemble; give a YAML file with model: class_path and init_args, as in "
            "configs/ensemble.yaml"
        ) from error


def _full_name(name: str, package: ModuleType, path: Path) -> str:
    """A class's path, of which the command line takes the last part alone for a class of ours."""
    if "." in name:
        return name
    if name not in package.__all__:
        known = ", ".join(each for each in package.__all__ if each[0].isupper())
        raise ValueError(
            f"{str(path)!r} names the class {name!r}; accepted: a path such as my_pkg.mine.{name}, {known}"
        )
    return f"{package.__name__}.{name}"


def store_calibration(folder: str | Path, calibration: dict[str, Any], output: str | Path) -> None:
    """Write the ensemble with a calibration.

    Args:
        folder: of the ensemble.
        calibration: as a dictionary.
        output: folder to write to, the same or a new one, which names the members from where it lies.

    Raises:
        ValueError: if ``output`` is another ensemble's.
    """
    folder, output = Path(folder), Path(output)
    if output.resolve() != folder.resolve() and (output / FILE).exists():
        raise ValueError(f"{str(output)!r} holds an ensemble already; name a new folder, or remove it first")
    content = _read(folder)
    members = {
        name: each | {"path": _path_from(output, str(folder / each["path"]))}
        for name, each in content["members"].items()
    }
    output.mkdir(parents=True, exist_ok=True)
    _write(output, content | {"members": members, "calibration": calibration})


def digest(path: Path) -> str:
    """SHA-256 of a checkpoint: of the file; of a folder of what its manifest says, or of all its files."""
    if (path / MANIFEST).is_file():  # an export's, which is checked against its files when they are loaded
        path = path / MANIFEST
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{file.relative_to(path)}:{digest(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        whole = content["format"] == FORMAT and isinstance(content["hyper_parameters"]["_class_path"], str)
        whole &= all(isinstance(each["path"] + each["sha256"], str) for each in content["members"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(folder)!r} holds no whole ensemble: {FILE} cannot be read; write it again") from error
    unknown = set(content) - {"format", "members", "hyper_parameters", "calibration"}
    unknown |= set(content["hyper_parameters"]) & set(_NOT_STORED) - {"combiner"}
    if not whole or unknown:
        what = f"it holds {', '.join(sorted(unknown))}" if unknown else "it is of another format"
        raise ValueError(f"{str(folder / FILE)!r} is no ensemble of this version: {what}; write it again")
    return content


def _write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / FILE
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def load_ensemble(path: str | Path, allow: Sequence[str] = (), trust_remote_code: bool = False) -> EnsembleRM:
    """The ensemble with its members and its calibration.

    Args:
        path: a folder of :func:`write_ensemble`, or a YAML file with a ``model`` section.
        allow: modules whose classes it and its members may name.
        trust_remote_code: run model code that comes with members' backbones, where they ask for it.

    Raises:
        ValueError: naming what cannot be loaded.
    """
    from lit_basereward.modules.ensemble import EnsembleRM

    module = open_ensemble(path, allow, trust_remote_code)
    assert isinstance(module, EnsembleRM)
    module.configure_model()
    return module


def open_ensemble(path: str | Path, allow: Sequence[str] = (), trust_remote_code: bool = False) -> EnsembleRM:
    """The same without its members, which are read on first use."""
    from lit_basereward.allowed import check_classes
    from lit_basereward.modules.ensemble import EnsembleRM
    from lit_basereward.scorer import build

    arguments = read_ensemble(path)["hyper_parameters"]
    more = {"allow": list(allow), "trust_remote_code": trust_remote_code}
    try:
        check_classes(arguments, allow)
        module = build(arguments | more)
    except ValueError as error:  # told as of a checkpoint, which this is not
        reason = str(error).replace("the checkpoint", str(path)).partition("; use the version")[0]
        raise ValueError(reason) from error
    if not isinstance(module, EnsembleRM):
        raise ValueError(f"{str(path)!r} describes a {type(module).__name__}, and no ensemble")
    return module
