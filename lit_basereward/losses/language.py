"""Cross-entropy of text without the logits of all its tokens at once.

Shape legend: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_LOGITS = 2**24
"""Logits that are held at once: 64 MiB in float32. Those of 4,096 tokens over 151,936 words would be 2.5 GB."""


def chunked_cross_entropy(states: Tensor, weight: Tensor, tokens: Tensor, chunk_size: int | None = None) -> Tensor:
    """``-log softmax(states @ weight.T)[tokens]``, exact, some tokens at a time in either direction.

    Logits are computed twice, in the forward and in the backward pass, and never kept. Products are taken in the type
    of autocast where it is on, sums and logarithms in float32.

    Args:
        states: [T, H] that predict the tokens.
        weight: [V, H] of a language head without bias.
        tokens: [T] ids.
        chunk_size: tokens at a time; None is as many as have ``CHUNK_LOGITS`` logits.

    Returns:
        [T] losses in nats, float32.

    Example:
        >>> chunked_cross_entropy(torch.eye(2), torch.zeros(4, 2), torch.tensor([0, 3]), chunk_size=1)
        tensor([1.3863, 1.3863])
    """
    if states.device.type != "meta" and torch.is_autocast_enabled(states.device.type):
        states = states.to(torch.get_autocast_dtype(states.device.type))
    return _ChunkedCrossEntropy.apply(states, weight, tokens, chunk_size or max(1, CHUNK_LOGITS // len(weight)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, tokens: Tensor, chunk_size: int) -> Tensor:
        ctx.save_for_backward(states, weight, tokens)
        ctx.chunk_size = chunk_size
        matrix = weight.to(states.dtype)
        losses = [
            F.cross_entropy(_product(some, matrix), targets, reduction="none")
            for some, targets in zip(states.split(chunk_size), tokens.split(chunk_size), strict=True)
        ]
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        states, weight, tokens = ctx.saved_tensors
        matrix = weight.to(states.dtype)
        d_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(tokens), ctx.chunk_size):
            part = slice(start, start + ctx.chunk_size)
            # d loss / d logits = softmax - one-hot
            logits = _product(states[part], matrix)
            d_logits = logits.sub_(logits.logsumexp(-1, keepdim=True)).exp_()
            d_logits[torch.arange(len(d_logits), device=tokens.device), tokens[part]] -= 1
            d_logits = d_logits.mul_(grad[part, None]).to(states.dtype)
            if d_states is not None:
                d_states[part] = d_logits @ matrix
            if d_weight is not None:
                _add_product(d_weight, d_logits.T, states[part])
        return d_states, d_weight, None, None


def _product(states: Tensor, matrix: Tensor) -> Tensor:
    """[t, V] logits in float32, without autocast, which would cast the whole matrix for every chunk."""
    with torch.autocast(states.device.type, enabled=False):
        return (states @ matrix.T).float()


def _add_product(total: Tensor, one: Tensor, two: Tensor) -> None:
    """``total += one @ two``, without a second matrix of its size where the types are the same."""
    with torch.autocast(total.device.type, enabled=False):
        if total.dtype == one.dtype:
            total.addmm_(one, two)
        else:
            total += one @ two
