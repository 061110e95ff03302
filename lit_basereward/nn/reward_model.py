"""Backbone and head as one network: a laid-out batch in, one reward per response out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_basereward.nn import attention
from lit_basereward.nn.heads import RewardHead
from lit_basereward.nn.layout import Layout

# Model types whose rewards and gradients in the shared layout equal one response at a time, proven by our tests, with
# full causal attention in every layer. Others are probed once before they are trusted.
SHARED_LAYOUT = frozenset(
    {
        *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "glm4v", "llava_onevision", "llava_next", "llava", "internvl"),
        *("idefics3", "smolvlm", "qwen2", "qwen3", "llama"),
    }
)
# Model types whose image features come in entries that belong to one row, so that rows with the same images can share
# them: one per image, per tile (internvl), or per row (idefics3, smolvlm).
FEATURES_PER_IMAGE = SHARED_LAYOUT - {"qwen2", "qwen3", "llama"}
_PIXELS = "pixel_values"
_NOT_VISION = ("input_ids", "mm_token_type_ids", "position_ids", "image_index")


def attends_fully(config: Any) -> bool:
    """True if every layer of the language part sees all earlier tokens: no window, no linear attention."""
    text = config.get_text_config()
    if getattr(text, "layer_types", None):
        return all(kind == "full_attention" for kind in text.layer_types)
    return not getattr(text, "sliding_window", None) or getattr(text, "use_sliding_window", True) is False


class RewardModel(nn.Module):
    """A multimodal language model whose language head is replaced by a reward head (paper, section 3.1).

    Args:
        base: base model of transformers, without language head.
        head: from the state at each response's last token to its reward.
    """

    def __init__(self, base: Any, head: RewardHead) -> None:
        super().__init__()
        self.base: Any = base  # a transformers model, of which mypy knows too little
        self.head = head
        attention.register()
        # The language part alone: a vision tower keeps its own kernel. Without a layout, `branch` is plain SDPA.
        decoder_config = base.get_decoder().config
        if decoder_config._attn_implementation == "sdpa":
            decoder_config._attn_implementation = attention.NAME

    def forward(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Rewards of all responses of a batch.

        Args:
            inputs: ``input_ids`` [1, T] (shared) or [N, L] (padded) and what the processor returned beside them.
            layout: which tokens are what.

        Returns:
            [N] rewards, float32, in log-odds units.

        Raises:
            ValueError: if images come without what their positions are computed from, or if placeholders and image
                features differ in number.
        """
        states, unused = self.states(inputs, layout)
        return self.head(states[layout.pooled]) + unused

    def states(self, inputs: dict[str, Tensor], layout: Layout, cache: Any = None) -> tuple[Tensor, Tensor | float]:
        """The last layer's states of the flattened sequence, and a zero to add to what is made of them.

        Args:
            inputs: see :meth:`forward`.
            layout: which tokens are what.
            cache: an empty cache of transformers, to be filled with keys and values of every token.

        Returns:
            [tokens, hidden]; and 0, which in a batch that only pretends to have an image hangs on the vision tower.
        """
        inputs = dict(inputs)
        self._check_positions(inputs)
        unused = self._see_dummy(inputs)
        states = self._shared(inputs, layout, cache) if layout.shared else self._padded(inputs, cache)
        return states.flatten(0, 1), unused

    def _padded(self, inputs: dict[str, Tensor], cache: Any) -> Tensor:
        """The backbone's own forward pass, untouched."""
        return self.base(**inputs, past_key_values=cache, use_cache=cache is not None).last_hidden_state

    def _shared(self, inputs: dict[str, Tensor], layout: Layout, cache: Any) -> Tensor:
        """The backbone's own forward pass over the packed sequence, with our positions and attention."""
        placed = inputs if "position_ids" in inputs else self.with_positions(inputs, layout)
        vision: dict[str, Any] = _vision(inputs)
        if "image_index" in inputs:
            features = self.base.get_image_features(**vision, return_dict=True)
            vision = {"mm_encoder_outputs": {"image": _select(features, inputs["image_index"], layout.image_entries)}}
        return self.base(
            input_ids=inputs["input_ids"],
            attention_mask=torch.ones_like(inputs["input_ids"]),
            position_ids=placed["position_ids"],
            past_key_values=cache,
            use_cache=cache is not None,
            layout=layout,
            **vision,
        ).last_hidden_state

    def with_positions(self, inputs: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
        """Inputs of the shared layout with the positions of their tokens.

        Transformers' function for them goes from row to row and asks for numbers, for which a GPU has to finish all
        that it was given before. Whoever trains calls this while the batch is on the CPU; else the forward pass does.
        """
        self._check_positions(inputs)
        ids, types, index = (inputs.get(key) for key in ("input_ids", "mm_token_type_ids", "image_index"))
        assert ids is not None
        return inputs | {"position_ids": self.positions(ids, types, _vision(inputs), index, layout)}

    def positions(
        self,
        input_ids: Tensor,
        token_types: Tensor | None,
        vision: dict[str, Tensor],
        image_index: Tensor | None,
        layout: Layout,
    ) -> Tensor:
        """Position of every token of the packed sequence: each branch continues from its prompt's largest position.

        Args:
            input_ids: [1, T]
            token_types: [1, T] 0 text, 1 image; needed by backbones with multimodal rotary positions.
            vision: what the image processor returned.
            image_index: [entries] entry of the image features for each one of the sequence; None is all, in order.
            layout: the shared layout.

        Returns:
            [3, 1, T] (temporal, height, width) for such backbones, else [1, T].
        """
        prefixes, valid, real = layout.prefixes, layout.prefix_valid, layout.prefix_real
        assert prefixes is not None and valid is not None and real is not None and layout.branch_row is not None
        if self._multimodal_positions and vision:
            assert token_types is not None
            grids = {
                k: v if image_index is None else v[image_index] for k, v in vision.items() if k.endswith("grid_thw")
            }
            prompt, _ = self.base.get_rope_index(
                input_ids[0][prefixes],
                mm_token_type_ids=token_types[0][prefixes],
                attention_mask=valid.long(),
                **grids,
            )
        else:
            prompt = (valid.long().cumsum(-1) - 1)[None]
        ends = prompt.masked_fill(~valid, -1).amax((0, 2)) + 1  # [R]
        branches = (ends[layout.branch_row] + layout.branch_offset).expand(len(prompt), -1)
        positions = torch.cat([prompt.flatten(1)[:, real], branches], dim=1)
        if self._multimodal_positions:
            return positions.expand(3, -1)[:, None]
        return positions

    @property
    def _multimodal_positions(self) -> bool:
        return hasattr(self.base, "get_rope_index")

    def _check_positions(self, inputs: dict[str, Tensor]) -> None:
        """Without token types or grids such a backbone falls back to one-dimensional positions without a word."""
        if self._multimodal_positions and _PIXELS in inputs:
            missing = [key for key in ("mm_token_type_ids", "image_grid_thw") if key not in inputs]
            if missing:
                raise ValueError(
                    f"images came without {' and '.join(missing)}, from which their positions are computed; "
                    "pass everything that the processor returns"
                )

    def _see_dummy(self, inputs: dict[str, Tensor]) -> Tensor | float:
        """Zero that depends on the vision tower, for a micro-batch without images beside ranks that have some."""
        dummy = {key.removeprefix("dummy_"): inputs.pop(key) for key in list(inputs) if key.startswith("dummy_")}
        if not dummy:
            return 0.0
        features = self.base.get_image_features(**dummy, return_dict=True)
        seen = [features.pooler_output, getattr(features, "deepstack_features", None) or []]
        return sum(0.0 * tensor.float().sum() for tensor in _tensors(seen))


def _vision(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the image processor returned."""
    return {key: value for key, value in inputs.items() if key not in _NOT_VISION and not key.startswith("dummy_")}


def _select(features: Any, index: Tensor, chosen: list[int] | None) -> Any:
    """Image features, entries repeated and ordered by ``index``; ``chosen`` is the same in numbers, if it is known."""
    chosen = chosen or index.tolist()
    entries = features.pooler_output
    # internvl wants its tiles as one tensor
    features.pooler_output = entries[index] if isinstance(entries, Tensor) else tuple(entries[i] for i in chosen)
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [tuple(layer[i] for i in chosen) for layer in features.deepstack_features]
    return features


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for item in value for tensor in _tensors(item)]
