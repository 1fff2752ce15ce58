"""A running fake of the Messages API, and the real client that talks to it."""

from collections.abc import AsyncIterator

import anthropic
import pytest

from dragoman.testing.anthropic import FakeAnthropic


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as running:
        yield running


@pytest.fixture
async def client(fake: FakeAnthropic) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=fake.url, api_key="k", max_retries=0) as opened:
        yield opened
