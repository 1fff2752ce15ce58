"""A server of its own for every test: starting one takes two milliseconds."""

from collections.abc import AsyncIterator

import pytest
from support.served import Served, serve


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server with default settings over empty fakes."""
    async with serve() as made:
        yield made
