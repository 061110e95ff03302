"""Load the processor that belongs to a backbone: tokenizer, chat template and image processor, without torchvision."""

from __future__ import annotations

import functools
import inspect
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lit_basereward.data.patches import faster

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


def load_processor(
    name_or_path: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
) -> ProcessorMixin | PreTrainedTokenizerBase:
    """The processor of a vision-language model, or the tokenizer of a text-only one. Picklable; needs no torchvision.

    Reads the hub's layout (``preprocessor_config.json``, tokenizer, chat template) and that of transformers 5
    (``processor_config.json``). A processor's video half is left out, since it alone needs torchvision: videos reach
    us as frames, that is as images.

    Args:
        name_or_path: local folder, or name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that the repository brings along.
        max_pixels: shrink larger images to at most this many pixels (height x width), where the image processor
            knows such a limit (the Qwen-VL family does). ``None`` keeps the folder's own.
        min_pixels: enlarge smaller images to at least this many pixels, under the same condition.

    Raises:
        ValueError: if the folder holds no config, tokenizer or image processor that can be loaded, or if it is a
            vision-language model of which only the tokenizer loads (``AutoProcessor`` would return that silently).
    """
    from transformers import AutoConfig, AutoTokenizer, ProcessorMixin

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    try:
        config = AutoConfig.from_pretrained(name_or_path, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name_or_path!r} has no usable config.json; name a model's folder. {error}") from error
    reads_images = getattr(config, "vision_config", None) is not None
    try:
        if reads_images:
            loaded = _processor_class(config).from_pretrained(name_or_path, **options)
        else:
            loaded = AutoTokenizer.from_pretrained(name_or_path, config=config, **options)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        if "num2words" in str(error):  # transformers' advice is to install it, and another line
            raise ValueError(
                f'{name_or_path!r} is a SmolVLM, whose processor needs num2words: pip install "lit_basereward[smolvlm]"'
            ) from error
        wanted = "processor" if reads_images else "tokenizer"
        raise ValueError(f"{name_or_path!r} has no usable {wanted}; copy its files there. {error}") from error
    if reads_images and not isinstance(loaded, ProcessorMixin):
        raise ValueError(
            f"{name_or_path!r} is a vision-language model, but only its tokenizer could be loaded; copy "
            "preprocessor_config.json or processor_config.json of the original model there, unchanged"
        )
    tokenizer = loaded.tokenizer if reads_images else loaded
    # Without tokenizer files transformers makes an empty vocabulary, which encodes everything to nothing.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ValueError(f"{name_or_path!r} has no usable tokenizer; copy tokenizer.json of the original model there")
    if reads_images and (max_pixels is not None or min_pixels is not None):
        _limit_pixels(loaded.image_processor, max_pixels, min_pixels)
    if reads_images:
        faster(loaded.image_processor)
    return loaded


def _processor_class(config: Any) -> Any:
    """The class that transformers has for this model type, less its video half; ``AutoProcessor`` for remote code."""
    from transformers import PROCESSOR_MAPPING, AutoProcessor

    return without_video(PROCESSOR_MAPPING[type(config)]) if type(config) in PROCESSOR_MAPPING else AutoProcessor


@functools.cache
def without_video(cls: Any) -> Any:
    """The processor class ``cls`` without its video processor, or ``cls`` itself if it has none.

    Keeps the name of ``cls``: it is written to ``processor_config.json``, and under a name that it does not know
    ``AutoProcessor`` returns the bare tokenizer.
    """
    kept = [name for name in cls.get_attributes() if name != "video_processor"]
    if len(kept) == len(cls.get_attributes()):
        return cls
    body: dict[str, Any] = {
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "get_attributes": classmethod(lambda _: list(kept)),
        # A class made here cannot be found by name, so an instance is pickled as (original class, attributes).
        "__reduce__": lambda self: (_empty_without_video, (cls,), self.__dict__),
    }
    if inspect.signature(cls).parameters["video_processor"].default is inspect.Parameter.empty:
        make = cls.from_args_and_dict.__func__

        def from_args_and_dict(kept_class: Any, args: Any, settings: dict[str, Any], **kwargs: Any) -> Any:
            return make(kept_class, args, {**settings, "video_processor": None}, **kwargs)

        # SmolVLM's is not optional, and its chat template asks for these two numbers though there is no video.
        body["from_args_and_dict"] = classmethod(from_args_and_dict)
        body["video_processor"] = SimpleNamespace(num_frames=None, fps=None)
    return type(cls.__name__, (cls,), body)


def _empty_without_video(cls: Any) -> Any:
    made = without_video(cls)
    return made.__new__(made)


def _limit_pixels(image_processor: Any, max_pixels: int | None, min_pixels: int | None) -> None:
    """Set the image size limits in pixels, where the image processor has them; say so where it has not."""
    known = getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {})
    if "max_pixels" not in known or "longest_edge" not in image_processor.size:
        name = type(image_processor).__name__
        warnings.warn(f"{name} has no limit in pixels: max_pixels and min_pixels are ignored", stacklevel=3)
        return
    # In these classes the two "edges" are areas in pixels, and the only place where the limits are read.
    low, high = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
    high = high if max_pixels is None else max_pixels
    low = min(low, high) if min_pixels is None else min_pixels  # else small images would be enlarged beyond the limit
    if low > high:
        raise ValueError(f"min_pixels {low} is larger than max_pixels {high}; lower it")
    image_processor.size = {"shortest_edge": low, "longest_edge": high}
