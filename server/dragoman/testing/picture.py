"""A word as a picture, and the word that stands in a picture.

`render_png` writes a word of Latin letters into a PNG with the bitmap font of `_font`. `read_word` decodes a PNG's
pixels, takes the commonest brightness for the paper and what differs from it for ink, finds the size of the font's
squares by the distances between the ink's edges, and compares each letter's squares with the font's. It reads dark
on light and light on dark, at any whole scale and any place in the picture. A picture of anything else has no
word: None.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from dragoman.testing._font import GLYPHS, HEIGHT, PITCH, WIDTH
from dragoman.testing._png import UnreadablePicture, decode_grey, encode_grey

__all__ = ["UnreadablePicture", "read_word", "render_png"]

MAX_LETTERS = 64
"""Longer words are neither written nor read."""

_CONTRAST = 32
"""Steps of brightness (of 255) by which ink differs from paper at least."""

_LETTERS = {glyph: letter for letter, glyph in GLYPHS.items()}

Squares = list[str]
"""Rows of `#` (ink) and `.` (paper), one character per square of the font."""


def render_png(word: str, scale: int = 8, margin: int = 16, *, ink: int = 0, paper: int = 255) -> bytes:
    """A greyscale PNG of `word`: each square of the font `scale` pixels wide, `margin` pixels of paper around.

    `ink` and `paper` are brightnesses from 0 to 255. Raises ValueError for anything but 1 to 64 letters A-Z, a-z,
    a scale below 1, a negative margin, or ink that hardly differs from the paper.
    """
    if not 0 < len(word) <= MAX_LETTERS or not all(letter in GLYPHS for letter in word):
        raise ValueError(f"a word of 1 to {MAX_LETTERS} letters A-Z, a-z is needed, not {word!r}")
    if scale < 1 or margin < 0 or abs(ink - paper) < _CONTRAST:
        raise ValueError("scale must be at least 1, margin at least 0, and ink must differ from paper")
    dots = bytes.maketrans(b"#.", bytes((ink, paper)))
    side = bytes((paper,)) * margin
    rows: list[bytes] = []
    for squares in _set(word):
        pixels = "".join(square * scale for square in squares).encode().translate(dots)
        rows += [side + pixels + side] * scale
    blank = bytes((paper,)) * len(rows[0])
    return encode_grey([blank] * margin + rows + [blank] * margin)


def read_word(png: bytes) -> str | None:
    """The word that stands in the picture, or None when there is none.

    Raises UnreadablePicture when `png` is not a PNG with 8 bits per channel and no interlacing.
    """
    ink = _ink(decode_grey(png))
    for squares in _grids(ink):
        word = _match(squares)
        if word is not None:
            return word
    return None


def _set(word: str) -> Iterator[str]:
    """The rows of squares of the whole word, without the gap after the last letter."""
    gap = "." * (PITCH - WIDTH)
    for row in range(HEIGHT):
        yield gap.join(GLYPHS[letter][row] for letter in word)


def _ink(rows: Sequence[bytes]) -> Squares:
    """The smallest part of the picture that holds all ink, pixel by pixel; empty without any."""
    greys: Counter[int] = Counter()
    for row in rows:
        greys.update(row)
    paper = greys.most_common(1)[0][0]
    table = bytes(ord("#") if abs(grey - paper) >= _CONTRAST else ord(".") for grey in range(256))
    marks = [row.translate(table).decode() for row in rows]
    inked = [at for at, row in enumerate(marks) if "#" in row]
    if not inked:
        return []
    marks = marks[inked[0] : inked[-1] + 1]
    left = min(row.find("#") for row in marks if "#" in row)
    right = max(row.rfind("#") for row in marks) + 1
    return [row[left:right] for row in marks]


def _grids(ink: Squares) -> Iterator[Squares]:
    """The picture in squares, for every size of square with which all edges of the ink agree; largest first."""
    if not ink:
        return
    width, height = len(ink[0]), len(ink)
    common = math.gcd(width, height)
    for y in range(1, height):
        if ink[y] != ink[y - 1]:
            common = math.gcd(common, y)
    for row in set(ink):
        for x in range(1, width):
            if row[x] != row[x - 1]:
                common = math.gcd(common, x)
        if common == 1:
            break
    for size in range(common, 0, -1):
        if common % size == 0 and height // size <= HEIGHT and width // size < MAX_LETTERS * PITCH:
            yield [row[::size] for row in ink[::size]]


def _match(squares: Squares) -> str | None:
    """The word, when every letter's squares are those of a letter, all on one line."""
    width = len(squares[0])
    length = -(-width // PITCH)
    lines = [row.ljust(length * PITCH, ".") for row in squares]
    gaps = [at for at in range(length * PITCH) if at % PITCH >= WIDTH]
    if any(line[at] == "#" for line in lines for at in gaps):
        return None
    blank = "." * (length * PITCH)
    for top in range(HEIGHT - len(lines) + 1):
        page = [blank] * top + lines + [blank] * (HEIGHT - top - len(lines))
        cells = (tuple(row[at : at + WIDTH] for row in page) for at in range(0, length * PITCH, PITCH))
        letters = [_LETTERS.get(cell) for cell in cells]
        if all(letters):
            return "".join(letter for letter in letters if letter)
    return None
