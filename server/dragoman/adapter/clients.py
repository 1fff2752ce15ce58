"""HTTP clients of model providers: one for all model objects with the same credentials, closed when the server stops.

A client's connections belong to one event loop, and one that is dropped without being closed hangs its loop: so none
is made by, or left to, a model object.

A client tries again, by itself, when a provider refuses or cannot be reached. `ATTEMPTS` sees each of these requests
go out, and tells the call that it belongs to. Of a run that has been stopped it lets none out.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from contextvars import Context
from typing import Any, Final

from agno.models.anthropic import Claude
from agno.utils.models.claude import resolve_http_client
from anthropic import (
    Anthropic,
    APIRequest,
    APIResponse,
    AsyncAnthropic,
    AsyncAPIResponse,
    AsyncCallNext,
    CallNext,
    Middleware,
    Timeout,
)

from dragoman.adapter.call import under_way
from dragoman.adapter.calls import RunEnded

CONNECT_TIMEOUT = 5.0


class _Attempts(Middleware):
    """Runs once for each HTTP request that a client makes, in the context of the call that it is made for."""

    def handle(self, request: APIRequest, call_next: CallNext) -> APIResponse[Any]:
        _note(request)
        return call_next(request)

    async def handle_async(self, request: APIRequest, call_next: AsyncCallNext) -> AsyncAPIResponse[Any]:
        _note(request)
        # A connection that is opened now outlives the run, and with it whatever it is opened in the context of: in ours, all
        # of the run's messages. A cancel reaches the request as before.
        return await asyncio.create_task(_send(request, call_next), name="model-request", context=Context())


async def _send(request: APIRequest, call_next: AsyncCallNext) -> AsyncAPIResponse[Any]:
    return await call_next(request)


ATTEMPTS: Final = _Attempts()
"""Counts the requests of the call under way, and raises RunEnded instead of one that comes after the run's end."""


class Clients:
    """The clients that one runner uses. `timeout`: seconds of silence; `retries`: of a request that was refused."""

    def __init__(self, *, timeout: float, retries: int) -> None:
        self._timeout = Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._retries = retries
        self._clients: dict[Hashable, AsyncAnthropic] = {}
        self._own: dict[int, tuple[AsyncAnthropic, AsyncAnthropic]] = {}
        """By identity: a model's own client, held, and the same with our bounds."""
        self._given: dict[int, tuple[AsyncAnthropic, AsyncAnthropic]] = {}
        """Likewise clients that an author made, and the same with their attempts counted. They are his to close."""

    def of(self, model: Claude, make: Callable[[], AsyncAnthropic]) -> AsyncAnthropic:
        """The model's client. `make` is the model's own way to get one."""
        if _makes_its_own(model):
            # Another cloud's client, with its own credentials: the model makes it, we bound it.
            own = make()
            return self._bounded(model, own)
        if model.async_client is not None and not model.async_client.is_closed():
            return self._counted(model.async_client)  # the author gave it one
        parameters = model._get_client_params()  # noqa: SLF001 - what Agno itself would make the client of
        http_client = resolve_http_client(model.http_client, is_async=True)
        if http_client is not None:
            parameters["http_client"] = http_client
        key = _key(parameters)
        client = self._clients.get(key)
        if client is None or client.is_closed():
            options: dict[str, Any] = {"timeout": self._timeout, "max_retries": self._retries, **parameters}
            options["middleware"] = [*(options.get("middleware") or ()), ATTEMPTS]
            client = self._clients[key] = AsyncAnthropic(**options)
        return client

    def _bounded(self, model: Claude, own: AsyncAnthropic) -> AsyncAnthropic:
        known = self._own.get(id(own))
        if known is None:
            given = model.client_params or {}
            bounded = own.with_options(
                timeout=own.timeout if model.timeout or "timeout" in given else self._timeout,
                max_retries=own.max_retries if "max_retries" in given else self._retries,
                middleware=[*own.middleware, ATTEMPTS],
            )
            known = self._own[id(own)] = (own, bounded)
        return known[1]

    def _counted(self, given: AsyncAnthropic) -> AsyncAnthropic:
        """The author's client, with its settings and connections; one of a class of his own is left alone."""
        if not _is_anthropics(given):
            return given
        known = self._given.get(id(given))
        if known is None:
            known = self._given[id(given)] = (given, given.with_middleware(ATTEMPTS))
        return known[1]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._clients) + len(self._own)

    async def close(self) -> None:
        """Closes all."""
        clients = [*self._clients.values(), *(own for own, _ in self._own.values())]
        self._clients, self._own, self._given = {}, {}, {}
        await asyncio.gather(*(client.close() for client in clients))


def counted(client: Anthropic) -> Anthropic:
    """A client for callers in a thread, with its attempts counted. It shares the connections of the one given."""
    if not _is_anthropics(client):
        return client
    return client.with_middleware(ATTEMPTS)


def _is_anthropics(client: object) -> bool:
    """Whether it is of a class that is known to make another of itself; one of an author's own may need more for that."""
    return type(client).__module__.partition(".")[0] == "anthropic"


def _note(request: APIRequest) -> None:
    call = under_way.get()
    if call is None:
        return
    if call.barred:
        raise RunEnded()
    if request.url.partition("?")[0].endswith("/messages"):
        call.attempt = request.retries_taken + 1


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
