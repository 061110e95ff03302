"""Bytes that a forward pass keeps for the backward pass: estimated from shapes, and counted on a real batch.

The estimate. A block of width h with queries q and keys and values kv wide, an MLP of width m and t tokens keeps, in
numbers per token,

- 2 h for each RMS norm (its input and what it scaled), h for a layer norm or a frozen one, float32 in any precision;
- the input of each linear layer that trains, once where several read the same (under autocast each makes its own
  copy): h before attention, q behind it, h before the MLP and m inside it;
- q + 2 kv + q for attention (queries, keys, values, result), over the tokens that the layout gathers for it, and its
  mask as float32 where the kernel takes one; 2 q more where one layer makes queries, keys and values together and
  rotates them;
- 3 m for a gated MLP (gate, activated gate, up), m for a plain one.

They have 4 bytes each, 2 under bf16 autocast, which also keeps a bf16 copy of every weight that it casts. Blocks that
no gradient passes through keep nothing. With gradient checkpointing a block keeps its input alone (4 h bytes a token),
and one block at a time is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_basereward.data.batch import Batch
from lit_basereward.losses.language import CHUNK_LOGITS
from lit_basereward.nn.backbone import part_of
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.layout import Layout, Movable
from lit_basereward.nn.reward_model import RewardModel


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of what a batch holds.

    Args:
        language: tokens that the language model computes, padding included.
        patches: of all images, as the tower computes them.
        pixels: numbers in them.
        image_tokens: placeholders of images.
        responses: rewards.
        queries: tokens gathered as queries of attention, padding included.
        keys: the same as keys.
        mask: elements of the attention masks.
        targets: tokens that a text is learnt from.
    """

    language: int
    patches: int
    pixels: int
    image_tokens: int
    responses: int
    queries: int
    keys: int
    mask: int
    targets: int = 0

    @classmethod
    def of(cls, batch: Batch, config: Any, varlen: bool) -> Sizes:
        """Count a batch's tokens.

        Args:
            batch: of any layout.
            config: the backbone's.
            varlen: attention by kernels that take sequences of unequal length, as on GPUs in bfloat16.
        """
        ids, layout = batch.inputs["input_ids"], batch.layout
        image_token: int = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None) or -1
        queries, keys, mask = _attended(layout, ids, varlen)
        return cls(
            language=ids.numel(),
            patches=_patches(batch.inputs.get("pixel_values"), config),
            pixels=batch.inputs["pixel_values"].numel() if "pixel_values" in batch.inputs else 0,
            image_tokens=int(torch.eq(ids, image_token).sum()),
            responses=len(layout.pooled),
            queries=queries,
            keys=keys,
            mask=mask,
            targets=0 if getattr(batch, "targets", None) is None else len(batch.targets.token),  # type: ignore[attr-defined]
        )


def _attended(layout: Layout, ids: Tensor, varlen: bool) -> tuple[int, int, int]:
    if not layout.shared:
        return ids.numel(), ids.numel(), ids.numel() * ids.shape[1] if layout.num_padding else 0
    assert layout.prefixes is not None and layout.prefix_real is not None
    assert layout.groups is not None and layout.varlen is not None
    if varlen:
        return ids.numel(), len(layout.prefix_real) + len(layout.varlen.keys), 0
    prefixes = layout.prefixes.numel()
    queries = sum(group.queries.numel() for group in layout.groups)
    keys = sum(group.keys.numel() for group in layout.groups)
    return prefixes + queries, prefixes + keys, sum(group.mask.numel() for group in layout.groups)


def _patches(pixels: Tensor | None, config: Any) -> int:
    if pixels is None:
        return 0
    if pixels.ndim == 2:  # one row per patch
        return len(pixels)
    size = config.vision_config.patch_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    area = pixels.shape[-1] * pixels.shape[-2] // (height * width)
    return pixels.shape[:-3].numel() * (area + 1)  # a class token, in most


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes kept for the backward pass.

    Args:
        kept: between the passes, without copies of weights.
        recomputed: of the block that is computed again in the backward pass; 0 without checkpointing.
        weight_copies: weights in bfloat16 under autocast, kept for the backward pass.
        cached_copies: the same in checkpointed blocks, which autocast caches until the forward pass ends.
        logits: of a language head, of one chunk of tokens at a time.
    """

    kept: float
    recomputed: float
    weight_copies: float
    cached_copies: float
    logits: float = 0.0

    @property
    def saved(self) -> float:
        """What :class:`SavedTensors` counts."""
        return self.kept + self.weight_copies

    @property
    def peak(self) -> float:
        """The most that is held at once."""
        return self.saved + max(self.recomputed, self.cached_copies, self.logits)


def estimate(model: RewardModel, sizes: Sizes, mixed: bool) -> Activations:
    """Activations of one forward pass by the formula above; needs no weights.

    Args:
        model: backbone and head, on any device, ``meta`` included.
        sizes: of the batch.
        mixed: under bf16 autocast.
    """
    kept = recomputed = copies = cached = 0.0
    low = 2 if mixed else 4
    flows = False
    for part in ("vision", "projector", "language"):
        tokens = {"vision": sizes.patches, "projector": sizes.image_tokens, "language": sizes.language}[part]
        named = [(name, p) for name, p in model.base.named_parameters() if part_of(name) == part]
        blocks = [block for name, block in _blocks(model.base) if part_of(f"{name}.") == part]
        inside = {id(p) for block in blocks for p in block.parameters()}
        flows |= any(p.requires_grad for _, p in named if id(p) not in inside)
        if flows:
            outside = [p for _, p in named if id(p) not in inside and p.dtype == torch.float32 and part != "language"]
            copies += 2 * mixed * sum(p.numel() for p in outside if p.ndim > 1)
            if part == "vision" and any(p.requires_grad and p.ndim > 3 for p in outside):
                kept += 2 * mixed * sizes.pixels  # the patch convolution's own copy of its input
            kept += tokens * low * _projector(model.base) * (part == "projector")
        for block in blocks:
            flows |= any(p.requires_grad for p in block.parameters())
            if flows:
                whole = _block(block, sizes, tokens, part == "language", low)
                cast = [w for w in _weights(block) if w.dtype == torch.float32]
                if getattr(block, "gradient_checkpointing", False):
                    kept, recomputed = kept + 4 * tokens * _width(block), max(recomputed, whole)
                    cached += 2 * mixed * sum(w.numel() for w in cast if w.requires_grad)  # autocast keeps these alone
                else:
                    kept, copies = kept + whole, copies + 2 * mixed * sum(w.numel() for w in cast)
    kept += 4 * flows * sum(p.shape[-1] for p in _norms_outside(model.base)) * 2 * sizes.language
    kept += 4 * sizes.responses * sum(sum(p.shape) for p in model.head.parameters() if p.ndim == 2)
    logits = 0.0
    if isinstance(model, LanguageRewardModel) and sizes.targets:
        vocabulary, hidden = model.lm_head.weight.shape  # type: ignore[misc]
        kept += flows * low * sizes.targets * hidden
        chunk = min(sizes.targets, max(1, CHUNK_LOGITS // vocabulary)) * vocabulary
        logits = (4 + low) * chunk + 2 * mixed * vocabulary * hidden  # float32, their gradient, and the cast weight
    return Activations(kept, recomputed, copies, cached, logits)


def _blocks(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that checkpointing treats as one."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return ((name, module) for name, module in base.named_modules() if isinstance(module, GradientCheckpointingLayer))


def _linears(module: nn.Module) -> list[tuple[str, Any, bool]]:
    """Name, layer and whether it keeps its input, of each linear layer; adapters belong to the layer they adapt."""
    found = []
    for name, layer in module.named_modules():
        if hasattr(layer, "in_features") and hasattr(layer, "out_features") and "lora_" not in name:
            if any("lora_" in child for child, _ in layer.named_modules()):
                continue  # the wrapper; its base layer follows
            owner = name.removesuffix(".base_layer")
            trains = any(p.requires_grad for n, p in module.named_parameters() if n.startswith(f"{owner}."))
            found.append((owner, layer, trains))
    return found


def _weights(block: nn.Module) -> list[Tensor]:
    return [layer.weight for _, layer, _ in _linears(block)]


def _width(block: nn.Module) -> int:
    return _linears(block)[0][1].in_features


def _block(block: nn.Module, sizes: Sizes, tokens: int, language: bool, low: int) -> float:
    """Bytes that one block keeps."""
    linears = _linears(block)
    attention = [entry for entry in linears if "attn" in entry[0] or "attention" in entry[0]]
    mlp = [entry for entry in linears if entry not in attention]
    *makes, (_, out, out_trains) = attention
    fused = len(makes) == 1
    widths = [layer.out_features // (3 if fused else 1) for _, layer, _ in makes] * (3 if fused else 1)
    q = max(widths)
    queries, keys = (sizes.queries, sizes.keys) if language else (tokens, tokens)
    numbers = 2 * q * queries + (sum(widths) - q) * keys + (2 * q * tokens if fused else 0)
    numbers += tokens * (_inputs(makes, low) + out.in_features * out_trains)
    *ups, (_, down, down_trains) = mlp
    numbers += tokens * (_inputs(ups, low) + down.in_features * down_trains)
    numbers += tokens * down.in_features * (3 if len(ups) == 2 else 1)
    norms = sum(_norm(name, module, sum(widths)) for name, module in block.named_modules())
    return low * numbers + 4 * tokens * norms + (4 * sizes.mask if language else 0)


def _inputs(layers: list[tuple[str, Any, bool]], low: int) -> int:
    """Numbers per token that linear layers with one input keep of it."""
    kept = [layer.in_features for _, layer, trains in layers if trains]
    return sum(kept) if low == 2 else max(kept, default=0)


def _norm(name: str, module: nn.Module, heads: int) -> int:
    """Numbers per token that a norm keeps; those of single heads act on all of them."""
    kind = type(module).__name__
    if "Norm" not in kind or not any(True for _ in module.parameters(recurse=False)):
        return 0
    weight = next(iter(module.parameters(recurse=False)))
    width = heads // 2 if name.endswith(("q_norm", "k_norm")) else weight.numel()
    return width * (2 if "RMSNorm" in kind and weight.requires_grad else 1)


def _projector(base: nn.Module) -> int:
    """Numbers per image token of the linear layers between tower and language model."""
    layers = [layer for name, layer, _ in _linears(base) if part_of(name) == "projector"]
    return sum(layer.in_features + layer.out_features for layer in layers) - (layers[-1].out_features if layers else 0)


def _norms_outside(base: Any) -> list[Tensor]:
    """Weights of the language model's last norm."""
    return [p for name, p in base.get_decoder().named_parameters() if name == "norm.weight"]


class SavedTensors:
    """Counts the bytes that autograd keeps while it is entered: distinct storages, but for weights and the batch.

    Inputs of checkpointed blocks are kept outside of what autograd saves, and are added.

    Args:
        model: its weights are not counted.
        batch: its tensors are not counted.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.bytes = 0
        tensors = [*model.parameters(), *model.buffers(), *_all_tensors(batch)]
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._kept: list[Tensor] = []  # alive, so that no address is used twice
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._blocks = [b for _, b in _blocks(model) if getattr(b, "gradient_checkpointing", False)]

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
            self._kept.append(tensor)
        return tensor

    def __enter__(self) -> SavedTensors:
        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._pack(inputs[0])

        self._removable = [block.register_forward_pre_hook(keep) for block in self._blocks]
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        for hook in self._removable:
            hook.remove()


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | Movable):
        inside = (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else vars(value).values()
        )
        for each in inside:
            yield from _all_tensors(each)
