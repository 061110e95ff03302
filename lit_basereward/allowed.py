"""What a checkpoint may make us build: classes of ours, of torch, and of packages that the user allows. Nothing else.

A recipe is data from somebody else. It names classes by ``class_path`` alone; the command line's parser, which builds
from it, would also take a class by its bare name, as text in YAML, or from a file that a text names. So a text is
accepted only where the constructor wants text.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

OURS = ("lit_basereward", "torch")


def check_classes(
    hyper_parameters: Any, allow: Sequence[str], hint: Any = Any, trust_remote_code: bool = False, key: str = "it"
) -> None:
    """Refuse what a recipe names before any of it is built, and before any package but ours and torch is imported.

    Args:
        hyper_parameters: a recipe or a part of it.
        allow: packages and modules of the user's.
        hint: type that this part is to have.
        trust_remote_code: let it ask for model code that comes with a backbone's weights.
        key: where it stands.

    Raises:
        ValueError: naming the class, or the place, and the mend.
    """
    if isinstance(hyper_parameters, list | tuple):
        inner = next(iter(get_args(_only(hint, list, tuple, Sequence))), Any)
        for value in hyper_parameters:
            check_classes(value, allow, inner, trust_remote_code, key)
    elif isinstance(hyper_parameters, str):
        if not _takes_text(hint, hyper_parameters):
            raise ValueError(
                f"the checkpoint has the text {hyper_parameters[:60]!r} as {key}, where a class belongs; classes are "
                "named by class_path"
            )
    elif isinstance(hyper_parameters, dict):
        _check_dict(hyper_parameters, allow, hint, trust_remote_code)


def _check_dict(part: dict[str, Any], allow: Sequence[str], hint: Any, trust_remote_code: bool) -> None:
    if part.get("trust_remote_code") and not trust_remote_code:
        raise ValueError(
            "the checkpoint asks to run model code that comes with its backbone; if you trust that code, load with "
            "trust_remote_code=True"
        )
    names = [key for key in ("class_path", "_class_path") if key in part]
    hints = _hints(_dataclass(hint))
    for name in names:
        hints = _hints(_resolve(part[name], allow))
    for key, value in part.items():
        if key in (*names, "_instantiator"):
            continue
        if key == "init_args" and names and isinstance(value, dict):
            for each, given in value.items():
                check_classes(given, allow, hints.get(each, Any), trust_remote_code, each)
            if value.get("trust_remote_code"):
                _check_dict({"trust_remote_code": True}, allow, Any, trust_remote_code)
        else:
            check_classes(value, allow, hints.get(key, Any), trust_remote_code, key)


def _resolve(name: Any, allow: Sequence[str]) -> type:
    """The class of a ``class_path``."""
    package, _, attribute = str(name).rpartition(".")
    if not _within(package, (*OURS, *allow)):
        raise ValueError(f"the checkpoint names the class {name}; to run it, load with allow=[{package!r}] (--allow)")
    try:
        found = getattr(import_module(package), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the checkpoint names the class {name}, which is not there: {error}") from error
    if not inspect.isclass(found) or not _within(found.__module__, (*OURS, *allow)):
        raise ValueError(f"the checkpoint names {name} as a class, which is none of an allowed package")
    if _within(found.__module__, ("torch",)):
        from torch import nn
        from torch.optim import Optimizer
        from torch.optim.lr_scheduler import LRScheduler

        if not issubclass(found, nn.Module | Optimizer | LRScheduler):
            raise ValueError(f"the checkpoint names {name}, which is no layer, optimizer or schedule")
    return found


def _within(package: str, known: Sequence[str]) -> bool:
    return any(f"{package}.".startswith(f"{name}.") for name in known)


def _hints(cls: Any) -> dict[str, Any]:
    """Types of a constructor's parameters, those of its bases among them."""
    found: dict[str, Any] = {}
    for base in reversed(inspect.getmro(cls)) if inspect.isclass(cls) else ():
        if "__init__" in vars(base):
            try:
                found |= get_type_hints(vars(base)["__init__"])
            except (NameError, TypeError):  # a name that is imported for type checkers alone
                continue
    return found


def _options(hint: Any) -> tuple[Any, ...]:
    """Members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _only(hint: Any, *kinds: Any) -> Any:
    return next((option for option in _options(hint) if get_origin(option) in kinds or option in kinds), Any)


def _dataclass(hint: Any) -> Any:
    return next((option for option in _options(hint) if is_dataclass(option)), None)


def _takes_text(hint: Any, text: str) -> bool:
    """Whether a parameter of this type is meant to hold a text: untyped ones hold any that hides no class."""
    for option in _options(hint):
        if option in (str, Path) or (get_origin(option) is Literal and text in get_args(option)):
            return True
        if option is Any or option is inspect.Parameter.empty:
            return "class_path" not in text
    return False
