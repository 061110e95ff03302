"""`branch_attention` against a dense mask, written from the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_basereward.nn import layout as layout_module
from lit_basereward.nn.attention import branch_attention
from lit_basereward.nn.layout import Layout

SHAPES = [
    ([4], [3], [0]),
    ([5, 2, 9], [1, 4, 2, 7, 3, 3], [0, 0, 1, 2, 2, 2]),
    ([6], [30, 1, 2, 14, 8], [0] * 5),
    ([1, 1], [1, 1], [0, 1]),
]


def dense(q, k, v, prefixes, branches, row):
    """Softmax attention with a [T, T] mask: causal inside a segment, a branch also sees all of its prefix."""
    segment = [("p", r) for r, n in enumerate(prefixes) for _ in range(n)]
    segment += [("b", b) for b, n in enumerate(branches) for _ in range(n)]
    total = len(segment)
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i, (kind_i, i_id) in enumerate(segment):
        for j, (kind_j, j_id) in enumerate(segment):
            inside = segment[i] == segment[j] and j <= i
            mask[i, j] = inside or (kind_i == "b" and kind_j == "p" and row[i_id] == j_id)
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=mask).transpose(0, 1)


def random_qkv(total, heads=4, key_heads=2, dim=8):
    torch.manual_seed(0)
    return [torch.randn(total, h, dim, dtype=torch.float64, requires_grad=True) for h in (heads, key_heads, key_heads)]


@pytest.mark.parametrize("limit", [2**18, 1])
@pytest.mark.parametrize(("prefixes", "branches", "row"), SHAPES)
def test_equals_a_dense_mask(prefixes, branches, row, limit, monkeypatch):
    """Values and gradients, in one group of branches and with every branch a group of its own."""
    monkeypatch.setattr(layout_module, "GROUP_ELEMENTS", limit)
    layout = Layout.shared_prefix(prefixes, branches, row)
    assert limit > 1 or len(layout.groups) == len(branches)
    q, k, v = random_qkv(sum(prefixes) + sum(branches))
    weight = torch.randn(len(q), 4, 8, dtype=torch.float64)
    one, two = branch_attention(q, k, v, layout), dense(q, k, v, prefixes, branches, row)
    torch.testing.assert_close(one, two)
    for a, b in zip(
        torch.autograd.grad((one * weight).sum(), (q, k, v)),
        torch.autograd.grad((two * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("prefixes", "branches", "row"), SHAPES)
def test_varlen_index_says_the_same(prefixes, branches, row):
    """The index that GPU kernels read, run sequence by sequence with causality aligned to the last key."""
    layout = Layout.shared_prefix(prefixes, branches, row)
    q, k, v = random_qkv(sum(prefixes) + sum(branches), key_heads=4)
    index, first = layout.varlen, sum(prefixes)
    assert index.longest == (
        max(prefixes),
        max(branches),
        max(prefixes[r] + n for r, n in zip(row, branches, strict=True)),
    )

    def run(q, k, v, q_ends, k_ends):
        pieces = []
        for s in range(len(q_ends) - 1):
            one = q[q_ends[s] : q_ends[s + 1]]
            keys, values = (x[k_ends[s] : k_ends[s + 1]] for x in (k, v))
            mask = torch.ones(len(one), len(keys), dtype=torch.bool).tril(len(keys) - len(one))
            parts = (x.transpose(0, 1) for x in (one, keys, values))
            pieces.append(F.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(0, 1))
        return torch.cat(pieces)

    prefix = run(q[:first], k[:first], v[:first], index.prefix_ends, index.prefix_ends)
    branch = run(q[first:], k[index.keys], v[index.keys], index.branch_ends, index.key_ends)
    torch.testing.assert_close(torch.cat([prefix, branch]), branch_attention(q, k, v, layout))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("prefixes", "branches", "row"), SHAPES)
def test_gpu_kernel_equals_a_dense_mask(prefixes, branches, row):
    """The varlen kernels in bfloat16, to its rounding."""
    layout = Layout.shared_prefix(prefixes, branches, row).to("cuda")
    q, k, v = (x.detach() for x in random_qkv(sum(prefixes) + sum(branches), dim=64))
    out = branch_attention(*(x.to("cuda", torch.bfloat16) for x in (q, k, v)), layout)
    torch.testing.assert_close(out.double().cpu(), dense(q, k, v, prefixes, branches, row), rtol=2e-2, atol=2e-2)


def test_layout_by_hand():
    """Prefixes of 2 and 3 tokens, branches of 2 | 1, 2: places 0-1, 2-4 | 5-6, 7, 8-9, pooled at 6, 7, 9."""
    layout = Layout.shared_prefix([2, 3], [2, 1, 2], [0, 1, 1])
    assert layout.pooled.tolist() == [6, 7, 9]
    assert layout.num_tokens == 10 and layout.shared
    assert layout.branch_row.tolist() == [0, 0, 1, 1, 1]
    assert layout.branch_offset.tolist() == [0, 1, 0, 0, 1]
    assert layout.prefixes.tolist() == [[0, 1, 0], [2, 3, 4]]
    padded = Layout.padded([3, 5])
    assert padded.pooled.tolist() == [2, 9]
    assert (padded.num_tokens, padded.num_padding, padded.shared) == (8, 2, False)


def test_moves_as_one():
    """Every tensor of a layout, nested ones too, goes along."""
    layout = Layout.shared_prefix([2, 3], [2, 1, 2], [0, 1, 1]).to("meta")
    assert layout.pooled.is_meta and layout.groups[0].mask.is_meta and layout.varlen.keys.is_meta
