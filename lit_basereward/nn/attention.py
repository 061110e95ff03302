"""Attention over the shared layout: a prefix sees itself, a branch sees its prefix and itself.

Exact, differentiable, and without a loop over rows: one call for all prefixes and one per group of branches. Registered
with transformers as ``branch``, for the text part of a backbone only; without a layout it is plain SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_basereward.nn.layout import Layout

NAME = "branch"


def branch_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None = None) -> Tensor:
    """Causal attention inside each prefix, and of each branch over its prefix and itself.

    Args:
        query: [T, heads, dim] the packed sequence.
        key: [T, key heads, dim]; key heads divide heads (grouped queries).
        value: [T, key heads, dim].
        layout: the shared layout of the sequence.
        scale: of the scores; ``dim ** -0.5`` where None.

    Returns:
        [T, heads, dim]
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen_attention(query, key, value, layout, scale)
    assert layout.prefixes is not None and layout.groups is not None
    assert layout.prefix_real is not None
    outputs = [_attend(query, key, value, layout.prefixes, layout.prefixes, scale, None, layout.prefix_real)]
    for group in layout.groups:
        outputs.append(_attend(query, key, value, group.queries, group.keys, scale, group.mask, group.real))
    if layout.order is not None:
        outputs[1:] = [torch.cat(outputs[1:]).index_select(0, layout.order)]
    return torch.cat(outputs)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Tensor,
    keys: Tensor,
    scale: float | None,
    mask: Tensor | None,
    real: Tensor,
) -> Tensor:
    """SDPA over gathered sequences: [n, Lq] queries see [n, Lk] keys, causally where ``mask`` is None.

    Returns the ``real`` of the n * Lq outputs, [len(real), heads, dim].
    """
    # index_select, since the backward pass of plain indexing takes twice as long
    q = query.index_select(0, queries.flatten()).unflatten(0, queries.shape)
    k, v = (x.index_select(0, keys.flatten()).unflatten(0, keys.shape) for x in (key, value))
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    out = out.transpose(1, 2).flatten(0, 1)
    return out if len(real) == len(out) else out.index_select(0, real)


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float | None) -> Tensor:
    """The same in two kernel calls on real tokens only; causal masks are aligned to the last key of each sequence."""
    from torch.nn.attention.varlen import varlen_attn

    assert layout.varlen is not None and layout.prefix_real is not None
    index, first = layout.varlen, len(layout.prefix_real)
    longest_prefix, longest_branch, longest_keys = index.longest
    causal: dict[str, Any] = {
        "window_size": (-1, 0),
        "scale": scale,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    own = (query[:first], key[:first], value[:first])
    prefixes = varlen_attn(*own, index.prefix_ends, index.prefix_ends, longest_prefix, longest_prefix, **causal)
    shared = (query[first:], key[index.keys], value[index.keys])
    branches = varlen_attn(*shared, index.branch_ends, index.key_ends, longest_branch, longest_keys, **causal)
    return torch.cat([prefixes, branches])  # type: ignore[list-item]  # tensors, since no auxiliary output is asked for


def _transformers_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The signature that transformers calls, tensors [1, heads, T, dim]; ``layout`` is our extra keyword."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    layout: Layout | None = kwargs.pop("layout", None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("dropout"):
        raise ValueError("attention dropout is not supported by the shared layout; set layout: padded")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    device = query.device.type
    if torch.is_autocast_enabled(device):  # rotary positions made q and k float32 again; kernels of SDPA are cast alike
        q, k, v = (x.to(torch.get_autocast_dtype(device)) for x in (q, k, v))
    return branch_attention(q, k, v, layout, kwargs.get("scaling"))[None], None


def register() -> None:
    """Make ``branch`` known to transformers. The mask function must be known too, else padding would be ignored."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _transformers_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
