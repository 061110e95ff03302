"""Where images may come from, and what opening them does to pixels."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from lit_basereward.data.images import image_key, image_ref, image_size, open_image
from lit_basereward.data.sources import BlankImages, JSONLSource
from lit_basereward.data.types import ImageRef, RowError

WHERE = "rows.jsonl:3"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def red_blue() -> Image.Image:
    """Two pixels wide, one high: red on the left, blue on the right."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    return image


def png_header(width: int, height: int) -> bytes:
    """A valid PNG signature and IHDR that claim a size, and no pixels: nothing of that size is ever in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PNG = encoded(red_blue())


# ------------------------------------------------------------------------------------------------------ image_ref
def test_every_form_leads_to_the_same_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    text = base64.b64encode(PNG).decode()
    forms: list[Any] = [
        "a.png",
        str(tmp_path / "a.png"),
        PNG,
        {"bytes": PNG, "path": None},
        {"bytes": text},
        {"bytes": None, "path": "a.png"},
        text,
        "\n".join(text[i : i + 20] for i in range(0, len(text), 20)),
        f"data:image/png;base64,{text}",
    ]
    for form in forms:
        image = open_image(image_ref(form, tmp_path, WHERE), WHERE)
        assert [image.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE], form


def test_bytes_win_over_the_path_beside_them(tmp_path: Path) -> None:
    assert image_ref({"bytes": PNG, "path": "not/there.png"}, tmp_path, WHERE) == ImageRef(data=PNG)


def test_base64_of_a_jpeg_is_not_taken_for_an_absolute_path(tmp_path: Path) -> None:
    """The first bytes of a JPEG are "/9j/" in base64."""
    jpeg = encoded(red_blue(), "JPEG")
    text = base64.b64encode(jpeg).decode()
    assert text.startswith("/9j/")
    assert image_ref(text, tmp_path, WHERE) == ImageRef(data=jpeg)


def test_a_file_wins_over_base64_of_the_same_letters(tmp_path: Path) -> None:
    name = base64.b64encode(b"BM" + b"\0" * 10).decode()
    (tmp_path / name).write_bytes(PNG)
    assert image_ref(name, tmp_path, WHERE) == ImageRef(path=str(tmp_path.resolve() / name))


@pytest.mark.parametrize(
    "value", ["http://a.org/x.png", "https://a.org/x.png", "HTTPS://a.org/x.png", "ftp://a/x", "file:///etc/passwd"]
)
def test_urls_are_refused_with_the_mend(value: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"^rows\.jsonl:3 .*no URL is fetched; download the file"):
        image_ref(value, tmp_path, WHERE)


@pytest.mark.parametrize("inside_first", [False, True])
def test_a_path_cannot_leave_its_root(inside_first: bool, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(PNG)
    value = "sub/../../secret.png" if inside_first else "../secret.png"
    for escape in (value, str(tmp_path / "secret.png")):
        with pytest.raises(RowError, match="outside image_root"):
            image_ref(escape, root, WHERE)


def test_a_sibling_folder_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    for name in ("root", "root2"):
        (tmp_path / name).mkdir()
    (tmp_path / "root2" / "a.png").write_bytes(PNG)
    with pytest.raises(RowError, match="outside image_root"):
        image_ref("../root2/a.png", tmp_path / "root", WHERE)


def test_a_symbolic_link_cannot_leave_the_root_but_the_root_may_be_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(RowError, match="outside image_root"):
        image_ref("link.png", root, WHERE)
    (root / "a.png").write_bytes(PNG)
    (tmp_path / "alias").symlink_to(root)
    assert image_ref("a.png", tmp_path / "alias", WHERE).path == str((root / "a.png").resolve())


def test_dots_that_stay_inside_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(PNG)
    assert image_ref("sub/../a.png", tmp_path, WHERE).path == str(tmp_path.resolve() / "a.png")


def test_without_a_root_the_callers_paths_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    assert image_ref("a.png", None, WHERE) == image_ref(str(tmp_path / "a.png"), None, WHERE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gone.png", "'gone.png', and there is no such file in .*correct the path, or set image_root"),
        ("folder", "no such file"),
        ("x" * 5000, r"\(5002 characters\), and there is no such file"),
        ("nul\0byte.png", "no such file"),
        ("empty.png", "a file of 0 bytes"),
        (b"", "image of 0 bytes"),
        ("", "leave the key out where there is no image"),
        (7, "has the image 7; give a path"),
        (None, "has the image None"),
        ({"bytes": None, "path": None}, "neither `bytes` nor `path`"),
        ({"bytes": "no base64!"}, "`bytes` are no base64"),
        ({"bytes": ""}, "image of 0 bytes"),
        ({"path": "../empty.png"}, "outside image_root"),
        ("data:image/png;base64,no base64!", "write it as data:image/png;base64"),
        ("data:image/png,rawdata", "write it as data:image/png;base64"),
        ("data:text/html;base64,AAAA", "write it as data:image/png;base64"),
    ],
)
def test_what_is_no_image_names_row_and_mend(value: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    with pytest.raises(RowError, match=rf"^rows\.jsonl:3 .*{message}"):
        image_ref(value, tmp_path, WHERE)


def test_key_is_cheap_equal_for_equal_images_and_hashable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    same = image_ref("a.png", tmp_path, WHERE), image_ref("./a.png", tmp_path, WHERE)
    other = ImageRef(data=encoded(Image.new("RGB", (2, 1))))
    assert image_key(same[0]) == image_key(same[1])
    assert len({image_key(ref) for ref in (same[0], ImageRef(data=PNG), ImageRef(data=bytes(PNG)), other)}) == 3


# ----------------------------------------------------------------------------------------------------- open_image
# What a viewer shows for stored pixels [[1, 2], [3, 4], [5, 6]], by EXIF orientation (Exif 2.32, table 6: the row 0 and
# the column 0 of the stored image are shown as: 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top,
# 6 right top, 7 right bottom, 8 left bottom).
STORED = [[1, 2], [3, 4], [5, 6]]
SHOWN = {
    1: [[1, 2], [3, 4], [5, 6]],
    2: [[2, 1], [4, 3], [6, 5]],
    3: [[6, 5], [4, 3], [2, 1]],
    4: [[5, 6], [3, 4], [1, 2]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[5, 3, 1], [6, 4, 2]],
    7: [[6, 4, 2], [5, 3, 1]],
    8: [[2, 4, 6], [1, 3, 5]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation_on_pixels(orientation: int, format: str) -> None:
    """Grey levels 40 times the numbers above."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.array(STORED, dtype=np.uint8) * 40).convert("RGB")
    options = {"lossless": True} if format == "WEBP" else {}
    ref = ImageRef(data=encoded(stored, format, exif=exif, **options))
    image = open_image(ref, WHERE)
    assert (np.asarray(image)[..., 0] // 40).tolist() == SHOWN[orientation]
    assert image_size(ref, WHERE) == image.size


def test_exif_rotation_of_a_jpeg() -> None:
    """Stored 16 x 8, left half red; orientation 6 turns it clockwise, so the left side is shown on top."""
    stored = Image.new("RGB", (16, 8), BLUE)
    stored.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(ImageRef(data=encoded(stored, "JPEG", exif=exif, quality=95)), WHERE)
    assert image.size == (8, 16)
    pixels = np.asarray(image)
    assert pixels[2, 4, 0] > 240 and pixels[13, 4, 2] > 240


def translucent() -> list[tuple[str, Image.Image, dict[str, Any]]]:
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([*RED, *BLUE])
    return [
        ("RGBA", Image.new("RGBA", (1, 1), (255, 0, 0, 0)), {}),
        ("LA", Image.new("LA", (1, 1), (0, 0)), {}),
        ("palette", palette, {"transparency": 0}),
        ("RGB key", Image.new("RGB", (1, 1), RED), {"transparency": RED}),
    ]


@pytest.mark.parametrize("case", translucent(), ids=lambda case: case[0])
def test_what_is_transparent_shows_white(case: tuple[str, Image.Image, dict[str, Any]]) -> None:
    _, image, options = case
    opened = open_image(ImageRef(data=encoded(image, "PNG", **options)), WHERE)
    assert (opened.mode, opened.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_half_transparent_black_is_grey() -> None:
    """Alpha 128 of 255 over white: 255 * (1 - 128 / 255) = 127."""
    opened = open_image(ImageRef(data=encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))), WHERE)
    assert opened.getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    """High byte of 0x0000, 0x4000, 0x80ff, 0xffff: 0, 64, 128, 255. (Pillow's conversion clips at 255.)"""
    levels = np.array([[0x0000, 0x4000, 0x80FF, 0xFFFF]], dtype=np.uint16)
    files = [encoded(Image.fromarray(levels), format) for format in ("PNG", "TIFF")]
    files.append(b"P5\n4 1\n65535\n" + levels.astype(">u2").tobytes())
    for data in files:
        assert np.asarray(open_image(ImageRef(data=data), WHERE))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_other_modes_become_rgb() -> None:
    """Full cyan ink with no other is (0, 255, 255); a set bit is white; a palette's colour is its colour."""
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([*RED, *BLUE])
    cases = [
        (encoded(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
        (encoded(Image.new("1", (1, 1), 1)), (255, 255, 255)),
        (encoded(palette), BLUE),
        (encoded(palette, "GIF"), BLUE),
        (encoded(Image.new("L", (1, 1), 77), "BMP"), (77, 77, 77)),
    ]
    for data, colour in cases:
        image = open_image(ImageRef(data=data), WHERE)
        assert (image.mode, image.getpixel((0, 0))) == ("RGB", colour)


def test_of_an_animation_the_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(ImageRef(data=data), WHERE).getpixel((0, 0)) == RED


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """16,000 x 16,000 is 256 megapixels, 768 MB as RGB; the child may use 256 MB more than it has after its imports."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(16_000, 16_000))
    script = """
import resource, sys
from lit_basereward.data.images import image_ref, open_image
from lit_basereward.data.types import ImageRef, RowError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    open_image(ImageRef(path=sys.argv[1]), "rows.jsonl:3")
except RowError as error:
    print(error)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    command = [sys.executable, "-W", "error::UserWarning", "-c", script, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert out.stdout.startswith("rows.jsonl:3 has the image") and "bomb.png" in out.stdout
    assert "over the limit of 100000000 pixels" in out.stdout and "scale it down" in out.stdout


@pytest.mark.parametrize(("width", "refused"), [(10_000, False), (10_001, True)])
def test_the_pixel_limit_is_ours_and_silent(width: int, refused: bool) -> None:
    """Pillow would warn from 89 megapixels on; 100 are allowed here, and without pixels the header is all there is."""
    ref = ImageRef(data=png_header(width, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if refused:
            with pytest.raises(RowError, match="over the limit of 100000000 pixels"):
                image_size(ref, WHERE)
        else:
            assert image_size(ref, WHERE) == (width, 10_000)


def test_the_pixel_limit_can_be_set() -> None:
    with pytest.raises(RowError, match=r"over the limit of 1 pixels \(2 x 1 pixels\)"):
        open_image(ImageRef(data=PNG), WHERE, max_image_pixels=1)


def test_no_setting_of_pillow_is_changed() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    open_image(ImageRef(data=PNG), WHERE)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before == (before[0], False)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(format: str, kept: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    (tmp_path / "half").write_bytes(data[: int(len(data) * kept)])
    open_image(ImageRef(data=data), WHERE)
    with pytest.raises(RowError, match=r"^rows\.jsonl:3 has the image '.*half', which"):
        open_image(ImageRef(path=str(tmp_path / "half")), WHERE)


def test_garbage_missing_and_empty_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    cases = [
        (ImageRef(data=b"no image at all"), "image of 15 bytes, which is corrupt or none of PNG, JPEG"),
        (ImageRef(path=str(tmp_path / "gone.png")), "gone.png', and there is no such file"),
        (ImageRef(path=str(tmp_path / "empty.png")), "empty.png', which has 0 bytes"),
    ]
    for ref, message in cases:
        for read in (open_image, image_size):
            with pytest.raises(RowError, match=rf"^rows\.jsonl:3 has the .*{message}"):
                read(ref, WHERE)


def test_exotic_formats_never_reach_their_decoder() -> None:
    """Pillow would start Ghostscript for the first; the others are formats nobody keeps photographs in."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 1\n%%EndComments\n"
    for data in (eps, encoded(red_blue(), "ICO"), encoded(red_blue(), "TGA"), encoded(red_blue(), "PCX")):
        with pytest.raises(RowError, match="none of PNG, JPEG"):
            open_image(ImageRef(data=data), WHERE)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(RowError, match="floating point numbers of unknown range; save it with 8 bits"):
        open_image(ImageRef(data=encoded(Image.new("F", (1, 1), 0.5), "TIFF")), WHERE)


# ---------------------------------------------------------------------------------------------------- BlankImages
def test_blanking_replaces_images_by_grey_of_the_shown_size_and_nothing_else(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 3), RED).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "What?", "responses": ["x", "y"], "ratings": [1, 0], "images": ["turned.png", "a.png"]}\n'
        '{"prompt": "What?", "responses": ["x", "y"], "ratings": [1, 0]}\n'
    )
    source = JSONLSource(str(tmp_path / "rows.jsonl"))
    blank = BlankImages(source)
    blank.prepare()
    assert (blank.name, len(blank)) == ("rows_blank", 2)
    row, seen = blank[0], source[0]
    images = [open_image(ref, WHERE) for ref in row.images]
    assert [image.size for image in images] == [(3, 5), (2, 1)]
    assert all(np.unique(np.asarray(image)).tolist() == [128] for image in images)
    assert (row.id, row.prompt, row.responses, row.ratings) == (seen.id, seen.prompt, seen.responses, seen.ratings)
    assert blank[1].images == () and blank[1].responses == source[1].responses
    assert blank.fingerprint() != source.fingerprint()


def test_blanking_reads_headers_only(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(30, 20))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What?", "responses": ["x"], "image": "a.png"}\n')
    source = JSONLSource(str(tmp_path / "rows.jsonl"))
    with pytest.raises(RowError, match="cannot be decoded"):
        open_image(source[0].images[0], WHERE)
    assert open_image(BlankImages(source)[0].images[0], WHERE).size == (30, 20)
