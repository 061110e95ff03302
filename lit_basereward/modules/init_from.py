"""Start from the weights of another reward model, ours or another trainer's, as against resuming a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_basereward.checkpoint import check_weights, is_sharded, read_checkpoint
from lit_basereward.nn.heads import MLPHead
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.lora import beneath_adapters, has_adapters, is_quantized
from lit_basereward.nn.reward_model import RewardModel

# What sequence-classification trainers (TRL, ms-swift) and LLaMA-Factory call a linear head without bias.
_FOREIGN_HEADS = ("score.weight", "v_head.summary.weight", "summary.weight")
_OUR_HEAD = "reward_head.safetensors"  # in an export of ours, where it is not linear
_FOREIGN_BIASES = ("score.bias", "v_head.summary.bias", "summary.bias")


def init_from(model: RewardModel, path: str) -> None:
    """Fill ``model`` with the weights at ``path``.

    Args:
        model: the network to fill.
        path: a checkpoint of ours (``.ckpt``, a file or the folder of a sharded one); or a folder in the Hugging Face
            format: an export of ours, or one whose safetensors hold a ``score.weight`` beside the backbone, or a
            ``value_head.safetensors`` file.

    Raises:
        ValueError: if the path is not there, a weight is missing or has another shape, or the head does not fit.
    """
    place = Path(path)
    if is_quantized(model):
        raise ValueError("init_from fills weights in full, not in 4 bits: leave out backbone.quantize")
    if place.is_file() or is_sharded(place):
        try:
            checkpoint = read_checkpoint(place)
            weights = checkpoint["state_dict"]
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"init_from: {path!r} is no checkpoint of a reward model; for safetensors name their folder"
            ) from error
        if "base" in checkpoint:
            raise ValueError(
                f"init_from: {path!r} holds adapters without their backbone; merge them with "
                "`python -m lit_basereward export` and name that folder"
            )
        weights = {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    elif place.is_dir():
        weights = _foreign(model, place)
    else:
        raise ValueError(f"init_from: {path!r} does not exist; name a .ckpt file or the folder of a reward model")
    if has_adapters(model):
        weights = beneath_adapters(model, weights)
    try:
        check_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"init_from {path!r}: {error}") from error
    model.load_state_dict(weights)


def _foreign(model: RewardModel, folder: Path) -> dict[str, Tensor]:
    """Weights of a folder under our names.

    A base model's names are the end of the names in the file (``model.visual...`` for ``visual...``), so each of ours
    is looked for there; older files put the language model elsewhere, which transformers' own loading maps.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if (folder / _OUR_HEAD).is_file():
        return _backbone(model, folder) | load_file(folder / _OUR_HEAD)
    found: dict[str, Tensor] = {}  # head weights alone; transformers reads the rest
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            keys = set(tensors.keys()) & {*_FOREIGN_HEADS, *_FOREIGN_BIASES}
            found |= {key: tensors.get_tensor(key) for key in keys}
    heads = [key for key in _FOREIGN_HEADS if key in found]
    if not heads:
        raise ValueError(
            f"init_from: {str(folder)!r} holds no reward head (looked for {', '.join(_FOREIGN_HEADS)}); "
            "for a backbone alone set backbone.name_or_path"
        )
    if not (isinstance(model.head, MLPHead) and len(model.head.layers) == 1):
        raise ValueError(
            f"init_from: {str(folder)!r} has a linear head; set model.head: "
            "{class_path: lit_basereward.nn.heads.MLPHead, init_args: {num_layers: 1}}"
        )
    if any(found[key].abs().max() > 0 for key in _FOREIGN_BIASES if key in found):
        # A bias shifts all rewards alike: no comparison changes, so it can be left out.
        print(f"init_from: the bias of {heads[0].removesuffix('.weight')} is left out, as it cancels in comparisons")
    return _backbone(model, folder) | {"head.layers.0.weight": found[heads[0]].float()}


def _backbone(model: RewardModel, folder: Path) -> dict[str, Tensor]:
    """Base model, and language head where ``model`` has one, under our names."""
    from transformers import AutoModel

    writes = isinstance(model, LanguageRewardModel)
    cls: Any = type(model.generator) if writes else AutoModel
    try:
        found, info = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise ValueError(
            f"init_from: {str(folder)!r} has a head but no backbone that can be loaded: {error}"
        ) from error
    if info["missing_keys"]:
        raise ValueError(
            f"init_from: {str(folder)!r} lacks backbone weights, first {sorted(info['missing_keys'])[0]!r}"
        )
    weights = {f"base.{key}": value for key, value in found.base_model.state_dict().items()}
    if writes:
        weights |= {f"lm_head.{key}": value for key, value in found.get_output_embeddings().state_dict().items()}
    return weights
