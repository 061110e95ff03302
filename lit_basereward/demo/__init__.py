"""The embedded demo: preference data and a tiny backbone made on the spot, trained through the same code as 7B."""

from lit_basereward.demo.backbone import TinyQwen2, TinyQwen2_5VL, TinyQwen2VL
from lit_basereward.demo.data import Digits, Scenes, Sums
from lit_basereward.demo.tiny import demo_folder

__all__ = ["Digits", "Scenes", "Sums", "TinyQwen2", "TinyQwen2VL", "TinyQwen2_5VL", "demo_folder"]
