"""Corpora, one a file."""

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.jsonl import JSONLSource

__all__ = ["BlankImages", "JSONLSource", "Source"]
