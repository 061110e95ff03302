"""Optimizer steps in one kernel, where all that trains is on GPUs."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_SHARDED = (torch.optim.AdamW, torch.optim.Adam)  # fused kernels that PyTorch has for DTensors too
_FUSED = (*_SHARDED, torch.optim.SGD)


def fuse(optimizer: Optimizer, device: str = "cuda") -> None:
    """Have PyTorch's own AdamW, Adam or SGD step by its fused kernel where nothing else was asked for.

    It is set per group, as an option of it, and not by building the optimizer with ``fused=True``: that marks it as one
    that unscales gradients itself, for which Lightning refuses to clip them under mixed precision.

    Args:
        optimizer: as the user's factory made it. Left alone if ``fused``, ``foreach``, ``capturable`` or
            ``differentiable`` is set, or if some of its parameters are elsewhere, such as offloaded to the host.
        device: type of device that all parameters must be on.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = _SHARDED if any(isinstance(parameter, DTensor) for parameter in parameters) else _FUSED
    if type(optimizer) not in known or any(parameter.device.type != device for parameter in parameters):
        return
    for group in optimizer.param_groups:
        unsaid = group.get("fused") is None and group.get("foreach") is None
        if unsaid and not group.get("capturable") and not group.get("differentiable"):
            group["fused"] = True
