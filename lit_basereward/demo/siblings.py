"""The demo's other backbones, for its ensemble: a tiny Qwen2-VL and a tiny Qwen2, beside the tiny Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_basereward.demo.tiny import token_id, write_backbone_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIDDEN, LAYERS, HEADS = 128, 4, 4
INITIALIZER_RANGE = 0.09  # as in the tiny Qwen2.5-VL, which says why


def write_tiny_qwen2_vl(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a tiny Qwen2-VL without weights: config, tokenizer, chat template and image settings.

    Its vision tower has no windows, other norms and another MLP than that of Qwen2.5-VL.

    Args:
        folder: where to write it.
        tokenizer: of :func:`~lit_basereward.demo.tiny.tiny_tokenizer`.
    """
    from transformers import Qwen2VLConfig

    section = HIDDEN // HEADS // 8  # of the rotary frequencies: 2/8 time, 3/8 height, 3/8 width
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [section, 3 * section // 2, 3 * section // 2],
    }
    config = Qwen2VLConfig(
        architectures=["Qwen2VLForConditionalGeneration"],
        tie_word_embeddings=True,
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        text_config={**_text(tokenizer), "rope_parameters": rope},
        vision_config={
            "initializer_range": INITIALIZER_RANGE,
            "depth": 2,
            "embed_dim": HIDDEN,
            "hidden_size": HIDDEN,
            "num_heads": HEADS,
            "mlp_ratio": 2,
        },
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 28 * 28,
        "max_pixels": 112 * 112,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    write_backbone_folder(folder, config, tokenizer, preprocessor)


def write_tiny_qwen2(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a tiny Qwen2, which reads text only, without weights: config, tokenizer and chat template.

    Args:
        folder: where to write it.
        tokenizer: of :func:`~lit_basereward.demo.tiny.tiny_tokenizer`.
    """
    from transformers import Qwen2Config

    write_backbone_folder(folder, Qwen2Config(architectures=["Qwen2ForCausalLM"], **_text(tokenizer)), tokenizer)


def _text(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "initializer_range": INITIALIZER_RANGE,
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
