"""Floating point operations of one training step: by formula, and counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lit_basereward.doctor.activations import Sizes
from lit_basereward.doctor.memory import elements
from lit_basereward.nn.backbone import part_of
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.reward_model import RewardModel


def formula(model: RewardModel, sizes: Sizes) -> float:
    """6 N T, part by part: 2 N T forward, 2 N T for gradients of inputs and 2 N T for those of weights.

    N are the weights of two and more dimensions without embeddings, which are looked up, and T the tokens that the part
    computes; of a part without trainable weights, in it or before it, only the forward pass is counted. Attention
    scores and recomputing are left out.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    total, flows = 0.0, False
    for part in ("vision", "projector", "language"):
        tokens = {"vision": sizes.patches, "projector": sizes.image_tokens, "language": sizes.language}[part]
        named = [p for name, p in model.base.named_parameters() if part_of(name) == part]
        flows |= any(p.requires_grad for p in named)
        weights = [p for p in named if p.ndim > 1 and id(p) not in embeddings]
        total += tokens * sum((2 + 2 * flows + 2 * p.requires_grad) * elements(p) for p in weights)
    if isinstance(model, LanguageRewardModel):
        weight: Any = model.lm_head.weight
        total += sizes.targets * (2 + 2 * flows + 2 * weight.requires_grad) * weight.numel()
    return total + 6.0 * sizes.responses * sum(p.numel() for p in model.head.parameters() if p.ndim > 1)


def counter() -> FlopCounterMode:
    """PyTorch's counter, with what it does not know: the CPU's attention kernel, counted as it counts the GPU's, and
    products that are added in place."""
    aten: Any = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            aten.addmm_: _added_product,  # of the language head's gradient
        },
    )


def _added_product(total: Any, one: Any, two: Any, *_: Any, out_shape: Any = None, **__: Any) -> float:
    return 2.0 * one[0] * one[1] * two[1]


def _scores(query: Any, key: Any, value: Any) -> float:
    """2 operations for each product of scores, and for each of their mean of values."""
    batch, heads, rows, width = query
    return 2.0 * batch * heads * rows * key[2] * (width + value[3])


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> float:
    return _scores(query, key, value)


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, out_shape: Any = None, **___: Any) -> float:
    return 2.5 * _scores(query, key, value)  # the scores again, and four gradients
