"""A body to a row: how much one may ask, counted before any work on it. Nothing here opens a path or fetches a URL."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from lit_basereward.data.images import image_size
from lit_basereward.data.records.lines import json_kind
from lit_basereward.data.sources.record import read_row
from lit_basereward.data.types import Preference, RowError

MOST_KEYS = 100
"""Of a body (our choice): each is compared with the names that are known, and a million of them took minutes."""
MOST_VALUES = 100_000
"""Of a body (our choice): commas and opening brackets outside of texts. Other threads wait while JSON is parsed, half a
minute for millions of empty lists."""
MOST_PARTS = 1_000
"""Turns, and parts of turns, of a prompt (our choice): chat templates took minutes for a million of them."""


class BadRequest(ValueError):
    """A body that is no JSON object."""


@dataclass(frozen=True)
class ImageLimits:
    """How much a row's images may be, decided by their number and headers before any pixel is decoded.

    Args:
        max_pixels: width times height, summed over the images of a row.
        max_images: of a row.
    """

    max_pixels: int = 50_000_000
    max_images: int = 64

    def check_number(self, images: int, where: str) -> None:
        """Raise ``RowError`` where a row has more."""
        if images > self.max_images:
            raise RowError(f"{where} has {images} images, over max_images {self.max_images}; send fewer")

    def check(self, row: Preference) -> None:
        """Raise ``RowError`` where a row has more, or an image that is none."""
        self.check_number(len(row.images), row.where)
        sizes = [image_size(ref, row.where, self.max_pixels) for ref in row.images]
        pixels = sum(width * height for width, height in sizes)
        if pixels > self.max_pixels:
            raise row.error(f"has images of {pixels} pixels, over max_pixels {self.max_pixels}; scale them down")


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a body, in UTF-8.

    Raises:
        BadRequest: if it is none.
        RowError: if it has more values than anything that can be scored.
    """
    _check_values(body)
    try:
        record = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad UTF-8 and numbers of thousands of digits are ValueErrors
        raise BadRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadRequest(f"the body is a JSON {json_kind(record)}; send an object")
    if len(record) > MOST_KEYS:
        raise BadRequest(f"the body is an object of {len(record)} keys; send one of at most {MOST_KEYS}")
    return record


def _check_values(body: bytes | bytearray) -> None:
    """Refuse what would hold up everybody while it is parsed. Long texts have as many commas, and are let pass."""
    if _marks(body) <= MOST_VALUES:
        return
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")  # every quote that is left begins or ends a string
    # with each comma or bracket there come a key and a text at most, which are four quotes
    if bare.count(b'"') > 4 * MOST_VALUES or _marks(b"".join(bare.split(b'"')[::2])) > MOST_VALUES:
        raise RowError(f"the body has over {MOST_VALUES} commas and brackets outside of its texts; send less at a time")


def _marks(text: bytes | bytearray) -> int:
    return sum(map(text.count, (b",", b"[", b"{")))


def read_group(record: dict[str, Any], where: str, limits: ImageLimits) -> Preference:
    """A row whose images all came with it.

    Raises:
        RowError: if it is none, or over the limits.
    """
    _check_parts(record.get("prompt"), where)
    for key in ("images", "image"):
        if isinstance(record.get(key), list):
            limits.check_number(len(record[key]), where)
            record[key] = [decode_image(image, where) for image in record[key]]
        elif record.get(key) is not None:
            record[key] = decode_image(record[key], where)
    if isinstance(record.get("prompt"), list):
        record["prompt"] = [_decode_turn(turn, where) for turn in record["prompt"]]
    for key in ("chosen_images", "rejected_images"):
        if record.get(key):
            raise RowError(f"{where} has `{key}`; give its `images`")
    # Paths would be opened relative to anything: but all images are bytes by now.
    row = read_row(record, where, root=None, allow_empty=True)
    assert not any(ref.path for ref in row.images)
    limits.check(row)
    return row


def _check_parts(prompt: Any, where: str) -> None:
    turns = prompt if isinstance(prompt, list) else []
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    parts = len(turns) + sum(len(content) for content in contents if isinstance(content, list))
    if parts > MOST_PARTS:
        raise RowError(f"{where} has a prompt of {parts} turns and parts, over the limit of {MOST_PARTS}; send fewer")


def _decode_turn(turn: Any, where: str) -> Any:
    """A chat message whose image parts carry bytes; what is no message is left for ``read_prompt`` to refuse."""
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    keys = ("image", "path", "url", "base64")
    return turn | {
        "content": [
            part | {key: decode_image(part[key], where) for key in keys if part.get(key) is not None}
            if isinstance(part, dict) and part.get("type") == "image"
            else part
            for part in turn["content"]
        ]
    }


def decode_image(value: Any, where: str) -> bytes:
    """Encoded bytes of an image that is base64, a data URI, or ``{"bytes": base64}``.

    Raises:
        RowError: if it is anything else, such as a path or a URL.
    """
    given = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(given, str):
        head, comma, rest = given.partition(",")
        uri = given[:5].lower() == "data:" and comma and head.lower().endswith(";base64")
        try:
            text = (rest if uri else given).encode("ascii").translate(None, b" \t\r\n")
            if data := base64.b64decode(text, validate=True):
                return data
        except ValueError:  # which binascii.Error and UnicodeError are
            pass
    shown = repr(value)
    raise RowError(
        f"{where} has an image that is no base64 of a file: {shown[:60]}{'...' if len(shown) > 60 else ''}; no path is "
        "opened and no URL fetched here: send the file's bytes as standard base64, with + and / and = at its end"
    )
