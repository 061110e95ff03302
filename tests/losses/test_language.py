"""Chunked cross-entropy against the full one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_basereward.losses.language import chunked_cross_entropy


@pytest.mark.parametrize("chunk_size", [1, 7, 37, 100, None])
def test_equals_the_full_one(chunk_size):
    """Losses, and gradients of states and weight under unequal upstream gradients, to 1e-6 relative to the largest."""
    torch.manual_seed(0)
    states, weight = torch.randn(37, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    tokens, upstream = torch.randint(50, (37,)), torch.rand(37)
    ours = chunked_cross_entropy(states, weight, tokens, chunk_size)
    full = F.cross_entropy(states @ weight.T, tokens, reduction="none")
    torch.testing.assert_close(ours, full, rtol=1e-6, atol=1e-6)
    for one, two in zip(*(torch.autograd.grad(x, (states, weight), upstream) for x in (ours, full)), strict=True):
        assert (one - two).abs().max() <= 1e-6 * two.abs().max()


def test_by_hand():
    """Logits 0, log 3: probabilities 1/4 and 3/4, so log 4 = 1.386294 and log(4/3) = 0.287682; d/dstate of the first
    is sum_v (p_v - [v = 0]) w_v = 3/4 (w_1 - w_0) = 3/4 log 3 = 0.823959."""
    weight = torch.tensor([[0.0], [1.0986123]])
    states = torch.ones(2, 1, requires_grad=True)
    losses = chunked_cross_entropy(states, weight, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([1.386294, 0.287682], abs=1e-6)
    losses[0].backward()
    assert states.grad is not None and states.grad.flatten().tolist() == pytest.approx([0.823959, 0.0], abs=1e-6)


def test_frozen_parts_and_no_tokens():
    """A frozen weight gets no gradient, and a batch without targets has none to give."""
    states, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    chunked_cross_entropy(states, weight, torch.tensor([0, 1, 2])).sum().backward()
    assert weight.grad is None and states.grad is not None
    empty = chunked_cross_entropy(states[:0], weight.requires_grad_(), torch.tensor([], dtype=torch.long))
    assert empty.shape == (0,)
    empty.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_products_are_in_the_type_of_autocast_and_sums_in_float32():
    """bf16 states and weights of 8 bits: losses are float32 and within 2e-2 of those without autocast; the weight's
    gradient has the weight's own type."""
    torch.manual_seed(0)
    states, weight, tokens = torch.randn(9, 8), torch.randn(11, 8, requires_grad=True), torch.randint(11, (9,))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = chunked_cross_entropy(states, weight, tokens, 4)
    mixed.sum().backward()
    assert mixed.dtype == torch.float32 and weight.grad is not None and weight.grad.dtype == torch.float32
    torch.testing.assert_close(
        mixed, F.cross_entropy(states @ weight.T, tokens, reduction="none"), atol=5e-2, rtol=2e-2
    )
