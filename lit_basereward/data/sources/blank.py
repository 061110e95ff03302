"""The control that proves that a model looks: the same rows with their images blanked."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from io import BytesIO

from PIL import Image

from lit_basereward.data.images import image_size
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImageRef, Preference


class BlankImages(Source):
    """A source with every image replaced by mid-grey of the same size; rows without images are unchanged.

    Where the images decide which response is better, a model that looks falls to chance here, and one that has learnt
    to tell answers apart by their words alone keeps its accuracy. Prompts keep their length, so nothing else changes.
    Rows whose image has no readable header raise as they do without blanking.

    Args:
        source: the source to blank; the name of this one is its name with ``_blank`` behind.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = f"{source.name}_blank"

    def prepare(self) -> None:
        """Prepare the source underneath."""
        self.source.prepare()

    def __len__(self) -> int:
        """Number of rows of the source underneath."""
        return len(self.source)

    def __getitem__(self, index: int) -> Preference:
        """The row with blank images; errors are those of the source and of :func:`image_size`."""
        row = self.source[index]
        where = row.where or f"row {row.id!r}"
        images = tuple(ImageRef(data=_grey_png(*image_size(ref, where))) for ref in row.images)
        return replace(row, images=images, source=self.name)

    def fingerprint(self) -> str:
        """That of the source underneath, marked as blank."""
        return f"blank:{self.source.fingerprint()}"


@lru_cache(maxsize=256)
def _grey_png(width: int, height: int) -> bytes:
    """An encoded image of grey level 128; a few kilobytes at one megapixel."""
    buffer = BytesIO()
    Image.new("L", (width, height), 128).save(buffer, "PNG")
    return buffer.getvalue()
