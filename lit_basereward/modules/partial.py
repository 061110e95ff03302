"""Checkpoints that hold what was trained alone: adapters, head, and the projector where it trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lit_basereward.nn.lora import fingerprints

_BASE = "model.base."
_LANGUAGE_HEAD = "model.lm_head."  # of paradigms that write


def leave_out_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take the frozen weights of the backbone out of a checkpoint, and leave their fingerprints.

    Args:
        module: a reward module with its network.
        checkpoint: about to be written; changed in place.
    """
    weights = checkpoint["state_dict"]
    frozen = _frozen(module, weights)
    checkpoint["state_dict"] = {name: value for name, value in weights.items() if name not in frozen}
    checkpoint["base"] = _fingerprints(module)


def with_own_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of such a checkpoint, with the module's own frozen ones in the place of those left out.

    Raises:
        ValueError: if the module's backbone is not the one that they were trained on.
    """
    there = checkpoint.get("base", {})
    here = _fingerprints(module)
    if not there:
        raise ValueError(
            "the checkpoint holds adapters, but not what tells their backbone (its `base` entry); it is not as it was "
            "written: use the file that the run wrote"
        )
    other = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if other:
        raise ValueError(
            f"the checkpoint holds adapters of another backbone: {len(other)} of its {len(there)} frozen weights "
            f"differ here, first {other[0]!r}; set backbone.name_or_path (and revision) to the one it was trained on"
        )
    own = module.state_dict()
    return {name: own[name] for name in _frozen(module, own)} | checkpoint["state_dict"]


def _fingerprints(module: nn.Module) -> dict[str, str]:
    """Of the base model, and of the language head where there is one."""
    model: Any = module.model
    found = fingerprints(model.base)
    if hasattr(model, "lm_head"):
        found |= {f"lm_head.{name}": value for name, value in fingerprints(model.lm_head).items()}
    return found


def _frozen(module: nn.Module, weights: dict[str, Tensor]) -> set[str]:
    """Names in ``weights`` of what does not train: parameters, buffers and what 4-bit weights keep beside them."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name for name in weights if name.startswith((_BASE, _LANGUAGE_HEAD)) and name not in trained}
