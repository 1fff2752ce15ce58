"""The Python client of Dragoman: asynchronous, typed, with no dependency but gRPC.

    async with Dragoman("127.0.0.1:50051") as client:
        session = await client.create_session("example", inputs={"language": "en"})
        async with client.run("example", "hello", session=session) as run:
            async for event in run:
                if kind(event) == "content_delta":
                    print(event.content_delta.text, end="", flush=True)
        print(run.result)

What comes back are the messages of `dragoman.v1`. What goes wrong is a `DragomanError` with a stable reason. How a run
ends is its last event, never an exception, unless one asks for the text alone (`await run.text()`).
"""

from dragoman.client._client import Dragoman
from dragoman.client._errors import (
    DeadlineExceeded,
    DragomanError,
    InvalidInput,
    NotFound,
    RunFailed,
    Unavailable,
    Violation,
    from_status,
)
from dragoman.client._events import EventKind, RunResult, kind, result_of
from dragoman.client._media import image, media
from dragoman.client._requests import EventDetail, MessageOrder, RunState, UsageDimension
from dragoman.client._run import RunStream

__all__ = [
    "DeadlineExceeded",
    "Dragoman",
    "DragomanError",
    "EventDetail",
    "EventKind",
    "InvalidInput",
    "MessageOrder",
    "NotFound",
    "RunFailed",
    "RunResult",
    "RunState",
    "RunStream",
    "Unavailable",
    "UsageDimension",
    "Violation",
    "from_status",
    "image",
    "kind",
    "media",
    "result_of",
]
