"""The Python client of Dragoman: asynchronous, typed, with no dependency but gRPC.

    async with Dragoman("127.0.0.1:50051") as client:
        session = await client.create_session("example", inputs={"language": "en"})
        async with client.run("example", "hello", session=session) as run:
            async for event in run:
                if kind(event) == "content_delta":
                    print(event.content_delta.text, end="", flush=True)
        print(run.result)

A run survives its connection: when the stream breaks, the client takes it up again where it broke, from another server
if need be (`RetryPolicy`). A run that waits for somebody stops at `run.paused` and is gone on with by
`client.continue_run(run.run_id, [confirm(...)])`.

What comes back are the messages of `dragoman.v1`. What goes wrong is a `DragomanError` with a stable reason. How a run
ends is its last event, never an exception, unless one asks for the text alone (`await run.text()`).
"""

from dragoman.client._channel import Tls
from dragoman.client._client import Dragoman
from dragoman.client._errors import (
    DeadlineExceeded,
    DragomanError,
    EventsTrimmed,
    InvalidInput,
    NotFound,
    RunFailed,
    RunIsPaused,
    StreamLost,
    Unavailable,
    Violation,
    from_status,
)
from dragoman.client._events import EventKind, RunResult, kind, result_of
from dragoman.client._identity import TokenSource
from dragoman.client._media import image, linked_media, media, stored_media
from dragoman.client._requests import (
    DisconnectPolicy,
    EventDetail,
    MessageOrder,
    RunState,
    SessionConflict,
    UsageDimension,
)
from dragoman.client._resolutions import choose, confirm, give_result, provide_input, reject
from dragoman.client._retry import RetryPolicy
from dragoman.client._run import RunStream

__all__ = [
    "DeadlineExceeded",
    "DisconnectPolicy",
    "Dragoman",
    "DragomanError",
    "EventDetail",
    "EventKind",
    "EventsTrimmed",
    "InvalidInput",
    "MessageOrder",
    "NotFound",
    "RetryPolicy",
    "RunFailed",
    "RunIsPaused",
    "RunResult",
    "RunState",
    "RunStream",
    "SessionConflict",
    "StreamLost",
    "Tls",
    "TokenSource",
    "Unavailable",
    "UsageDimension",
    "Violation",
    "choose",
    "confirm",
    "from_status",
    "give_result",
    "image",
    "kind",
    "linked_media",
    "media",
    "provide_input",
    "reject",
    "result_of",
    "stored_media",
]
