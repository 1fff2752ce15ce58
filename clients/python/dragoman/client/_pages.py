"""Lists that come in pages, as one asynchronous iterator over their rows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Row = TypeVar("Row")


async def rows(fetch: Callable[[str], Awaitable[tuple[Iterable[Row], str]]]) -> AsyncIterator[Row]:
    """The rows of all pages. `fetch` gets a page token (empty: first page) and returns a page and the next token.

    A page is asked for when its first row is.
    """
    token = ""
    while True:
        page, token = await fetch(token)
        for row in page:
            yield row
        if not token:
            return
