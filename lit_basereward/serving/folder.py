"""An export on disk: what is in it, whether it is whole and unchanged, and the module that it holds.

A manifest names every file with its size and SHA-256. It tells damage and careless edits, not a forger, who can write a
manifest as well: fetch exports from where you trust. Nothing in an export is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lit_basereward.checkpoint import check_form
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.reward_model import RewardModel

if TYPE_CHECKING:
    from lit_basereward.modules.base import RewardModule

MANIFEST = "manifest.json"
RECIPE = "lit_basereward.json"
CARD = "README.md"
HEAD = "reward_head.safetensors"
TEMPLATE = "instructions.txt"  # of a critic or judge, the wording that it was trained with
ADAPTER = "adapter_model.safetensors"
FORMAT = 1
KINDS = ("model", "adapter")
_FLOATS = ("F64", "F32", "F16", "BF16")


def write_manifest(folder: Path) -> None:
    """List all files of ``folder``; the last step of writing it."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        ValueError: naming what is missing, changed, or there besides. Names that begin with a dot are others' business.
    """
    files = _read(folder, MANIFEST).get("files")
    if not isinstance(files, dict) or not all(isinstance(each, dict) and "size" in each for each in files.values()):
        raise ValueError(f"the export {str(folder)!r} has a {MANIFEST} without its files; export or copy it again")
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    problems = [f"{name} is missing" for name in sorted(files.keys() - there)]
    problems += [f"{name} is not of the export" for name in sorted(there - files.keys())]
    for name in sorted(there & files.keys()):
        path = folder / name
        if path.stat().st_size != files[name]["size"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, not {files[name]['size']}")
        elif _digest(path) != files[name]:
            problems.append(f"{name} was changed")
    if problems:
        raise ValueError(
            f"the export {str(folder)!r} is not as it was written: {'; '.join(problems[:4])}"
            f"{'; ...' if len(problems) > 4 else ''}; export or copy it again"
        )


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def is_export(path: str | Path) -> bool:
    """True for a folder that looks like an export, whole or not."""
    return (Path(path) / RECIPE).is_file()


def read_recipe(folder: Path) -> dict[str, Any]:
    """What an export says of itself besides weights.

    Raises:
        ValueError: if it is no export of this version, or lacks something.
    """
    recipe = check_form(_read(folder, RECIPE), folder / RECIPE)
    if recipe.get("kind") not in KINDS:
        known = " and ".join(KINDS)
        raise ValueError(f"{str(folder / RECIPE)!r} is of kind {recipe.get('kind')!r}, not {known}; export it again")
    if not isinstance(recipe.get("hyper_parameters", {}).get("_class_path"), str):
        raise ValueError(f"{str(folder / RECIPE)!r} does not say of which class the model is; export it again")
    return recipe


def store_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    """Put a calibration into an export that is whole, its model card and its manifest among it."""
    from lit_basereward.serving.card import with_calibration

    stored = read_recipe(folder) | {"calibration": calibration}
    (folder / RECIPE).write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if (folder / CARD).is_file():
        text = (folder / CARD).read_text(encoding="utf-8")
        (folder / CARD).write_text(with_calibration(text, stored), encoding="utf-8")
    write_manifest(folder)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(folder)!r} is no whole export of a reward model, as it has no readable {name}; "
            "give a .ckpt file, or a folder that `python -m lit_basereward export` has written"
        ) from error
    if not known:
        raise ValueError(f"{str(folder / name)!r} is of another version of the format; export the checkpoint again")
    return content


def load_folder(
    folder: Path, allow: Sequence[str] = (), backbone: str | None = None, trust_remote_code: bool = False
) -> RewardModule:
    """The module that an export holds, with its weights and calibration.

    Args:
        folder: of the export.
        allow: modules whose classes the export may name beside those of lit_basereward and torch.
        backbone: for adapters alone: folder or hub id of the model that they belong to, where that has moved.
        trust_remote_code: run model code that comes with the backbone, where the export asks for it.

    Raises:
        ValueError: if the export is not whole, names other classes, has no head, or does not fit.
    """
    verify(folder)
    return read_folder(folder, allow, backbone, trust_remote_code)


def read_folder(
    folder: Path, allow: Sequence[str] = (), backbone: str | None = None, trust_remote_code: bool = False
) -> RewardModule:
    """The same without comparing the files with the manifest, for an export that is being written."""
    from lit_basereward.scorer import restore

    stored = read_recipe(folder)
    _check_types(folder)
    adapters = stored["kind"] == "adapter"
    if (folder / TEMPLATE).is_file():
        stored["hyper_parameters"]["template"] = str(folder.resolve() / TEMPLATE)
    if backbone is not None and not adapters:
        raise ValueError(f"the export {str(folder)!r} brings its own backbone; leave out `backbone`")
    return restore(
        stored,
        allow,
        backbone if adapters else str(folder.resolve()),
        lambda module: _weights(folder, module, adapters),
        weights=True,
        trust_remote_code=trust_remote_code,
    )


def _weights(folder: Path, module: RewardModule, adapters: bool) -> dict[str, Tensor]:
    """All that the export says about the module's weights, under the module's names."""
    from safetensors.torch import load_file

    model: Any = module.model
    # a judge has none: its verdicts are read off the language head
    has_head = (folder / HEAD).is_file() or any(True for _ in model.head.parameters())
    found = head_weights(folder) if has_head else {}
    trained = {name for name, parameter in model.named_parameters() if adapters and parameter.requires_grad}
    strange = [name for name in found if not name.startswith("head.") and name not in trained]
    if strange:
        raise ValueError(f"{HEAD} of {str(folder)!r} holds {strange[0]}, which is not of the head; export it again")
    if adapters:
        inside = prefix(model)
        for name, value in load_file(folder / ADAPTER).items():
            own = name.removeprefix(f"base_model.model.{inside}").removesuffix(".weight")
            found[f"base.{own}.default.weight"] = value
        return {f"model.{name}": value for name, value in found.items()}
    # The backbone has been read from the folder already, every weight of it.
    read = {n: value for n, value in module.state_dict().items() if n.startswith(("model.base.", "model.lm_head."))}
    return read | {f"model.{name}": value for name, value in found.items()}


def _check_types(folder: Path) -> None:
    """Exports hold floating-point weights alone; others would be rounded to such without a word."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dict
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} cannot be read: {error}; export it again") from error
        wrong = [name for name, kind in types.items() if kind not in _FLOATS]
        if wrong:
            raise ValueError(f"{str(path)!r} has {wrong[0]} as {types[wrong[0]]}, not a float; export it again")


def prefix(model: RewardModel) -> str:
    """What the base model's names begin with in the files: of a paradigm that writes the model is the whole one."""
    return f"{model.generator.base_model_prefix}." if isinstance(model, LanguageRewardModel) else ""


def head_weights(folder: Path) -> dict[str, Tensor]:
    """The head, under its names in a ``RewardModel``; in an export of adapters, also what else was trained.

    Raises:
        ValueError: if there is none.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if (folder / HEAD).is_file():
        return load_file(folder / HEAD)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if "score.weight" in file.keys():  # noqa: SIM118 - it is no dict
                return {"head.layers.0.weight": file.get_tensor("score.weight").float()}
    raise ValueError(f"{str(folder)!r} has no reward head, neither {HEAD} nor score.weight; export it again")
