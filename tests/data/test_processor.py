"""Loading processors: both file layouts, pixel limits, missing parts, pickling."""

from __future__ import annotations

import io
import logging
import pickle
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lit_basereward.data.processor import load_processor
from lit_basereward.testing import TEXT_FAMILIES, VISION_FAMILIES, random_image, tiny_backbone_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_backbone_folder(tmp_path_factory.mktemp("qwen"), "qwen2_5_vl", weights=False)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(random_image((width, height), seed).data))


def run(processor: Any, images: list[Image.Image]) -> dict[str, torch.Tensor]:
    """Process one user turn with the images in front of a text."""
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": "the cat is <think> on"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return dict(processor(text=[text], images=[images] if images else None, return_tensors="pt"))


def grid(processor: Any, width: int, height: int) -> list[int]:
    """Frames, rows and columns of 14 x 14 patches that an image becomes."""
    return run(processor, [picture(width, height)])["image_grid_thw"][0].tolist()


def test_hub_layout_and_saved_layout_load_equal(folder: str, tmp_path: Path) -> None:
    """Saved again, a processor is one processor_config.json under the hub's class name, and gives the same tensors."""
    hub = load_processor(folder)
    hub.save_pretrained(tmp_path)
    shutil.copy(Path(folder, "config.json"), tmp_path)
    assert not Path(tmp_path, "preprocessor_config.json").exists()
    assert '"processor_class": "Qwen2_5_VLProcessor"' in Path(tmp_path, "processor_config.json").read_text()

    again = load_processor(str(tmp_path))
    images = [picture(56, 84), picture(28, 28, seed=1)]
    first, second = run(hub, images), run(again, images)
    assert first.keys() == second.keys() >= {"input_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
    assert all(torch.equal(first[key], second[key]) for key in first)
    # 56 x 84 is 2 x 3 tokens of 28 x 28, the other one is 1: seven placeholders.
    assert int((first["input_ids"] == hub.image_token_id).sum()) == 7


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_every_family_makes_as_many_placeholders_as_features(family: str, tmp_path: Path) -> None:
    """The model itself refuses images whose features do not fit the placeholders."""
    if family == "smolvlm":
        pytest.importorskip("num2words", reason="transformers' processor of SmolVLM needs the package num2words")
    from transformers import AutoConfig, AutoModel

    path = tiny_backbone_folder(tmp_path, family, weights=False)
    processor = load_processor(path)
    model = AutoModel.from_config(AutoConfig.from_pretrained(path)).eval()
    batch = run(processor, [picture(28, 56), picture(28, 28, seed=1)])
    with torch.no_grad():
        states = model(**batch, use_cache=False).last_hidden_state
    assert states.shape == (*batch["input_ids"].shape, 64)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_text_models_get_their_tokenizer(family: str, tmp_path: Path) -> None:
    tokenizer = load_processor(tiny_backbone_folder(tmp_path, family, weights=False))
    text = "naïve Ünïcode 123\n\n  <think>it's</think>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids("<think>") in ids


def test_max_pixels_is_honoured(folder: str) -> None:
    """An image of 112 x 56 px is 8 x 4 patches. At most 3136 = 56 x 56 px: scaled by 1/sqrt(2) to 79.2 x 39.6, each
    edge rounded down to a multiple of 28: 56 x 28, that is 4 x 2 patches."""
    assert grid(load_processor(folder), 112, 56) == [1, 4, 8]
    assert grid(load_processor(folder, max_pixels=3136), 112, 56) == [1, 2, 4]
    # More than the folder's own 12544 allows: 280 x 56 px stays as it is.
    assert grid(load_processor(folder, max_pixels=280 * 56), 280, 56) == [1, 4, 20]


def test_min_pixels_is_honoured_and_never_exceeds_max_pixels(folder: str) -> None:
    """28 x 28 px enlarged to at least 3136 px: 56 x 56. A limit below the folder's own minimum pulls that down too."""
    assert grid(load_processor(folder, min_pixels=3136), 28, 28) == [1, 4, 4]
    processor = load_processor(folder, max_pixels=500)
    assert dict(processor.image_processor.size) == {"shortest_edge": 500, "longest_edge": 500}
    with pytest.raises(ValueError, match="min_pixels 3136 is larger than max_pixels 784"):
        load_processor(folder, min_pixels=3136, max_pixels=784)


def test_a_limit_that_the_processor_does_not_know_is_said(tmp_path: Path) -> None:
    path = tiny_backbone_folder(tmp_path, "llava", weights=False)
    with pytest.warns(UserWarning, match="CLIPImageProcessor.* has no limit in pixels"):
        load_processor(path, max_pixels=784)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_pickles(family: str, tmp_path: Path) -> None:
    """A spawned worker gets the processor pickled; what it makes of a row must not differ."""
    if family == "smolvlm":
        pytest.importorskip("num2words", reason="transformers' processor of SmolVLM needs the package num2words")
    processor = load_processor(tiny_backbone_folder(tmp_path, family, weights=False))
    copied = pickle.loads(pickle.dumps(processor))
    assert type(copied) is type(processor)
    first, second = run(processor, [picture(56, 28)]), run(copied, [picture(56, 28)])
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_quiet(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """No word about torchvision or fallbacks on the ordinary path."""
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, logger="transformers"):
        warnings.simplefilter("error")
        run(load_processor(folder, max_pixels=3136), [picture(28, 28)])
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_vision_model_without_image_settings_is_refused(folder: str, tmp_path: Path) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(folder, file), tmp_path)
    with pytest.raises(ValueError, match=r"has no usable processor.*preprocessor_config.json"):
        load_processor(str(tmp_path))


def test_a_bare_tokenizer_is_never_taken_for_a_processor(folder: str, tmp_path: Path) -> None:
    """For a model type that transformers maps to no processor class, such as GLM-OCR, all that AutoProcessor finds
    here is the tokenizer, and returns it without a word."""
    from transformers import AutoConfig, AutoProcessor

    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(folder, file), tmp_path)
    AutoConfig.for_model("glm_ocr").save_pretrained(tmp_path)
    assert not hasattr(AutoProcessor.from_pretrained(str(tmp_path)), "image_processor")
    with pytest.raises(ValueError, match="vision-language model, but only its tokenizer"):
        load_processor(str(tmp_path))


def test_missing_parts_are_named(folder: str, tmp_path: Path) -> None:
    """Without tokenizer files transformers makes an empty tokenizer and says nothing."""
    with pytest.raises(ValueError, match=f"{tmp_path}' has no usable config.json"):
        load_processor(str(tmp_path))
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(Path(folder, file), tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}' has no usable tokenizer"):
        load_processor(str(tmp_path))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_missing_tokenizer_of_a_text_model(family: str, tmp_path: Path) -> None:
    tiny_backbone_folder(tmp_path, family, weights=False)
    Path(tmp_path, "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no usable tokenizer"):
        load_processor(str(tmp_path))


@pytest.mark.skipif(find_spec("num2words") is not None, reason="num2words is installed")
def test_smolvlm_without_its_package(tmp_path: Path) -> None:
    """One line, which names the extra."""
    path = tiny_backbone_folder(tmp_path, "smolvlm", weights=False)
    with pytest.raises(ValueError, match=r'needs num2words: pip install "lit_basereward\[smolvlm\]"$'):
        load_processor(path)
