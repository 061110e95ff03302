"""Images of a row: where they may come from, and opening them safely. Nothing is fetched, nothing exotic is decoded."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_basereward.data.types import ImageRef, RowError

# The only decoders that ever run. Others of Pillow's start programs (EPS calls Ghostscript) or are little tested.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
# First bytes of those formats: what tells a plain base64 string from a mistyped path.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"P5\n", b"P6\n")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|file:", re.IGNORECASE)
_DATA_URI = re.compile(r"data:(?:image/[\w.+-]+)?(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)
_ORIENTATION = 0x0112  # EXIF tag: how a viewer turns the stored pixels
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_ref(value: Any, root: Path | None, where: str) -> ImageRef:
    """Check what a row says about an image, without opening it.

    Args:
        value: a path; encoded bytes; ``{"bytes": ..., "path": ...}`` where bytes (raw or base64) win; a base64 string;
            or a data URI.
        root: paths are relative to it and cannot leave it, neither by ``..``, nor absolute, nor over a symbolic link.
            None trusts every path, relative to the working directory: for a caller's own values, never for data.
        where: names the row in error messages.

    Raises:
        RowError: if it is a URL, outside ``root``, missing, empty, or nothing of the above.
    """
    if isinstance(value, dict):
        return _from_dict(value, root, where)
    if isinstance(value, bytes):
        if not value:
            raise RowError(f"{where} has an image of 0 bytes; give its encoded bytes or remove the row")
        return ImageRef(data=value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(
            f"{where} has the image {_short(value)}; give a path, base64, a data URI, or "
            "{'bytes': ..., 'path': ...}, and leave the key out where there is no image"
        )
    if value[:5].lower() == "data:":
        return _from_data_uri(value, where)
    if _URL.match(value):
        raise RowError(f"{where} has the image {_short(value)}: no URL is fetched; download the file and give its path")
    return _from_path(value, root, where)


def _from_dict(value: dict[str, Any], root: Path | None, where: str) -> ImageRef:
    """The form of Hugging Face datasets' undecoded images."""
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, str):
        decoded = _decode(data)
        if decoded is None:
            raise RowError(f"{where} has an image whose `bytes` are no base64: {_short(data)}; encode them again")
        return image_ref(decoded, root, where)
    if data is None and path is None:
        raise RowError(f"{where} has an image with neither `bytes` nor `path`; give one of them")
    return image_ref(path if data is None else data, root, where)


def _from_data_uri(value: str, where: str) -> ImageRef:
    match = _DATA_URI.match(value)
    data = _decode(value[match.end() :]) if match else None
    if data is None:
        raise RowError(f"{where} has the image {_short(value)}; write it as data:image/png;base64,<base64 of the file>")
    return image_ref(data, None, where)


def _from_path(value: str, root: Path | None, where: str) -> ImageRef:
    """A file inside ``root``; a string that names none may be base64 of an image ("/9j/..." is a JPEG's)."""
    base = Path.cwd() if root is None else Path(root).resolve()
    try:
        path = (base / value).resolve()
        size = path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError):  # name too long, or a NUL byte in it
        path, size = base / "?", -1
    inside = root is None or path.is_relative_to(base)
    if inside and size > 0:
        return ImageRef(path=str(path))
    data = _decode(value)
    if data is not None and data.startswith(_SIGNATURES):
        return ImageRef(data=data)
    if not inside:
        raise RowError(f"{where} has the image {_short(value)}, outside image_root {base}; move the file or image_root")
    if size == 0:
        raise RowError(
            f"{where} has the image {_short(value)}, a file of 0 bytes in {base}; restore it or remove the row"
        )
    raise RowError(
        f"{where} has the image {_short(value)}, and there is no such file in {base}; "
        "correct the path, or set image_root to the folder that it is relative to"
    )


def _decode(text: str) -> bytes | None:
    """Strict base64, line breaks allowed; None where it is anything else."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]}...({len(text)} characters)"


def image_key(ref: ImageRef) -> Hashable:
    """A cheap identity for de-duplication inside a batch: the path, or a hash of the encoded bytes."""
    return ref.path or hashlib.sha256(ref.data).digest()


def open_image(ref: ImageRef, where: str, max_image_pixels: int = 100_000_000) -> Image.Image:
    """Decode an image: upright (EXIF), RGB, transparency on white, first frame. Called in the worker.

    Args:
        ref: from :func:`image_ref`.
        where: names the row in error messages.
        max_image_pixels: width times height above which the file is refused before any pixel is decoded (our choice;
            100 megapixels take 300 MB). Resizing for the model is the processor's, by ``max_pixels``.

    Raises:
        RowError: if the file is missing, empty, truncated, corrupt, too large or of another format than FORMATS.
    """
    with _reading(ref, where, max_image_pixels) as image:
        return _upright(image)


def encode_image(image: Image.Image) -> bytes:
    """PNG of what :func:`open_image` would make of the file that a Pillow image was read from.

    Raises:
        ValueError: if it has more than 16 bits a pixel and channel.
    """
    buffer = BytesIO()
    _upright(image).save(buffer, "PNG", compress_level=1)  # read once, soon
    return buffer.getvalue()


def image_size(ref: ImageRef, where: str, max_image_pixels: int = 100_000_000) -> tuple[int, int]:
    """Width and height that :func:`open_image` would return, from the header alone. Arguments and errors as there."""
    with _reading(ref, where, max_image_pixels) as image:
        width, height = image.size  # a TIFF's is that of the upright image; a PNG may keep EXIF behind its pixels
        header = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        sideways = header and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        return (height, width) if sideways else (width, height)


@contextmanager
def _reading(ref: ImageRef, where: str, max_image_pixels: int) -> Iterator[Image.Image]:
    """The opened, undecoded image; whatever goes wrong while reading it becomes a RowError."""
    name = f"image {ref.path!r}" if ref.path else f"image of {len(ref.data)} bytes"
    try:
        if not (os.path.getsize(ref.path) if ref.path else ref.data):
            raise RowError(f"{where} has the {name}, which has 0 bytes; restore it or remove the row")
        with warnings.catch_warnings():
            # our own limit decides, below; Pillow's is a process-wide setting that is not ours to change
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(ref.path or BytesIO(ref.data), formats=FORMATS) as image:
                if image.width * image.height > max_image_pixels:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                yield image
    except RowError:
        raise
    except Image.DecompressionBombError as error:
        raise RowError(
            f"{where} has the {name}, which is over the limit of {max_image_pixels} pixels ({error}); scale it down"
        ) from error
    except FileNotFoundError as error:
        raise RowError(f"{where} has the {name}, and there is no such file; restore it or remove the row") from error
    except Image.UnidentifiedImageError as error:
        raise RowError(
            f"{where} has the {name}, which is corrupt or none of {', '.join(FORMATS)}; "
            "convert it to PNG, or remove the row"
        ) from error
    # Pillow's readers raise nearly anything on broken files: OSError, SyntaxError, struct.error, zlib.error, ...
    except Exception as error:
        raise RowError(
            f"{where} has the {name}, which cannot be decoded, it may be truncated or corrupt ({error}); "
            "restore it or remove the row"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))  # read here: decoding has already turned a TIFF
    return _rgb(image) if turn is None else _rgb(image).transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers of unknown range; save it with 8 bits")
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255 instead of scaling
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65_535:
            raise ValueError("its pixels have more than 16 bits; save it with 8 bits")
        image = Image.fromarray((pixels.astype(np.uint16) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
