"""Score responses from Python: the six lines of the README."""

from __future__ import annotations

import copy
import re
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

import lit_basereward
from lit_basereward.allowed import check_classes
from lit_basereward.checkpoint import is_sharded, read_checkpoint
from lit_basereward.data.collator import Item
from lit_basereward.data.images import encode_image
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.record import read_prompt
from lit_basereward.data.types import Preference, RowError
from lit_basereward.ensemble.folder import is_ensemble, load_ensemble
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.base import RewardModule
from lit_basereward.shards import first_line

ImageLike: TypeAlias = Image.Image | str | Path | bytes | dict[str, Any]


class Scorer:
    """A trained reward model, ready to score.

    Args:
        module: the model, built and with its weights.
        device: where it computes; None is the first GPU, else the CPU.
    """

    def __init__(self, module: RewardModule, device: str | torch.device | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.module = module.to(self.device).eval()
        self.collator = module.collator(training=False)

    @property
    def calibration(self) -> Calibration | None:
        """How rewards become probabilities; None where the checkpoint has none (``calibrate`` fits one)."""
        return self.module.calibration

    def probability(self, rewards: Tensor) -> Tensor:
        """``sigmoid((r - offset) / T)`` of rewards, by the calibration that is stored with the model.

        Raises:
            ValueError: if there is none, or rewards mean something beside others of their row only.
        """
        if not self.module.comparable_across_rows:
            raise ValueError(
                "rewards of this model are comparable inside a row only, so a single one has no probability; that of "
                "one response over another is sigmoid(r[0] - r[1]), or calibration.pair_probability(r[0] - r[1])"
            )
        if self.calibration is None:
            raise ValueError(
                "this model has no calibration: fit one on held-out rows with `python -m lit_basereward calibrate`"
            )
        return self.calibration.probability(rewards)

    def score(
        self, prompt: str | Sequence[dict[str, Any]], responses: Sequence[str], images: Sequence[ImageLike] = ()
    ) -> Tensor:
        """Rewards of candidate responses to one prompt; the prompt and its images are computed once.

        Args:
            prompt: a question, or chat messages in Hugging Face's format that end in a user turn.
            responses: K >= 1 candidate answers; of a judge, which compares, K >= 2.
            images: one per image part of the prompt, in order (a path, encoded bytes, or a PIL image); where the
                prompt has no image part they stand before its text. An image part may also carry its own.

        Returns:
            [K] rewards, float32 on the CPU. ``sigmoid(r[0] - r[1])`` is the probability that the first is better.

        Raises:
            RowError: if prompt, responses and images do not fit together, or an image cannot be read.
        """
        if isinstance(responses, str):
            raise ValueError("responses is one string; give a list of them")
        if not isinstance(images, list | tuple):
            raise ValueError("images is one image; give a list of them")
        return self.score_rows([self.row(prompt, responses, images)])[0]

    def row(
        self, prompt: str | Sequence[dict[str, Any]], responses: Sequence[str], images: Sequence[ImageLike] = ()
    ) -> Preference:
        """A prompt, responses and images as one row; the arguments are those of :meth:`score`."""
        turns = prompt if isinstance(prompt, str) else [encoded_turn(turn) for turn in prompt]
        where = "the prompt to score"
        # Paths are the caller's own, so they may lie anywhere.
        messages, refs = read_prompt(turns, [encoded(image) for image in images], where, root=None)
        return Preference("", messages, tuple(responses), images=refs, where=where)

    def score_rows(self, rows: Sequence[Preference] | Source, batch_size: int | None = None) -> list[Tensor]:
        """Rewards of several rows.

        Args:
            rows: a list of them, or a source.
            batch_size: rows computed in one pass; None is all of them. ``module.evidence`` is that of the last pass.

        Returns:
            one [K] tensor per row, float32 on the CPU.
        """
        rewards: list[Tensor] = []
        step = batch_size or max(1, len(rows))
        for start in range(0, len(rows), step):
            some = range(start, min(start + step, len(rows)))
            rewards += self.score_items([self.collator.prepare(index, rows[index]) for index in some])
        return rewards

    def score_items(self, items: Sequence[Item]) -> list[Tensor]:
        """The same for rows that the collator, or a copy of it in another thread, has prepared."""
        batch = self.collator.collate(items).to(self.device)
        # Parts that are stored in bfloat16 meet float32 ones under autocast alone; an ensemble's members see to it.
        mixed = getattr(getattr(self.module, "backbone", None), "dtype", None) == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            rewards = self.module.score(batch).float().cpu()
        return list(rewards.split([len(item.lengths) for item in items]))


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    allow: Sequence[str] = (),
    backbone: str | None = None,
    trust_remote_code: bool = False,
) -> Scorer:
    """A trained reward model from its checkpoint or export, or an ensemble of them.

    Args:
        path: a ``.ckpt`` file, the folder of a sharded checkpoint, a folder that ``export`` has written; for an
            ensemble the folder that ``ensemble`` has written, or a YAML config. No code in it runs.
        device: where it computes; None is the first GPU, else the CPU.
        allow: modules, such as ``my_pkg.heads``, whose classes the checkpoint may name. Those of lit_basereward and
            torch it may always name.
        backbone: folder or hub id of the backbone, where it is not where it was in training: its config and processor,
            and for adapters its weights. Exports bring their own, but for adapters alone.
        trust_remote_code: run model code that comes with the backbone, where the checkpoint asks for it.

    Raises:
        ValueError: if the file is no checkpoint of ours, names other classes, or does not fit the backbone; if an
            export is not whole.
    """
    return Scorer(load_module(Path(path), allow, backbone, trust_remote_code), device)


def load_module(
    path: Path, allow: Sequence[str] = (), backbone: str | None = None, trust_remote_code: bool = False
) -> RewardModule:
    """The module that :func:`load` scores with, on the CPU; its arguments are those."""
    if is_ensemble(path):
        if backbone is not None:
            raise ValueError("an ensemble has several backbones; leave backbone out")
        return load_ensemble(path, allow, trust_remote_code)
    if path.is_dir() and not is_sharded(path):
        from lit_basereward.serving.folder import load_folder

        return load_folder(path, allow, backbone, trust_remote_code)
    return restore(load_checkpoint(path), allow, backbone, trust_remote_code=trust_remote_code)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, read without running code from it.

    Raises:
        ValueError: if it is none.
    """
    if not path.exists():
        raise ValueError(f"{str(path)!r} is no file; give a .ckpt file, such as runs/demo/checkpoints/best.ckpt")
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no checkpoint of a reward model: {error}") from error
    if not isinstance(checkpoint.get("hyper_parameters", {}).get("_class_path"), str) or "state_dict" not in checkpoint:
        raise ValueError(f"{str(path)!r} is no checkpoint of a reward model: it lacks hyper_parameters or weights")
    return checkpoint


def restore(
    checkpoint: dict[str, Any],
    allow: Sequence[str] = (),
    backbone: str | None = None,
    read: Callable[[RewardModule], dict[str, Tensor]] | None = None,
    weights: bool = False,
    trust_remote_code: bool = False,
) -> RewardModule:
    """The module of a checkpoint, with its weights and calibration.

    Args:
        checkpoint: loaded; its ``hyper_parameters`` build the module.
        allow: modules whose classes it may name.
        backbone: folder or hub id to read the backbone from instead.
        read: gives the weights for the built module; None takes the checkpoint's ``state_dict``.
        weights: read those of the backbone's folder first.
        trust_remote_code: see :func:`load`.

    Raises:
        ValueError: if it names other classes, or its weights do not fit.
    """
    hyper_parameters = copy.deepcopy(dict(checkpoint["hyper_parameters"]))
    check_classes(hyper_parameters, allow, trust_remote_code=trust_remote_code)
    if backbone is not None:
        recipe = hyper_parameters.get("backbone")
        if not isinstance(recipe, dict):
            raise ValueError("the checkpoint does not say which backbone it has; leave out `backbone`")
        recipe.get("init_args", recipe)["name_or_path"] = backbone
    module = build(hyper_parameters)
    try:
        module.configure_model(weights=weights)
    except RuntimeError as error:  # shapes, as torch and transformers tell of them
        raise ValueError(f"the backbone's weights cannot be read into its network: {first_line(error)}") from error
    if read is not None:
        checkpoint = {**checkpoint, "state_dict": read(module)}
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    return module


def build(hyper_parameters: dict[str, Any]) -> RewardModule:
    """The module that a checkpoint's hyper-parameters describe, without network.

    Raises:
        ValueError: if they do not fit the class, as those of another version may not.
    """
    from lightning.pytorch.cli import instantiate_module

    from lit_basereward.cli_errors import one_line, shorten

    arguments = dict(hyper_parameters)
    arguments.pop("_instantiator", None)
    name = arguments["_class_path"]
    cls = _import(name)
    if not issubclass(cls, RewardModule):
        raise ValueError(f"the checkpoint is of {name}, which is no reward module")
    try:
        return instantiate_module(cls, arguments)
    except (ArgumentError, TypeError, ValueError) as error:
        reason = one_line(shorten(str(error)))
        if isinstance(error, ValueError):
            listed = re.search(r"Union subtypes.*?Errors:\s+- ([^\n]+)", str(error), re.DOTALL)
            if not listed:  # the module's own words
                raise
            reason = listed[1]
        raise ValueError(
            f"the checkpoint's settings do not fit {name} of lit_basereward {lit_basereward.__version__}: "
            f"{reason}; use the version that it was trained with"
        ) from error


def _import(class_path: str) -> type:
    import importlib

    package, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(package), name)


def encoded(image: Any) -> Any:
    """A Pillow image as PNG bytes, a Path as string; all else as it is.

    Raises:
        RowError: for a Pillow image that is none of the usual kinds.
    """
    if isinstance(image, Path):
        return str(image)
    if not isinstance(image, Image.Image):
        return image
    try:
        return encode_image(image)
    except (OSError, ValueError) as error:
        raise RowError(f"a Pillow image of mode {image.mode} cannot be used ({error})") from error


def encoded_turn(turn: dict[str, Any], encode: Callable[[Any], Any] = encoded) -> dict[str, Any]:
    """A chat turn whose image parts carry encoded images."""
    if not isinstance(turn.get("content"), list):
        return turn
    return {**turn, "content": [{key: encode(value) for key, value in part.items()} for part in turn["content"]]}
