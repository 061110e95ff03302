"""What a model costs in bytes before any batch: weights by part and storage, gradients, optimizer state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import part_of
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.reward_model import RewardModel

MAX_REAL = 2**22
"""Elements of the largest weight that an optimizer is tried on for real, where it cannot be on `meta`."""

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A weight, its share of a scale for 64, and of that scale's own for 256 of them (QLoRA, arXiv 2305.14314)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights of one part that are stored alike.

    Args:
        part: ``vision``, ``projector``, ``language``, ``head``, or ``lm_head`` where it is not tied to the embeddings.
        dtype: such as ``float32``.
        parameters: how many.
        bytes: of them.
        trainable: how many of them train.
    """

    part: str
    dtype: str
    parameters: int
    bytes: int
    trainable: int


def stored(model: RewardModel, four_bit: bool = False) -> list[Stored]:
    """Weights by part and storage type, exact.

    Args:
        model: backbone and head.
        four_bit: count the language model's linear layers as nf4 with its scales quantised too (QLoRA), as they will be
            once they are read.
    """
    decoder = model.base.get_decoder()
    linears = [m for name, m in decoder.named_modules() if isinstance(m, nn.Linear) and "lora_" not in name]
    planned = {id(m.weight) for m in linears} if four_bit else set()
    groups: dict[tuple[str, str], list[Stored]] = {}
    named = [(part_of(name), p) for name, p in model.base.named_parameters()]
    tied = {id(p) for p in model.base.parameters()}
    language_head = [("lm_head", p) for p in _language_head(model) if id(p) not in tied]
    for part, p in [*named, *language_head, *(("head", p) for p in model.head.parameters())]:
        number = elements(p)
        packed = number != p.numel() or id(p) in planned
        dtype = "nf4" if packed else str(p.dtype).removeprefix("torch.")
        used = round(number * NF4_BITS / 8) if packed else _bytes([p])
        one = Stored(part, dtype, number, used, number if p.requires_grad else 0)
        groups.setdefault((part, dtype), []).append(one)
    return [
        Stored(part, dtype, *(sum(getattr(one, key) for one in ones) for key in ("parameters", "bytes", "trainable")))
        for (part, dtype), ones in groups.items()
    ]


def _language_head(model: RewardModel) -> list[nn.Parameter]:
    return list(model.lm_head.parameters()) if isinstance(model, LanguageRewardModel) else []


def elements(weight: Tensor) -> int:
    """Numbers in a weight, also where bitsandbytes has packed two into a byte."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def gradient_bytes(model: nn.Module) -> int:
    """Gradients are stored like their weights."""
    return _bytes(p for p in model.parameters() if p.requires_grad)


def optimizer_bytes(module: RewardModule, model: nn.Module) -> int | None:
    """Bytes of the optimizer's state after its first step: exact, since the optimizer itself makes it.

    It steps over one weight of each shape, on `meta`, where nothing is allocated. One that refuses to is tried on
    zeros, up to :data:`MAX_REAL` elements.

    Returns:
        None where that was not possible.
    """
    shapes = Counter((tuple(p.shape), p.dtype) for p in model.parameters() if p.requires_grad)
    if not shapes:
        return 0
    for device in ("meta", "cpu"):
        if device == "cpu" and max(torch.Size(shape).numel() for shape, _ in shapes) > MAX_REAL:
            return None
        likes = [nn.Parameter(torch.zeros(shape, dtype=dtype, device=device)) for shape, dtype in shapes]
        optimizer = module.make_optimizer([{"params": likes, "name": "backbone"}])
        for like in likes:
            like.grad = torch.zeros_like(like)
        try:
            optimizer.step()
        except (RuntimeError, NotImplementedError, ValueError):
            continue
        return _state_bytes([optimizer.state[like] for like in likes], list(shapes.values()))
    return None


def _state_bytes(states: list[dict[str, Any]], times: list[int]) -> int:
    """Each weight's own tensors as often as there are such weights; those that weights share once."""
    users = Counter(id(value) for state in states for value in state.values() if isinstance(value, Tensor))
    shared = {id(v): v for state in states for v in state.values() if isinstance(v, Tensor) and users[id(v)] > 1}
    own = sum(
        count * _bytes([v for v in state.values() if isinstance(v, Tensor) and id(v) not in shared])
        for state, count in zip(states, times, strict=True)
    )
    return own + _bytes(shared.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
