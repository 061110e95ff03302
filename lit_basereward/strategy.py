"""Full fine-tuning of what no single device holds: FSDP2 as a strategy of the Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from lit_basereward.checkpoint import (
    beside,
    check_finite,
    check_weights,
    is_sharded,
    load_shards,
    put_in_place,
    read_checkpoint,
    read_meta,
    remove,
)
from lit_basereward.nn.reward_model import RewardModel
from lit_basereward.nn.sharding import shard


class FSDP2Strategy(ModelParallelStrategy):
    """Deals weights, gradients and optimizer state out over all devices of all nodes.

    Use ``trainer.precision: 32-true``: storage is float32, and ``compute_dtype`` says what is computed in. Checkpoints
    are folders that every device writes its share of; a run is resumed from one on any number of devices.

    Args:
        compute_dtype: of forward and backward pass, but for the reward head, which is float32. Gradients are summed
            over devices in float32.
        activation_checkpointing: recompute the language blocks' activations in the backward pass: less memory, about
            a third more time.
        cpu_offload: keep weights, gradients and optimizer state in the host's memory, and step there: slow, but only
            one block's weights at a time are on the device.
        save_sharded: False gathers the checkpoint on the first device and writes one file.
        timeout: how long a device waits for the others.
    """

    def __init__(
        self,
        compute_dtype: Literal["bfloat16", "float32"] = "bfloat16",
        activation_checkpointing: bool = True,
        cpu_offload: bool = False,
        save_sharded: bool = True,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(save_distributed_checkpoint=save_sharded, timeout=timeout)
        self.compute_dtype: torch.dtype = getattr(torch, compute_dtype)
        self.activation_checkpointing, self.cpu_offload = activation_checkpointing, cpu_offload

    def setup_environment(self) -> None:
        """All devices are one data-parallel group. (Stock would make those of a node a tensor-parallel one.)"""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        if self.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # the gradient norm is reduced on the CPU
        super().setup_environment()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process of a node at a time, so that its memory holds one whole model, not one per device."""
        for _ in range(self.local_rank):
            self.barrier()
        yield
        for _ in range(self.num_processes - self.local_rank):
            self.barrier()

    def shard(self, model: RewardModel) -> None:
        """Deal out a network whose weights are the same on every device."""
        if self.activation_checkpointing:
            model.base.get_decoder().activation_checkpointing_enable({"use_reentrant": False})
        shard(model, self.device_mesh["data_parallel"], self.compute_dtype, self.cpu_offload)

    def setup(self, trainer: pl.Trainer) -> None:
        """Refuse parameters that no unit holds: their gradients would differ from device to device without a word.

        Raises:
            ValueError: naming them.
        """
        super().setup(trainer)
        assert self.model is not None
        outside = [name for name, parameter in self.model.named_parameters() if not isinstance(parameter, DTensor)]
        if outside:
            raise ValueError(
                f"FSDP2 does not reduce the gradients of {', '.join(outside[:3])}; put them into the network that "
                "configure_model hands to `sharded.shard`, such as its head"
            )

    def model_to_device(self) -> None:
        """Move what is not sharded, such as a loss; the network has moved, and its offloaded shards stay."""
        assert self.model is not None
        for child in self.model.children():
            if not isinstance(child, RewardModel):
                child.to(self.root_device)

    # ---------------------------------------------------------------------------------------------- checkpoints
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Write beside the place, then rename; what was there is there until the new one is whole."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(filepath))
        if self.is_global_zero:
            remove(beside(path))
        self.barrier()
        super().save_checkpoint(checkpoint, beside(path), storage_options)
        self.barrier()
        if self.is_global_zero:
            put_in_place(beside(path), path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Fill the network, and in ``fit`` the optimizer, from a folder of any number of devices, or from a file.

        Raises:
            ValueError: if the checkpoint is not whole, or is of another network.
        """
        from torch.distributed.checkpoint import state_dict as sharded

        assert self.lightning_module is not None and self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        check_weights(self.lightning_module, read_checkpoint(path, weights=not is_sharded(path))["state_dict"])
        if not is_sharded(path):
            return super().load_checkpoint(path, weights_only)
        weights = {"state_dict": sharded.get_model_state_dict(self.model)}
        load_shards(weights, path)
        self._check_finite(weights["state_dict"])
        self.model.load_state_dict(weights["state_dict"])
        for number, optimizer in enumerate(self.optimizers):
            state = {f"optimizer_{number}": sharded.get_optimizer_state_dict(self.model, optimizer)}
            load_shards(state, path)
            options = sharded.StateDictOptions(cpu_offload=self.cpu_offload)
            sharded.set_optimizer_state_dict(self.model, optimizer, state[f"optimizer_{number}"], options=options)
        return read_meta(path)

    def _check_finite(self, weights: dict[str, Any]) -> None:
        """On all devices or on none, since one that stops alone leaves the others waiting."""
        problem: ValueError | None = None
        try:
            check_finite(weights)
        except ValueError as error:
            problem = error
        if not self.reduce_boolean_decision(problem is None):
            raise problem or ValueError("the checkpoint has NaN or infinite values in another device's share")
