"""Hyper-parameters as plain JSON, so that a checkpoint holds no live objects and loads with ``weights_only``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lit_basereward.ensemble.combiners import Combiner


def class_path(cls: type) -> str:
    """``package.module.Class``"""
    return f"{cls.__module__}.{cls.__qualname__}"


def check_rebuilt(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse a module that could not be built again from its checkpoints.

    Args:
        cls: the module's class.
        arguments: of its constructor, as a checkpoint will hold them.

    Raises:
        ValueError: naming the arguments without default that are missing.
    """
    parameters = [*inspect.signature(cls).parameters.values()]
    needed = [
        each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if missing := [name for name in needed if name not in arguments]:
        raise ValueError(
            f"{class_path(cls)} could not be built again from its checkpoints, which would not hold "
            f"{', '.join(missing)}; call self.save_hyperparameters() in its constructor"
        )


def recipe(value: Any) -> Any:
    """What builds ``value`` again, in the form of a YAML config: ``class_path`` and ``init_args``.

    Raises:
        ValueError: for an object whose constructor arguments cannot be told from its attributes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path | Enum):
        return str(value) if isinstance(value, Path) else value.value
    if isinstance(value, Mapping):
        return {str(key): recipe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [recipe(item) for item in value]
    if isinstance(value, partial):
        # jsonargparse builds a factory as a call of its own, with the class among the arguments
        built: Any = next((each for each in value.args if isinstance(each, type)), value.func)
        return {"class_path": class_path(built), "init_args": recipe(value.keywords)}
    if isinstance(value, type):
        return {"class_path": class_path(value)}
    if is_dataclass(value):
        arguments = {field.name: recipe(getattr(value, field.name)) for field in fields(value) if field.init}
        return {"class_path": class_path(type(value)), "init_args": arguments}
    if isinstance(value, nn.Module | Combiner):
        names = [name for name in inspect.signature(type(value).__init__).parameters if name != "self"]
        missing = [name for name in names if not hasattr(value, name)]
        if not missing:
            return {"class_path": class_path(type(value)), "init_args": {n: recipe(getattr(value, n)) for n in names}}
        raise ValueError(
            f"{class_path(type(value))} cannot be written into a checkpoint: it keeps no attribute "
            f"{', '.join(missing)}; store each constructor argument under its own name"
        )
    raise ValueError(f"{value!r} of {type(value).__name__} cannot be written into a checkpoint as plain JSON")
