"""A fake Messages API, and the option and the fixture for golden files."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragoman.testing.anthropic import FakeAnthropic

GOLDEN = Path(__file__).parents[2] / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden/ anew (run: pytest tests/unit/adapter)",
    )


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    """The Messages API, to be scripted."""
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
def golden_file(request: pytest.FixtureRequest) -> "GoldenFile":
    """Compares a text with a file of tests/golden, or writes that file."""
    return GoldenFile(update=bool(request.config.getoption("--update-golden", default=False)))


class GoldenFile:
    """What is expected, kept in files that people can read."""

    def __init__(self, *, update: bool) -> None:
        self._update = update

    def check(self, name: str, text: str) -> None:
        """The file `name` holds exactly `text`."""
        path = GOLDEN / name
        if self._update:
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest tests/unit/adapter --update-golden"
        assert text == path.read_text(encoding="utf-8"), "run with --update-golden if this is meant"
