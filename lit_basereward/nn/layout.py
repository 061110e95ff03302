"""How the responses of a batch lie in one sequence of tokens.

Shared layout: every row is one prefix (the prompt) and its branches (the responses). All prefixes, then all branches,
stand in one packed sequence without padding::

    [prefix 0 | prefix 1 | ... | branch 0 | branch 1 | ...]

so that every layer but attention works on real tokens only and the prompt is computed once for all its branches.

Padded layout: one right-padded row ``[prompt | response | pad]`` per response; the reference and the fall-back.

Shape legend: R prefixes, B branches, T tokens, Lp longest prefix, Lb longest branch of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

GROUP_ELEMENTS = 2**18  # keys per attention call: above it branches are split, so that a large K stays in memory


def _spans(starts: Sequence[int], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token positions of spans as a padded index [spans, longest] and its mask of real positions."""
    offsets = torch.arange(max(lengths, default=0))
    valid = offsets < torch.tensor(lengths)[:, None]
    return torch.where(valid, torch.tensor(starts)[:, None] + offsets, 0), valid


@dataclass
class Movable:
    """A dataclass of tensors that moves as one."""

    def _map(self, method: str, *args: Any, **kwargs: Any) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor | Movable):
                return getattr(value, method)(*args, **kwargs)
            if isinstance(value, dict):
                return {key: apply(item) for key, item in value.items()}
            return [apply(item) for item in value] if isinstance(value, list) else value

        return type(self)(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on ``device``."""
        return self._map("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        """A copy in page-locked memory; the data loader calls it."""
        return self._map("pin_memory")


@dataclass
class BranchGroup(Movable):
    """Branches of similar length that attend in one call.

    Args:
        queries: [b, Lb] positions of the branches' tokens in the sequence, 0 where padded.
        keys: [b, Lp + Lb] positions of what they may see: their prefix, then themselves.
        mask: [b, 1, Lb, Lp + Lb] True where a query sees a key.
        real: positions in the flattened queries of the branches' tokens, branch after branch.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    real: Tensor


@dataclass
class VarlenIndex(Movable):
    """The same attention without any padding, for kernels that take sequences of unequal length (GPU).

    Args:
        prefix_ends: [R + 1] cumulative prefix lengths, int32.
        branch_ends: [B + 1] cumulative branch lengths, int32.
        keys: positions of each branch's prefix and itself, branch after branch.
        key_ends: [B + 1] cumulative key lengths, int32.
        longest: longest prefix, branch, and keys of a branch.
    """

    prefix_ends: Tensor
    branch_ends: Tensor
    keys: Tensor
    key_ends: Tensor
    longest: tuple[int, int, int]


@dataclass
class Layout(Movable):
    """Which token of the sequence belongs to what, and where each response's reward is read.

    Args:
        pooled: [responses] position, in the flattened sequence, of the token whose state is scored.
        num_tokens: real tokens in the sequence.
        num_padding: padding tokens in the sequence.
        row: [B] prefix of each branch; empty in the padded layout, as is all that follows.
        prefixes: [R, Lp] positions of the prefixes' tokens, 0 where padded.
        prefix_valid: [R, Lp] True at real tokens.
        prefix_real: positions in the flattened [R * Lp] of the real tokens.
        branch_row: [T - P] prefix of each branch token.
        branch_offset: [T - P] place of each branch token inside its branch.
        groups: branches by length, with what they see.
        order: positions in the concatenation of the groups' outputs that put branch tokens back in sequence order;
            None where they are.
        varlen: the same without padding.
        image_entries: entry of the image features for each one of the sequence; None is all, in order.
    """

    pooled: Tensor
    num_tokens: int
    num_padding: int = 0
    row: Tensor | None = None
    prefixes: Tensor | None = None
    prefix_valid: Tensor | None = None
    prefix_real: Tensor | None = None
    branch_row: Tensor | None = None
    branch_offset: Tensor | None = None
    groups: list[BranchGroup] | None = None
    order: Tensor | None = None
    varlen: VarlenIndex | None = None
    image_entries: list[int] | None = None

    @property
    def shared(self) -> bool:
        """True for the shared layout."""
        return self.prefixes is not None

    @classmethod
    def padded(cls, lengths: Sequence[int]) -> Layout:
        """One right-padded sequence per response, pooled at its last token."""
        longest = max(lengths)
        pooled = torch.arange(len(lengths)) * longest + torch.tensor(lengths) - 1
        return cls(pooled, num_tokens=sum(lengths), num_padding=longest * len(lengths) - sum(lengths))

    @classmethod
    def shared_prefix(cls, prefix_lengths: Sequence[int], branch_lengths: Sequence[int], row: Sequence[int]) -> Layout:
        """All prefixes, then all branches, packed; each branch is pooled at its last token.

        Args:
            prefix_lengths: [R] tokens of each prompt, at least 1.
            branch_lengths: [B] tokens of each branch, at least 1.
            row: [B] prefix of each branch.
        """
        assert min(prefix_lengths) > 0 and min(branch_lengths) > 0 and len(branch_lengths) == len(row)
        ends = list(accumulate([*prefix_lengths, *branch_lengths]))
        starts = [0, *ends[:-1]]
        prefix_starts, branch_starts = starts[: len(prefix_lengths)], starts[len(prefix_lengths) :]
        prefixes, valid = _spans(prefix_starts, prefix_lengths)
        lengths = torch.tensor(branch_lengths)
        branch_offset, branch_valid = _spans([0] * len(row), branch_lengths)

        groups, members = [], []
        for group in _groups(branch_lengths, [prefix_lengths[r] for r in row]):
            spans = [
                ((prefix_starts[row[b]], prefix_lengths[row[b]]), (branch_starts[b], branch_lengths[b])) for b in group
            ]
            groups.append(_branch_group(spans))
            members.append(groups[-1].queries.flatten()[groups[-1].real])
        return cls(
            pooled=torch.tensor(ends[len(prefix_lengths) :]) - 1,
            num_tokens=ends[-1],
            row=torch.tensor(row),
            prefixes=prefixes,
            prefix_valid=valid,
            prefix_real=_places(valid),
            branch_row=torch.tensor(row).repeat_interleave(lengths),
            branch_offset=branch_offset[branch_valid],
            groups=groups,
            order=torch.cat(members).argsort() if len(groups) > 1 else None,
            varlen=_varlen(prefix_lengths, prefix_starts, branch_lengths, branch_starts, row),
        )


Spans = list[tuple[tuple[int, int], tuple[int, int]]]  # of each branch of a group: its prefix, itself; (start, length)


def _branch_group(spans: Spans) -> BranchGroup:
    """Branch tokens as queries, their prefix and themselves as keys."""
    prefixes, sees_prefix = _spans(*zip(*(prefix for prefix, _ in spans), strict=True))
    queries, real = _spans(*zip(*(branch for _, branch in spans), strict=True))
    longest = queries.shape[1]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.cat([sees_prefix[:, None].expand(-1, longest, -1), causal.expand(len(spans), -1, -1)], dim=2)
    return BranchGroup(queries, torch.cat([prefixes, queries], dim=1), mask[:, None], _places(real))


def _places(real: Tensor) -> Tensor:
    return real.flatten().nonzero().flatten()


def _groups(branch_lengths: Sequence[int], prefix_lengths: Sequence[int]) -> list[list[int]]:
    """Branches sorted by length and cut where a call would pad much or hold more than ``GROUP_ELEMENTS`` keys."""
    groups: list[list[int]] = []
    longest_keys = 0
    for b in sorted(range(len(branch_lengths)), key=lambda b: -branch_lengths[b]):
        if groups:
            group = groups[-1]
            longest_prefix = max(longest_keys, prefix_lengths[b])
            keys = (len(group) + 1) * (longest_prefix + branch_lengths[group[0]])
            # A call costs about as much as a few thousand scores; a branch of half the length wastes half of its own.
            padding_pays = branch_lengths[b] * 2 >= branch_lengths[group[0]] or keys * branch_lengths[b] < 2**15
            if keys <= GROUP_ELEMENTS and padding_pays:
                group.append(b)
                longest_keys = longest_prefix
                continue
        groups.append([b])
        longest_keys = prefix_lengths[b]
    return [sorted(group) for group in groups]


def _varlen(
    prefix_lengths: Sequence[int],
    prefix_starts: Sequence[int],
    branch_lengths: Sequence[int],
    branch_starts: Sequence[int],
    row: Sequence[int],
) -> VarlenIndex:
    def ends(lengths: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)

    key_lengths = [prefix_lengths[r] + n for r, n in zip(row, branch_lengths, strict=True)]
    spans = [
        span
        for r, start, n in zip(row, branch_starts, branch_lengths, strict=True)
        for span in (
            torch.arange(prefix_starts[r], prefix_starts[r] + prefix_lengths[r]),
            torch.arange(start, start + n),
        )
    ]
    longest = (max(prefix_lengths), max(branch_lengths), max(key_lengths))
    return VarlenIndex(ends(prefix_lengths), ends(branch_lengths), torch.cat(spans), ends(key_lengths), longest)
