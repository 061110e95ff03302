"""What our tests and our users' tests need: tiny backbones of many families, random images and random preferences."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference
from lit_basereward.demo.tiny import QWEN_IMAGE_SLOT, tiny_tokenizer, token_id, write_backbone_folder, write_weights

_WORDS = ["the", "a", "cat", "dog", "sits", "on", "under", "red", "small", "table", "and", "is", "not", "quite", "here"]


def tiny_backbone_folder(
    folder: str | Path, family: str, weights: bool = True, seed: int = 0, std: float = 0.15, **overrides: Any
) -> str:
    """Write a tiny model of ``family``: hidden size 64, 2 layers, about 400 tokens, images from 28 x 28 pixels.

    Its weights are wide and its norms and biases random, so that a mistake in masks or positions moves the outputs.
    Its processor loads without torchvision (:func:`lit_basereward.data.processor.load_processor`).

    Args:
        folder: where to write it.
        family: a transformers model type, one of ``VISION_FAMILIES`` and ``TEXT_FAMILIES``.
        weights: write them too; without them only ``init: random`` can use the folder.
        seed: of the weights.
        std: width of the weights.
        **overrides: keys of the (text) model's config.

    Returns:
        ``folder`` as a string.

    Raises:
        ValueError: for an unknown family.
    """
    from transformers import AutoConfig

    if family not in _RECIPES:
        raise ValueError(f"no tiny backbone of family {family!r}; use one of {tuple(_RECIPES)}")
    recipe = _RECIPES[family]
    tokenizer = tiny_tokenizer([f" {w}" for w in _WORDS * 3], 400, recipe.image_slot, recipe.named_tokens)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **recipe.text,
        **overrides,
    }
    settings = text
    if recipe.config:
        ids = {key: token_id(tokenizer, value) for key, value in recipe.config.items() if isinstance(value, str)}
        settings = {**recipe.config, **ids, "text_config": text}
    config = AutoConfig.for_model(family, **settings)
    write_backbone_folder(folder, config, tokenizer, recipe.preprocessor, recipe.processor)
    if weights:
        write_weights(folder, config, seed, std)
    return str(folder)


def random_image(size: int | tuple[int, int] = 56, seed: int = 0) -> ImageRef:
    """A picture of coloured noise in blocks of 7 pixels, as PNG bytes.

    Args:
        size: edge, or width and height, in pixels.
        seed: pictures of different seeds differ.
    """
    from PIL import Image

    width, height = (size, size) if isinstance(size, int) else size
    blocks = (-(-width // 7), -(-height // 7))
    noise = random.Random(seed).randbytes(3 * blocks[0] * blocks[1])
    buffer = io.BytesIO()
    Image.frombytes("RGB", blocks, noise).resize((width, height), Image.Resampling.NEAREST).save(buffer, "PNG")
    return ImageRef(data=buffer.getvalue())


def preferences(seed: int = 0, images: bool = True, responses: Sequence[int] = (2, 5, 1, 2, 1, 5)) -> list[Preference]:
    """Random rows for invariance tests: none, one and two images, one to three turns, all lengths unequal.

    Row i has ``i % 3`` images (the second row one, the third two, of different sizes), and every other row has an
    earlier turn of its own.

    Args:
        seed: of everything.
        images: False leaves the images out, for text-only models.
        responses: K of each row. Ratings are distinct numbers in random order.
    """
    rng = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))

    rows = []
    for i, num in enumerate(responses):
        num_images = i % 3 if images else 0
        refs = tuple(random_image(28 * rng.randint(1, 2), seed=1000 * seed + 10 * i + j) for j in range(num_images))
        slots = [ImagePart() for _ in refs]
        first: list[str | ImagePart] = [*slots[:1], words(2, 9), *slots[1:]]
        prompt = [Message("user", tuple(first))]
        if i % 2:
            prompt += [Message("assistant", (words(1, 6),)), Message("user", (words(1, 8),))]
        ratings = rng.sample([float(rating) for rating in range(2 * num)], num)
        answers = tuple(f"{words(1, 12)} {k}" for k in range(num))
        rows.append(Preference(f"row-{i}", tuple(prompt), answers, tuple(ratings), refs, source="random"))
    return rows


class ListSource(Source):
    """A list of preferences as a source.

    Args:
        rows: what ``__getitem__`` returns.
        name: key in tables and logs.
    """

    def __init__(self, rows: Sequence[Preference], name: str = "list") -> None:
        self.rows = list(rows)
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Preference:
        return self.rows[index]


@dataclass(frozen=True)
class _Recipe:
    """What sets one family apart. Strings among the values of ``config`` are tokens and become their ids."""

    text: dict[str, Any] = field(default_factory=dict)  # more keys of the text config
    config: dict[str, Any] = field(default_factory=dict)  # a vision-language config, but for its text config
    preprocessor: dict[str, Any] | None = None
    processor: dict[str, Any] | None = None
    image_slot: str = QWEN_IMAGE_SLOT
    named_tokens: dict[str, str] = field(default_factory=dict)


_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
_VISION_TOKENS = {f"vision_{end}_token_id": f"<|vision_{end}|>" for end in ("start", "end")}
_QWEN_TOKENS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", **_VISION_TOKENS}
_QWEN_IMAGES = {"image_processor_type": "Qwen2VLImageProcessor", "temporal_patch_size": 2, "merge_size": 2}
_QWEN_TOWER = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
_VIT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_TILES = [[28, 28], [28, 56], [56, 28], [56, 56]]
_GLM_ENDS = [(end, kind) for end in ("begin", "end") for kind in ("image", "video")]

_RECIPES: dict[str, _Recipe] = {
    "qwen2_5_vl": _Recipe(
        text=_MROPE,
        # The first block sees windows of 56 x 56 pixels, the last one the whole image.
        config={**_QWEN_TOKENS, "vision_config": {**_QWEN_TOWER, "window_size": 56, "fullatt_block_indexes": [1]}},
        preprocessor={**_QWEN_IMAGES, "min_pixels": 28 * 28, "max_pixels": 112 * 112, "patch_size": 14},
    ),
    "qwen2_vl": _Recipe(
        text=_MROPE,
        config={
            **_QWEN_TOKENS,
            "vision_config": {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
        },
        preprocessor={**_QWEN_IMAGES, "min_pixels": 28 * 28, "max_pixels": 112 * 112, "patch_size": 14},
    ),
    "qwen3_vl": _Recipe(
        text={**_MROPE, "head_dim": 16},
        # Deepstack: features of the first vision block are added after the first text layer.
        config={
            **_QWEN_TOKENS,
            "vision_config": {**_QWEN_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        },
        preprocessor={**_QWEN_IMAGES, "min_pixels": 32 * 32, "max_pixels": 128 * 128, "patch_size": 16},
    ),
    "llava_onevision": _Recipe(
        text={"model_type": "qwen2"},
        config={
            "image_token_index": "<image>",
            "video_token_index": "<video>",
            "image_grid_pinpoints": _TILES,
            "vision_config": {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, **_VIT},
        },
        preprocessor={
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": {"height": 28, "width": 28},
            "image_grid_pinpoints": _TILES,
        },
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": 4,
            "vision_feature_select_strategy": "full",
        },
        image_slot="<image>",
        named_tokens={"image_token": "<image>", "video_token": "<video>"},
    ),
    "llava": _Recipe(
        text={"model_type": "llama"},
        config={
            "image_token_index": "<image>",
            "vision_config": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **_VIT},
        },
        preprocessor={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
        },
        processor={
            "processor_class": "LlavaProcessor",
            "patch_size": 14,
            "vision_feature_select_strategy": "default",  # drops the class token, which is counted here
            "num_additional_image_tokens": 1,
        },
        image_slot="<image>",
        named_tokens={"image_token": "<image>"},
    ),
    "internvl": _Recipe(
        text={"model_type": "qwen2"},
        config={
            "image_token_id": "<IMG_CONTEXT>",
            "image_seq_length": 4,
            "vision_config": {"image_size": [56, 56], "patch_size": [14, 14], **_VIT},
        },
        preprocessor={"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 56, "width": 56}},
        processor={"processor_class": "InternVLProcessor", "image_seq_length": 4},
        image_slot="<IMG_CONTEXT>\n",  # the processor writes <img> and </img> around it
        named_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "glm4v": _Recipe(
        text=_MROPE,
        config={
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "image_start_token_id": "<|begin_of_image|>",
            "image_end_token_id": "<|end_of_image|>",
            "video_start_token_id": "<|begin_of_video|>",
            "video_end_token_id": "<|end_of_video|>",
            "vision_config": {**_QWEN_TOWER, "image_size": 56},
        },
        # The limits count two frames: a still image is repeated.
        preprocessor={
            **{"image_processor_type": "Glm4vImageProcessor", "temporal_patch_size": 2, "merge_size": 2},
            "size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 112 * 112},
        },
        image_slot="<|begin_of_image|><|image|><|end_of_image|>",
        named_tokens={
            "image_token": "<|image|>",
            "video_token": "<|video|>",
            **{f"{end}_of_{kind}_token": f"<|{end}_of_{kind}|>" for end, kind in _GLM_ENDS},
        },
    ),
    "qwen2": _Recipe(),
    "qwen3": _Recipe(text={"head_dim": 16}),
    "llama": _Recipe(),
    "mistral": _Recipe(text={"head_dim": 16, "sliding_window": 8}),  # not eligible for the shared layout
}
VISION_FAMILIES = tuple(family for family, recipe in _RECIPES.items() if recipe.config)
TEXT_FAMILIES = tuple(family for family, recipe in _RECIPES.items() if not recipe.config)
