"""Asking an identity provider over HTTP: small JSON answers, in bounded time, from exactly the URL that was configured.

No redirect is followed, no proxy of the environment used, nothing decompressed, and no more than `MAX_ANSWER` bytes are read.
Whatever goes wrong is one thing to whoever asked: there was no answer (`Unanswered`).
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of the largest answer that is read. Key sets of large providers have a few ten thousand."""

CONNECTIONS: Final = 16
"""Connections to one provider at most; more questions wait for one of them, within their time."""


class Unanswered(Exception):
    """The provider gave no answer that can be used. The text is for the log, and has nothing of what was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and, where the body was JSON, its value."""

    status: int
    body: Any = None


class Asker:
    """Asks one provider. `timeout`: seconds for a whole answer; `ca_file`: PEM of the authorities that vouch for it; None: those
    that come with the HTTP library."""

    def __init__(self, *, timeout: float, ca_file: Path | None = None) -> None:
        """Raises OSError, ssl.SSLError for a file that cannot be read."""
        self._timeout = timeout
        self._client = httpx2.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout,
            verify=True if ca_file is None else ssl.create_default_context(cafile=str(ca_file)),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        body: object = None,
        auth: tuple[str, str] | None = None,
    ) -> Answer:
        """One question; the answer's body is read for 200 to 299 alone. Raises Unanswered."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._client.stream(
                    method, url, headers=dict(headers or {}), data=form, json=body, auth=auth
                ) as response,
            ):
                if not 200 <= response.status_code < 300:
                    return Answer(response.status_code)
                return Answer(response.status_code, _parsed(await _read(response)))
        except TimeoutError:
            raise Unanswered(f"no whole answer within {self._timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unanswered(f"no answer: {type(error).__name__}") from None


async def _read(response: httpx2.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Unanswered("the answer is compressed, which was not asked for")
    read = bytearray()
    async for part in response.aiter_raw():
        read += part
        if len(read) > MAX_ANSWER:
            raise Unanswered(f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(read)


def _parsed(data: bytes) -> Any:
    """The JSON value; None for an empty body. Raises Unanswered."""
    if not data.strip():
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unanswered("the answer is not JSON") from None
