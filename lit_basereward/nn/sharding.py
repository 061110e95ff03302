"""FSDP2: weights, gradients and optimizer state dealt out over devices, and gathered unit by unit for the computation.

FSDP2 reduces the gradients of parameters inside a unit only; those outside differ from rank to rank without a word. So
everything is inside one: vision blocks, projectors, the rest of the tower, language blocks, the head, and the root
:class:`RewardModel` for what is left (embeddings, last norm). Parameters of a unit have one storage type, also where
frozen parts are stored in bfloat16. Gathering happens in ``forward`` and ``generate``: call nothing else of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from lit_basereward.nn.backbone import part_of
from lit_basereward.nn.reward_model import RewardModel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(
    model: RewardModel, mesh: DeviceMesh, compute_dtype: torch.dtype = torch.float32, cpu_offload: bool = False
) -> None:
    """Deal out the parameters of ``model``, in place, over the devices of ``mesh``.

    Args:
        model: whole, with the same weights on every rank; what is on the CPU moves to the mesh's devices.
        mesh: of one dimension.
        compute_dtype: type of parameters and activations in forward and backward pass of all but the head, which is
            float32. Storage stays as it is, and gradients are summed over devices in float32.
        cpu_offload: keep shards, their gradients and the optimizer state in the host's memory.

    Raises:
        ValueError: if no block is found to shard.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    param_dtype = None if compute_dtype == torch.float32 else compute_dtype
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if cpu_offload else OffloadPolicy()
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy, offload_policy=offload)
    fully_shard(model.head, mesh=mesh, mp_policy=MixedPrecisionPolicy(), offload_policy=offload)
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def units(model: RewardModel) -> Iterator[nn.Module]:
    """The parts of the backbone that are gathered one at a time, inner before outer.

    Raises:
        ValueError: if its blocks cannot be told from the class names that transformers keeps of them.
    """
    base = model.base
    names = set(base._no_split_modules or ())
    lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
    # Only what stands in a list: some families name their embeddings too, which others read from outside.
    blocks = [block for each in lists for block in each if type(block).__name__ in names]
    decoder = set(base.get_decoder().modules())
    if not decoder.intersection(blocks):
        raise ValueError(f"{base.config.model_type} cannot be sharded: transformers names none of its language blocks")
    yield from blocks
    yield from _projectors(base)
    yield from (child for name, child in base.named_children() if part_of(f"{name}.") == "vision")


def _projectors(module: nn.Module) -> Iterator[nn.Module]:
    """Outermost modules that are a projector; of a list of them, which is never called itself, each one."""
    for name, child in module.named_children():
        if part_of(name) != "projector":
            yield from _projectors(child)
        elif isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child
