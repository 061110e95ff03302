"""The demo's backbones: the recipe of every other, with a folder that is made on the spot."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from lit_basereward.demo.siblings import write_tiny_qwen2, write_tiny_qwen2_vl
from lit_basereward.demo.tiny import demo_folder, write_tiny_qwen2_5_vl
from lit_basereward.nn.backbone import Backbone, Part


@dataclass
class TinyQwen2_5VL(Backbone):
    """A Qwen2.5-VL of 1.5 million parameters with a byte-level tokenizer of 453 tokens, trained from scratch.

    Args:
        name_or_path: where config and tokenizer are kept; empty is a cache folder of the user's.
        init: its weights are random.
        freeze: all of it trains.
        max_pixels: larger images are shrunk to this many pixels, aspect ratio kept.
        max_length: most tokens of prompt and one response together, images included.
    """

    name_or_path: str = ""
    init: Literal["pretrained", "random"] = "random"
    freeze: list[Part] = field(default_factory=list)
    max_pixels: int = 112 * 112
    max_length: int = 1024

    def folder(self) -> str:
        """The folder, made where it is missing."""
        return _made(self.name_or_path, write_tiny_qwen2_5_vl)


@dataclass
class TinyQwen2VL(TinyQwen2_5VL):
    """A Qwen2-VL of the same size and tokenizer, with its own vision tower; arguments as for :class:`TinyQwen2_5VL`."""

    def folder(self) -> str:
        """The folder, made where it is missing."""
        return _made(self.name_or_path, write_tiny_qwen2_vl)


@dataclass
class TinyQwen2(TinyQwen2_5VL):
    """A Qwen2, which reads text only, with the same tokenizer; arguments as for :class:`TinyQwen2_5VL`."""

    def folder(self) -> str:
        """The folder, made where it is missing."""
        return _made(self.name_or_path, write_tiny_qwen2)


@cache
def _made(place: str, write: Callable[..., None]) -> str:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return demo_folder(place or cache_home / "lit_basereward", write)
    except OSError:
        if place:
            raise
        return demo_folder(Path(tempfile.mkdtemp(prefix="lit_basereward-")), write)  # a home that cannot be written
