"""What a checkpoint says about the model, held against the config that it is used with."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from lit_basereward.checkpoint import newest_whole, read_checkpoint

_WORDS = ("best", "last", "hpc")  # what Lightning takes in place of a path


def load_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint without its weights in memory; empty for what is not here (``best``, a URL).

    Raises:
        ValueError: if there is no such file or folder, or it is no checkpoint that loads without running code from it.
    """
    if path in _WORDS or "://" in path or path.startswith("registry"):
        return {}
    if not Path(path).exists():
        raise ValueError(f"ckpt_path {path!r} does not exist; give a .ckpt file or folder, or {', '.join(_WORDS)}")
    try:
        return read_checkpoint(path, weights=False)
    except ValueError as error:
        raise ValueError(
            f"ckpt_path {path!r} is not a whole checkpoint of this package ({error}); where its writing was "
            "interrupted, --ckpt_path last takes the newest whole one of the run"
        ) from error


def load_export(path: str, command: str) -> dict[str, Any]:
    """An export as a checkpoint without weights, whose model section reads them from there.

    Args:
        path: the folder.
        command: what is to be done with it; all but ``fit``.

    Raises:
        ValueError: if it is not as it was written, has no weights of the backbone, or is to be resumed.
    """
    from lit_basereward.serving.folder import read_recipe, verify

    if command == "fit":
        raise ValueError(f"the export {path!r} cannot be resumed: start from its weights by --model.init_from {path}")
    verify(Path(path))
    stored = read_recipe(Path(path))
    arguments = stored["hyper_parameters"]
    if stored["kind"] != "model" or "init_from" not in arguments or not isinstance(arguments.get("backbone"), dict):
        raise ValueError(
            f"the export {path!r} is scored by lit_basereward.load alone, as it holds adapters without their backbone, "
            f"or a model without init_from or backbone; give {command} the checkpoint, or an export of the whole model"
        )
    backbone = arguments["backbone"]
    backbone.get("init_args", backbone)["name_or_path"] = str(Path(path).resolve())
    return {**stored, "hyper_parameters": arguments | {"init_from": path}}


def settle_last(trainer: Trainer) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint in the folders that ``trainer`` writes to, for ``--ckpt_path last``.

    A logger that numbers its versions gives each start a new folder; where there is none in it, those of the versions
    beside it are looked at.

    Returns:
        it, if there is one; and lines that tell where there is none, and of newer ones that are not whole.
    """
    callbacks = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    folders = {Path(each._ModelCheckpoint__resolve_ckpt_dir(trainer)): each for each in callbacks}  # type: ignore[attr-defined]
    path, broken = newest_whole([*folders])
    lines = []
    if path is None:
        lines = [f"no checkpoint in {', '.join(map(str, folders)) or 'this run, as it writes none'}"]
        path, others = newest_whole([beside for folder, each in folders.items() for beside in _versions(folder, each)])
        broken += others
        lines[0] += f", going on from that of an earlier start: {path}" if path else ", starting anew"
    if broken:
        instead = f"going on from {path}" if path else "and there is no other"
        lines.insert(0, f"{broken[0]} is not whole, its writing was interrupted or it was damaged; {instead}")
    return path, lines


def _versions(folder: Path, callback: ModelCheckpoint) -> list[Path]:
    """``version_0/checkpoints`` beside ``version_1/checkpoints``, unless the user has named the folder."""
    numbered = callback.dirpath is None and folder.parent.name.startswith("version_")
    return [each for each in folder.parents[1].glob(f"version_*/{folder.name}") if each != folder] if numbered else []


def model_section(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's hyper-parameters as the ``model`` section of a config; empty if it holds none."""
    arguments = dict(checkpoint.get("hyper_parameters", {}))
    arguments.pop("_instantiator", None)
    class_path = arguments.pop("_class_path", None)
    return {"class_path": class_path, "init_args": arguments} if class_path else {}


def model_differences(checkpoint: dict[str, Any], model: dict[str, Any], base: type[LightningModule]) -> list[str]:
    """One line for each setting of ``model`` that is not the checkpoint's.

    Args:
        checkpoint: loaded.
        model: section of the config that is used, defaults filled in.
        base: class that ``model`` is of.
    """
    section = model_section(checkpoint)
    if not section:
        return []
    stored = section["init_args"].keys()  # optimizer and schedule are not
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(base, "model", subclass_mode=True, required=False)
    # Fill in defaults, as in the config; a section of another version, or of a class that is not here, stays as it is.
    with suppress(argparse.ArgumentError, ValueError):
        section = yaml.safe_load(parser.dump(parser.parse_object({"model": section}), skip_unset=False))["model"]
    old = {"class_path": section["class_path"], "init_args": {k: section["init_args"].get(k) for k in stored}}
    new = {"class_path": model["class_path"], "init_args": {k: model["init_args"].get(k) for k in stored}}
    return [f"{key}: checkpoint {was!r}, config {now!r} (used)" for key, was, now in _differences(old, new, "model")]


def _differences(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Leaves that differ, with their dotted key; of two different classes, the classes."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield key, old, new
    elif "class_path" in old and _class(old["class_path"]) != _class(new.get("class_path", "")):
        yield key, old["class_path"], new.get("class_path")
    elif "class_path" in old:
        yield from _differences(old.get("init_args") or {}, new.get("init_args") or {}, key)
    else:
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}")


def restored_differences(checkpoint: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """One line for each setting of optimizer and schedule that resuming `fit` takes from the checkpoint all the same.

    The checkpoint is asked, not its config: settings are compared with the state that Lightning restores. What a
    schedule does not keep in its state, such as the warm-up of ours, follows the config.

    Args:
        checkpoint: loaded.
        model: section of the config that is used, defaults filled in.
    """
    arguments = model.get("init_args", {})
    optimizer = (arguments.get("optimizer") or {}).get("init_args", {})
    schedule = (arguments.get("schedule") or {}).get("init_args", {})
    found: dict[str, tuple[Any, Any]] = {}
    for state in checkpoint.get("optimizer_states", [])[:1]:
        for group in state["param_groups"]:
            settings = {f"model.optimizer.{name}": value for name, value in optimizer.items()}
            if group.get("name") == "head" and arguments.get("head_lr") is not None:
                settings.pop("model.optimizer.lr", None)
                settings["model.head_lr"] = arguments["head_lr"]
            for key, now in settings.items():
                name = "lr" if key == "model.head_lr" else key.rpartition(".")[2]
                was = group.get("initial_lr", group.get("lr")) if name == "lr" else group.get(name, now)
                found[key] = (was, now)
    for state in checkpoint.get("lr_schedulers", [])[:1]:
        found |= {f"model.schedule.{name}": (state[name], now) for name, now in schedule.items() if name in state}
    lines = [
        f"{key}: checkpoint {was!r} (used), config {now!r}" for key, (was, now) in found.items() if not _same(was, now)
    ]
    if lines:
        lines.append(
            "resuming restores optimizer and schedule; to start them anew from these weights, leave out --ckpt_path "
            "and set model.init_from"
        )
    return lines


def _class(path: str) -> Any:
    """The class itself, since a path may lead through a package that imports it; the path where there is none."""
    return locate(path) or path


def _same(old: Any, new: Any) -> bool:
    return list(old) == list(new) if isinstance(old, tuple | list) and isinstance(new, tuple | list) else old == new
