"""Words written into pictures and read back from the pixels."""

import io
import string
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dragoman.testing._font import GLYPHS, HEIGHT, WIDTH
from dragoman.testing.picture import UnreadablePicture, read_word, render_png

WORDS = st.text(alphabet=string.ascii_letters, min_size=1, max_size=20)


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


@given(word=WORDS, scale=st.integers(1, 12), margin=st.integers(0, 40))
def test_any_word_is_read_back_at_any_scale_and_margin(word: str, scale: int, margin: int) -> None:
    png = render_png(word, scale, margin)
    assert read_word(png) == word


@given(word=WORDS, ink=st.integers(0, 255), paper=st.integers(0, 255))
def test_any_brightness_of_ink_and_paper_will_do(word: str, ink: int, paper: int) -> None:
    if abs(ink - paper) < 32:
        with pytest.raises(ValueError, match="must differ"):
            render_png(word, ink=ink, paper=paper)
    else:
        assert read_word(render_png(word, 2, 3, ink=ink, paper=paper)) == word


@pytest.mark.parametrize("letter", string.ascii_letters)
def test_a_letter_alone_is_read_back(letter: str) -> None:
    for scale in (1, 2, 3, 5, 8):
        assert read_word(render_png(letter, scale, 4)) == letter


def test_the_glyphs_have_ink_in_their_first_column_and_differ_wherever_they_stand() -> None:
    assert set(GLYPHS) == set(string.ascii_letters)
    shapes = set()
    for glyph in GLYPHS.values():
        assert len(glyph) == HEIGHT
        assert {len(row) for row in glyph} == {WIDTH}
        assert any(row[0] == "#" for row in glyph)
        inked = [at for at, row in enumerate(glyph) if "#" in row]
        shapes.add(glyph[inked[0] : inked[-1] + 1])
    assert len(shapes) == len(GLYPHS)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA"])
@settings(max_examples=20, deadline=None)
@given(word=WORDS)
def test_pictures_of_other_programs_are_read(mode: str, word: str) -> None:
    assert read_word(saved(opened(render_png(word, 3, 7)).convert(mode), optimize=True)) == word


@pytest.mark.parametrize("kind", range(5))
def test_every_prediction_filter_is_undone(kind: int) -> None:
    image = opened(render_png("Ozymandias", 4, 5)).convert("RGB")
    image = Image.merge(
        "RGB",
        [
            band.point([min(255, v + shade) for v in range(256)])
            for band, shade in zip(image.split(), (0, 10, 20), strict=True)
        ],
    )
    width, height = image.size
    data = image.tobytes()
    rows = [data[at : at + width * 3] for at in range(0, len(data), width * 3)]
    raw = b""
    above = bytes(width * 3)
    for row in rows:
        raw += bytes([kind]) + predicted(row, above, kind)
        above = row
    assert read_word(png_of(width, height, 2, raw)) == "Ozymandias"


def test_colour_on_transparent_paper_is_read() -> None:
    mask = opened(render_png("Shelley", 3, 9)).point([255 - v for v in range(256)])
    image = Image.new("RGBA", mask.size, (200, 30, 30, 0))
    image.putalpha(mask)
    assert read_word(saved(image)) == "Shelley"


def noise() -> Image.Image:
    state, pixels = 1, bytearray()
    for _ in range(60 * 60):
        state = (1103515245 * state + 12345) % 2**31
        pixels.append(state >> 16 & 255)
    return Image.frombytes("L", (60, 60), bytes(pixels))


def crossed() -> Image.Image:
    image = opened(render_png("Ozymandias", 4, 12))
    image.paste(0, (0, 40, image.width, 44))
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (50, 40), 255),
        Image.new("L", (1, 1), 0),
        Image.linear_gradient("L"),
        Image.radial_gradient("L"),
        noise(),
        crossed(),
        opened(render_png("Ozymandias", 5, 8)).rotate(90, expand=True),
    ],
    ids=["blank", "dot", "gradient", "radial", "noise", "crossed-out", "turned"],
)
def test_another_picture_has_no_word(image: Image.Image) -> None:
    assert read_word(saved(image)) is None


PNG = render_png("word", 2, 2)


def png_of(width: int, height: int, colour: int, raw: bytes, depth: int = 8, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return PNG[:8] + body


def predicted(row: bytes, above: bytes, kind: int) -> bytes:
    out = bytearray()
    for x, value in enumerate(row):
        left, up, corner = (row[x - 3], above[x], above[x - 3]) if x >= 3 else (0, above[x], 0)
        nearest = min((left, up, corner), key=lambda guess: abs(left + up - corner - guess))
        out.append((value - (0, left, up, (left + up) // 2, nearest)[kind]) & 255)
    return bytes(out)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (PNG[:8], "cut off"),
        (PNG[:-20], "cut off|damaged"),
        (PNG[:40] + b"\0" + PNG[41:], "damaged"),
        (PNG[:8] + PNG[33:], "no header"),
        (png_of(1, 1, 0, b"\0\0", depth=16), "8 bits"),
        (png_of(1, 1, 0, b"\0\0", interlaced=1), "interlaced"),
        (png_of(1, 1, 5, b"\0\0"), "8 bits"),
        (png_of(100_000, 100_000, 0, b"\0\0"), "too large"),
        (png_of(0, 1, 0, b"\0\0"), "empty"),
        (png_of(2, 2, 0, b"\0\0\0"), "cut off"),
        (png_of(2, 1, 0, b"\7\0\0"), "damaged"),
    ],
)
def test_what_is_no_plain_png_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(UnreadablePicture, match=complaint):
        read_word(data)


@pytest.mark.parametrize(
    ("word", "scale", "margin"),
    [("", 1, 1), ("two words", 1, 1), ("é", 1, 1), ("x" * 65, 1, 1), ("x", 0, 1), ("x", 1, -1)],
)
def test_what_cannot_be_drawn_is_refused(word: str, scale: int, margin: int) -> None:
    with pytest.raises(ValueError, match=r"needed|at least"):
        render_png(word, scale, margin)
