"""Just enough PNG: 8 bits per channel, not interlaced, any colour type; to and from rows of grey."""

import struct
import zlib
from collections.abc import Iterator, Sequence

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 4_000_000
"""Pictures with more are not decoded: this is a test double, and plain Python."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = _CHANNELS


class UnreadablePicture(ValueError):
    """Not a PNG of a kind that is understood here; the message says why."""


def encode_grey(rows: Sequence[bytes]) -> bytes:
    """A greyscale PNG of `rows`, one byte per pixel, all of the same length."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, _GREY, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def decode_grey(png: bytes) -> list[bytes]:
    """The picture's rows, one byte of brightness per pixel; what is transparent lies on white.

    Raises UnreadablePicture for anything but a whole PNG with 8 bits per channel and no interlacing.
    """
    if not png.startswith(SIGNATURE):
        raise UnreadablePicture("it is not a PNG")
    header, palette, transparency, packed = b"", b"", b"", b""
    for kind, data in _chunks(png):
        if kind == b"IHDR":
            header = data
        elif kind == b"PLTE":
            palette = data
        elif kind == b"tRNS":
            transparency = data
        elif kind == b"IDAT":
            packed += data
    if len(header) != 13:
        raise UnreadablePicture("the PNG has no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or interlaced or colour not in _CHANNELS:
        raise UnreadablePicture("the PNG is interlaced or has not 8 bits per channel")
    if not 0 < width * height <= MAX_PIXELS:
        raise UnreadablePicture("the PNG is empty or too large")
    size = width * _CHANNELS[colour]
    raw = _unpacked(packed, height * (size + 1))
    lines = _unfiltered(raw, size, _CHANNELS[colour])
    table = _palette_grey(palette, transparency) if colour == _PALETTE else b""
    return [_to_grey(line, colour, table) for line in lines]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if len(data) < length or zlib.crc32(kind + data) != int.from_bytes(
            png[at + 8 + length : at + 12 + length]
        ):
            raise UnreadablePicture("the PNG is damaged")
        yield kind, data
        if kind == b"IEND":
            return
        at += 12 + length
    raise UnreadablePicture("the PNG is cut off")


def _unpacked(packed: bytes, size: int) -> bytes:
    try:
        raw = zlib.decompressobj().decompress(packed, size)  # never more than the header promises
    except zlib.error as error:
        raise UnreadablePicture("the PNG is damaged") from error
    if len(raw) < size:
        raise UnreadablePicture("the PNG is cut off")
    return raw


def _unfiltered(raw: bytes, size: int, step: int) -> list[bytearray]:
    """The lines with PNG's prediction undone. `step` is the distance to the same channel of the pixel before."""
    lines: list[bytearray] = []
    above = bytearray(size)
    for at in range(0, len(raw), size + 1):
        line = bytearray(raw[at + 1 : at + 1 + size])
        match raw[at]:
            case 0:
                pass
            case 1:
                for x in range(step, size):
                    line[x] = (line[x] + line[x - step]) & 255
            case 2:
                for x in range(size):
                    line[x] = (line[x] + above[x]) & 255
            case 3:
                for x in range(size):
                    left = line[x - step] if x >= step else 0
                    line[x] = (line[x] + (left + above[x]) // 2) & 255
            case 4:
                for x in range(size):
                    left, corner = (line[x - step], above[x - step]) if x >= step else (0, 0)
                    line[x] = (line[x] + _paeth(left, above[x], corner)) & 255
            case _:
                raise UnreadablePicture("the PNG is damaged")
        lines.append(line)
        above = line
    return lines


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    by_left, by_above, by_corner = abs(guess - left), abs(guess - above), abs(guess - corner)
    if by_left <= by_above and by_left <= by_corner:
        return left
    return above if by_above <= by_corner else corner


def _to_grey(line: bytearray, colour: int, table: bytes) -> bytes:
    if colour == _GREY:
        return bytes(line)
    if colour == _PALETTE:
        return bytes(line).translate(table)
    if colour == _GREY_ALPHA:
        return bytes(_on_white(grey, alpha) for grey, alpha in zip(line[::2], line[1::2], strict=True))
    step = _CHANNELS[colour]
    greys = map(_brightness, line[0::step], line[1::step], line[2::step])
    if colour == _RGB:
        return bytes(greys)
    return bytes(map(_on_white, greys, line[3::step]))


def _palette_grey(palette: bytes, transparency: bytes) -> bytes:
    """The brightness of each of the 256 palette entries; those that are missing are white."""
    table = bytearray(b"\xff" * 256)
    for index in range(min(256, len(palette) // 3)):
        alpha = transparency[index] if index < len(transparency) else 255
        table[index] = _on_white(_brightness(*palette[3 * index : 3 * index + 3]), alpha)
    return bytes(table)


def _brightness(red: int, green: int, blue: int) -> int:
    return (299 * red + 587 * green + 114 * blue) // 1000


def _on_white(grey: int, alpha: int) -> int:
    return (grey * alpha + 255 * (255 - alpha)) // 255
