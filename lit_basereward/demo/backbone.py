"""The demo's backbone: the recipe of every other, with a folder that is made on the spot."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

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
        return _made(self.name_or_path)


@cache
def _made(place: str) -> str:
    from lit_basereward.demo.tiny import demo_folder

    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        return demo_folder(place or cache_home / "lit_basereward")
    except OSError:
        if place:
            raise
        return demo_folder(Path(tempfile.mkdtemp(prefix="lit_basereward-")))  # a home that cannot be written
