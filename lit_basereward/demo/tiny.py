"""A tiny Qwen2.5-VL and a tiny tokenizer, made on the spot: the real classes and file layout, without a download."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Single ids that count as text (`special=False`), as in the real tokenizers; they survive `skip_special_tokens`.
TEXT_TOKENS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
QWEN_IMAGE_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


def chat_template(image_slot: str = QWEN_IMAGE_SLOT) -> str:
    """ChatML in the form of Qwen2.5-VL, without its default system prompt: 9 tokens around a question, not 21.

    Args:
        image_slot: what an image part renders as; the processor expands the placeholder in it.
    """
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image_slot + "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def tiny_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 512,
    image_slot: str = QWEN_IMAGE_SLOT,
    named_tokens: dict[str, str] | None = None,
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with the rules of Qwen2's, trained on ``texts``.

    Normalisation, pre-tokenisation and decoding are the real class's own; only vocabulary and merges are new.

    Args:
        texts: what the merges are learned from, each text counted once.
        vocab_size: upper bound on bytes, merges and the 12 added tokens of Qwen; at least 268.
        image_slot: see :func:`chat_template`.
        named_tokens: special tokens beyond these that a processor asks its tokenizer for by name, such as
            ``{"image_token": "<image>"}``.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    num_added = len(SPECIAL_TOKENS) + len(TEXT_TOKENS)
    if vocab_size < 256 + num_added:
        raise ValueError(f"vocab_size {vocab_size} has no room for bytes and added tokens; use >= {256 + num_added}")
    rules = Qwen2Tokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - num_added, initial_alphabet=alphabet, show_progress=False)
    # The template's own words, often enough to become single tokens.
    bpe.train_from_iterator([*texts, *(["system\nuser\nassistant\n"] * 100)], trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],  # type: ignore[misc]  # pairs are what it takes
        unk_token=None,  # type: ignore[arg-type]  # bytes leave nothing unknown; the hub's has none either
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named_tokens or {},
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TEXT_TOKENS])
    tokenizer.chat_template = chat_template(image_slot)
    return tokenizer


def write_backbone_folder(
    folder: str | Path,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    preprocessor: dict[str, Any] | None = None,
    processor: dict[str, Any] | None = None,
) -> None:
    """Write a model folder as on the hub, all but the weights.

    Args:
        folder: made where it is missing.
        config: written as ``config.json``.
        tokenizer: written with its chat template.
        preprocessor: content of ``preprocessor_config.json``; none for a text-only model.
        processor: content of ``processor_config.json``, for the families that have one.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, content in (("preprocessor_config.json", preprocessor), ("processor_config.json", processor)):
        if content is not None:
            Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tiny_qwen2_5_vl(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    vision_hidden: int = 128,
    vision_depth: int = 2,
    min_pixels: int = 28 * 28,
    max_pixels: int = 112 * 112,
    initializer_range: float = 0.09,
    weights: bool = False,
    seed: int = 0,
) -> None:
    """Write a tiny Qwen2.5-VL: config, tokenizer, chat template and image settings, and weights if asked for.

    An image of 28 x 28 pixels is one token. The vision tower's last block attends to the whole image, the others
    inside windows of 56 x 56 pixels (112 x 112 in the real one).

    Args:
        folder: where to write it.
        tokenizer: of :func:`tiny_tokenizer`; its length is the model's vocabulary.
        hidden_size: of the language model; divisible by ``16 * num_heads``.
        num_layers: of the language model.
        num_heads: query heads, two to a key head.
        vision_hidden: hidden size of the vision tower.
        vision_depth: blocks of the vision tower.
        min_pixels: smaller images are enlarged to this.
        max_pixels: larger images are shrunk to this.
        initializer_range: standard deviation of random weights, about ``hidden_size ** -0.5``. The 0.02 of wide models
            leaves one this narrow next to nothing to work with: from it, training starts on a plateau.
        weights: write freshly initialised weights too (``init: pretrained`` then loads them).
        seed: of those weights.
    """
    from transformers import Qwen2_5_VLConfig

    section = hidden_size // num_heads // 8  # of the rotary frequencies: 2/8 time, 3/8 height, 3/8 width, as in 7B
    config = Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        tie_word_embeddings=True,
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"),
        text_config={
            "initializer_range": initializer_range,
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads // 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [section, 3 * section // 2, 3 * section // 2],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "initializer_range": initializer_range,
            "depth": vision_depth,
            "hidden_size": vision_hidden,
            "intermediate_size": 2 * vision_hidden,
            "num_heads": 4,
            "out_hidden_size": hidden_size,
            "window_size": 56,
            "fullatt_block_indexes": [vision_depth - 1],
        },
    )
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    write_backbone_folder(folder, config, tokenizer, preprocessor)
    if weights:
        write_weights(folder, config, seed)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one added token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), f"{token} is not a token"
    return found


def write_weights(folder: str | Path, config: PreTrainedConfig, seed: int = 0, std: float | None = None) -> None:
    """Initialise the model of ``config`` and write ``model.safetensors``. Leaves the global random state alone.

    Args:
        folder: where to write them.
        config: a vision-language or a causal language model's.
        seed: of the initialisation.
        std: if given, overwrite every matrix with normal noise of this width and add as much to norms and biases.
            Outputs then depend strongly on every part, which stock initialisation (0.02, zero biases) hides.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    family = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = family.from_config(config, dtype=torch.float32)
        if std is not None:
            for parameter in model.parameters():
                noise = torch.randn_like(parameter) * std
                parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    model.save_pretrained(folder)


def demo_folder(cache_dir: str | Path, write: Callable[..., None] = write_tiny_qwen2_5_vl) -> str:
    """The demo's backbone folder under ``cache_dir``, made if it is not there yet; about 1.5 million parameters.

    Named by a hash of its content, so a folder of another version is never taken for it; moved into place as a whole,
    so several processes may call this at once.

    Args:
        cache_dir: where it is made.
        write: writes it, from folder and tokenizer; its name ``write_tiny_...`` is the folder's.
    """
    from lit_basereward.demo.data import demo_texts

    root = Path(cache_dir)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        made = Path(scratch, "backbone")
        write(made, tiny_tokenizer(demo_texts(), vocab_size=512))
        content = b"".join(file.name.encode() + file.read_bytes() for file in sorted(made.iterdir()))
        final = root / f"tiny-{write.__name__.removeprefix('write_tiny_')}-{hashlib.sha256(content).hexdigest()[:12]}"
        if not final.exists():
            try:
                os.rename(made, final)
            except OSError:
                if not final.exists():  # else another process was faster: the content is the same
                    raise
    return str(final)
