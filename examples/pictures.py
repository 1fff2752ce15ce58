"""The pictures that the examples are tried with. `python -m examples.pictures` makes them anew."""

from pathlib import Path

from dragoman.testing.picture import render_png

WORD = "Ozymandias"
OZYMANDIAS = Path(__file__).parent / "data" / "ozymandias.png"


def make() -> bytes:
    """The PNG in which the word stands."""
    return render_png(WORD)


if __name__ == "__main__":
    OZYMANDIAS.write_bytes(make())
