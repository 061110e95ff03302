"""Where members of an ensemble compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lit_basereward.shards import first_line


def check_devices(devices: Sequence[str] | None, names: Sequence[str]) -> None:
    """Refuse devices that are none, or not one for each member; whether they are there is seen when members move."""
    if devices is not None and len(devices) != len(names):
        raise ValueError(f"{len(names)} members, but {len(devices)} devices; give one for each, or none")
    for name, device in zip(names, devices or [], strict=False):
        try:
            torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"member {name!r} has the device {device!r}, which is none; give such as cuda:0"
            ) from error


def move(name: str, member: nn.Module, device: str | torch.device) -> None:
    """Move a member; an error names it."""
    try:
        member.to(device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch is built without such devices
        raise ValueError(
            f"member {name!r} of the ensemble cannot be moved to the device {str(device)!r}: {first_line(error)}; "
            "give a device that is there"
        ) from error
