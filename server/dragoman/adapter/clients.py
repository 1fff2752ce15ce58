"""HTTP clients of model providers: one for all model objects with the same credentials, closed when the server stops.

A client's connections belong to one event loop, and one that is dropped without being closed hangs its loop: so none
is made by, or left to, a model object.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from agno.models.anthropic import Claude
from agno.utils.models.claude import resolve_http_client
from anthropic import AsyncAnthropic, Timeout

CONNECT_TIMEOUT = 5.0


class Clients:
    """The clients that one runner uses. `timeout`: seconds of silence; `retries`: of a request that was refused."""

    def __init__(self, *, timeout: float, retries: int) -> None:
        self._timeout = Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._retries = retries
        self._clients: dict[Hashable, AsyncAnthropic] = {}
        self._own: dict[int, tuple[AsyncAnthropic, AsyncAnthropic]] = {}
        """By identity: a model's own client, held, and the same with our bounds."""

    def of(self, model: Claude, make: Callable[[], AsyncAnthropic]) -> AsyncAnthropic:
        """The model's client. `make` is the model's own way to get one."""
        if _makes_its_own(model):
            # Another cloud's client, with its own credentials: the model makes it, we bound it.
            own = make()
            return self._bounded(model, own)
        if model.async_client is not None and not model.async_client.is_closed():
            return model.async_client  # the author gave it one
        parameters = model._get_client_params()  # noqa: SLF001 - what Agno itself would make the client of
        http_client = resolve_http_client(model.http_client, is_async=True)
        if http_client is not None:
            parameters["http_client"] = http_client
        key = _key(parameters)
        client = self._clients.get(key)
        if client is None or client.is_closed():
            options: dict[str, Any] = {"timeout": self._timeout, "max_retries": self._retries, **parameters}
            client = self._clients[key] = AsyncAnthropic(**options)
        return client

    def _bounded(self, model: Claude, own: AsyncAnthropic) -> AsyncAnthropic:
        known = self._own.get(id(own))
        if known is None:
            given = model.client_params or {}
            bounded = own.with_options(
                timeout=own.timeout if model.timeout or "timeout" in given else self._timeout,
                max_retries=own.max_retries if "max_retries" in given else self._retries,
            )
            known = self._own[id(own)] = (own, bounded)
        return known[1]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._clients) + len(self._own)

    async def close(self) -> None:
        """Closes all."""
        clients = [*self._clients.values(), *(own for own, _ in self._own.values())]
        self._clients, self._own = {}, {}
        await asyncio.gather(*(client.close() for client in clients))


def _makes_its_own(model: Claude) -> bool:
    """Whether a class between the model's own and Agno's Claude has its own way to make a client."""
    for cls in type(model).__mro__:
        if cls is Claude:
            return False
        if "get_async_client" in vars(cls) and not cls.__module__.startswith("dragoman.adapter"):
            return True
    return False


def _key(value: Any) -> Hashable:
    """Something hashable that is equal for equal parameters; what has no value of its own is itself."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), _key(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_key(item) for item in value)
    if value is None or isinstance(value, str | int | float):
        return (type(value).__name__, value)
    return (type(value).__name__, id(value))
