"""HTTP clients: shared where they may be, bounded by our settings unless the author has his own, closed at the end."""

from collections.abc import AsyncIterator

import pytest
from agno.models.anthropic import Claude
from anthropic import AsyncAnthropic, Timeout
from support.bench import HAIKU

from dragoman.adapter.clients import Clients


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    made = Clients(timeout=30.0, retries=4)
    yield made
    await made.close()


def client_of(clients: Clients, model: Claude) -> AsyncAnthropic:
    return clients.of(model, model.get_async_client)


async def test_models_with_the_same_credentials_share_a_client(clients: Clients) -> None:
    first = client_of(clients, Claude(id=HAIKU, api_key="a"))
    assert client_of(clients, Claude(id="another-model", api_key="a", max_tokens=5)) is first
    assert client_of(clients, Claude(id=HAIKU, api_key="b")) is not first
    assert client_of(clients, Claude(id=HAIKU, api_key="a", default_headers={"x": "1"})) is not first
    assert len(clients) == 3


async def test_a_client_has_our_bounds(clients: Clients) -> None:
    client = client_of(clients, Claude(id=HAIKU, api_key="a"))
    assert client.max_retries == 4
    assert isinstance(client.timeout, Timeout)
    assert (client.timeout.read, client.timeout.connect) == (30.0, 5.0)


async def test_the_authors_settings_win(clients: Clients) -> None:
    model = Claude(id=HAIKU, api_key="a", timeout=7.0, client_params={"max_retries": 1})
    client = client_of(clients, model)
    assert (client.timeout, client.max_retries) == (7.0, 1)


async def test_a_client_that_the_author_made_keeps_its_settings_and_is_left_open(clients: Clients) -> None:
    own = AsyncAnthropic(api_key="a", max_retries=7, timeout=3.0)
    client = client_of(clients, Claude(id=HAIKU, async_client=own))
    assert (client.api_key, client.max_retries, client.timeout) == ("a", 7, 3.0)
    assert client._client is own._client, "its connections must be the author's"
    assert client_of(clients, Claude(id="another-model", async_client=own)) is client
    await clients.close()
    assert not own.is_closed()
    await own.close()


async def test_a_client_of_the_authors_own_class_is_used_as_it_is(clients: Clients) -> None:
    class Mine(AsyncAnthropic):
        def __init__(self, secret: str) -> None:
            super().__init__(api_key=secret)

    own = Mine("a")
    assert client_of(clients, Claude(id=HAIKU, async_client=own)) is own
    await clients.close()
    assert not own.is_closed()
    await own.close()


async def test_a_class_that_makes_its_own_client_keeps_it_within_our_bounds(clients: Clients) -> None:
    class Elsewhere(Claude):
        def get_async_client(self) -> AsyncAnthropic:
            if self.async_client is None:
                self.async_client = AsyncAnthropic(api_key="cloud", base_url="http://127.0.0.1:1")
            return self.async_client

    model = Elsewhere(id=HAIKU)
    client = client_of(clients, model)
    assert client is client_of(clients, model)
    assert (str(client.base_url), client.max_retries) == ("http://127.0.0.1:1", 4)
    await clients.close()
    assert model.async_client is not None
    assert model.async_client.is_closed()


async def test_closed_clients_are_made_anew(clients: Clients) -> None:
    model = Claude(id=HAIKU, api_key="a")
    first = client_of(clients, model)
    await clients.close()
    assert first.is_closed()
    assert not client_of(clients, model).is_closed()
