"""What a caller can get wrong: every case is a typed error with its paths, and nothing reaches engine or store."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from support.served import UNKNOWN, Served, refusal, serve

from dragoman.v1 import (
    agent_service_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)

MIB = 1024 * 1024


def run(**fields: Any) -> run_service_pb2.RunRequest:
    return run_service_pb2.RunRequest(**{"agent_name": "painter", "message": "hi", **fields})


def medium(**fields: Any) -> message_pb2.MediaInput:
    return message_pb2.MediaInput(**{"data": b"img", "mime_type": "image/png", **fields})


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def nested(levels: int) -> Struct:
    value = Value(string_value="deep")
    for _ in range(levels - 1):
        value = Value(list_value=ListValue(values=[value]))
    return Struct(fields={"a": value})


def session(**fields: Any) -> session_service_pb2.CreateSessionRequest:
    return session_service_pb2.CreateSessionRequest(**{"agent_name": "plain", **fields})


def update(*paths: str, **fields: Any) -> session_service_pb2.UpdateSessionRequest:
    mask = FieldMask(paths=paths)
    return session_service_pb2.UpdateSessionRequest(**{"session_id": UNKNOWN, "update_mask": mask, **fields})


def usage(**fields: Any) -> usage_service_pb2.QueryUsageRequest:
    return usage_service_pb2.QueryUsageRequest(**fields)


INPUT, MEDIA, LARGE, TOKEN = "INVALID_INPUT", "INVALID_MEDIA", "MEDIA_TOO_LARGE", "PAGE_TOKEN_INVALID"
Case = tuple[str, Any, str, list[str]]

RUNS: list[Case] = [
    ("no agent", run(agent_name=""), INPUT, ["agent_name"]),
    ("session is no UUID", run(session_id="7"), INPUT, ["session_id"]),
    ("session in braces", run(session_id="{" + UNKNOWN + "}"), INPUT, ["session_id"]),
    ("no message", run(message=""), INPUT, ["message"]),
    ("blank message", run(message=" \n\t"), INPUT, ["message"]),
    ("long message", run(message="x" * (MIB + 1)), INPUT, ["message"]),
    ("long message of few characters", run(message="€" * (MIB // 3 + 1)), INPUT, ["message"]),
    ("many media", run(media=[medium()] * 21), INPUT, ["media"]),
    ("no source", run(media=[message_pb2.MediaInput(mime_type="image/png")]), INPUT, ["media[0].source"]),
    ("empty medium", run(media=[medium(data=b"")]), MEDIA, ["media[0].data"]),
    ("large medium", run(media=[medium(), medium(data=b"img" * 2000)]), LARGE, ["media[1].data"]),
    ("long name", run(media=[medium(name="n" * 256)]), INPUT, ["media[0].name"]),
    ("name with a newline", run(media=[medium(name="a\nb")]), INPUT, ["media[0].name"]),
    ("no MIME type", run(media=[medium(mime_type="png")]), MEDIA, ["media[0].mime_type"]),
    (
        "kind against MIME type",
        run(media=[medium(kind=message_pb2.MEDIA_KIND_IMAGE, mime_type="audio/wav")]),
        MEDIA,
        ["media[0].mime_type"],
    ),
    ("kind of the future", run(media=[medium(kind=99)]), INPUT, ["media[0].kind"]),
    ("bad bytes", run(media=[medium(), medium(data=b"bad")]), MEDIA, ["media[1].data"]),
    (
        "kind the agent does not take",
        run(media=[medium(kind=message_pb2.MEDIA_KIND_VIDEO, mime_type="video/mp4")]),
        INPUT,
        ["media[0].kind"],
    ),
    ("the bytes are of such a kind", run(media=[medium(data=b"%PDF", mime_type="")]), INPUT, ["media[0]"]),
    ("agent of text only", run(agent_name="plain", media=[medium()]), INPUT, ["media[0]"]),
    ("not a number", run(inputs=struct(a=[1.0, float("nan")])), INPUT, ["inputs.a[1]"]),
    ("infinity", run(inputs=struct(**{"a b": {"c": float("-inf")}})), INPUT, ['inputs["a b"].c']),
    ("no value", run(inputs=Struct(fields={"a": Value()})), INPUT, ["inputs.a"]),
    ("deep inputs", run(inputs=nested(33)), INPUT, ["inputs.a" + "[0]" * 31]),
    ("many labels", run(metadata={f"k{n}": "" for n in range(33)}), INPUT, ["metadata"]),
    ("label without a key", run(metadata={"": "v"}), INPUT, ['metadata[""]']),
    ("long key", run(metadata={"k" * 65: "v"}), INPUT, ["metadata." + "k" * 65]),
    ("long value", run(metadata={"k": "v" * 513}), INPUT, ["metadata.k"]),
    ("key with NUL", run(metadata={"a\x00b": "v"}), INPUT, ['metadata["a\\u0000b"]']),
    ("value with a control character", run(metadata={"k": "a\x1bb"}), INPUT, ["metadata.k"]),
    ("detail of the future", run(detail=99), INPUT, ["detail"]),
    (
        "agent's own rules",
        run(agent_name="strict", session_id="OWN", inputs=struct(a=1)),
        INPUT,
        ["inputs.a"],
    ),
    ("session needs inputs", run(agent_name="strict"), INPUT, ["session_id"]),
    (
        "all at once, of several kinds",
        run(agent_name="", session_id="x", message="", media=[medium(data=b"", name="n" * 256)], detail=9),
        INPUT,
        ["agent_name", "session_id", "media[0].name", "media[0].data", "detail"],
    ),
]


@pytest.mark.parametrize(
    ("request_", "reason", "fields"), [case[1:] for case in RUNS], ids=[c[0] for c in RUNS]
)
async def test_run_requests(request_: run_service_pb2.RunRequest, reason: str, fields: list[str]) -> None:
    async with serve(max_media_bytes=4096) as served:
        if request_.session_id == "OWN":
            own = served.store.add_session(agent_name="strict")
            request_ = run(agent_name="strict", session_id=str(own.id), inputs=request_.inputs)
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await anext(aiter(served.runs.Run(request_)))
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await served.runs.Execute(request_)
        for error in (streamed.value, unary.value):
            refused = await refusal(error)
            assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", reason)
            assert refused.fields == fields
        assert served.engine.runs == []


MISSING: list[Case] = [
    ("unknown agent", run(agent_name="nobody"), "AGENT_NOT_FOUND", ["agent_name", "nobody"]),
    ("unknown session", run(session_id=UNKNOWN), "SESSION_NOT_FOUND", ["session_id", UNKNOWN]),
]


@pytest.mark.parametrize(
    ("request_", "reason", "told"), [c[1:] for c in MISSING], ids=[c[0] for c in MISSING]
)
async def test_what_a_run_names_must_exist(
    served: Served, request_: run_service_pb2.RunRequest, reason: str, told: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(request_)
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason) == ("NOT_FOUND", reason)
    assert refused.metadata == {told[0]: told[1]}
    assert served.engine.runs == []


async def test_another_agents_session_is_not_found(served: Served) -> None:
    own = served.store.add_session(agent_name="plain")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(run(agent_name="painter", session_id=str(own.id)))
    assert (await refusal(caught.value)).reason == "SESSION_NOT_FOUND"
    assert served.engine.runs == []


async def test_a_session_that_needs_inputs_says_what_to_call(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(run(agent_name="strict"))
    message = (await refusal(caught.value)).message
    assert "CreateSession" in message
    assert "inputs.topic: Field required" in message


Method = Callable[[Served], Any]
AGENT = attrgetter("agents.GetAgent")
CREATE = attrgetter("sessions.CreateSession")
GET = attrgetter("sessions.GetSession")
LIST = attrgetter("sessions.ListSessions")
UPDATE = attrgetter("sessions.UpdateSession")
DELETE = attrgetter("sessions.DeleteSession")
MESSAGES = attrgetter("sessions.ListMessages")
GET_RUN = attrgetter("runs.GetRun")
LIST_RUNS = attrgetter("runs.ListRuns")
CANCEL = attrgetter("runs.CancelRun")
USAGE = attrgetter("usage.QueryUsage")

FUTURE: dict[str, Any] = {"order": {"order": 9}, "status": {"status": 9}}
"""Enum values that a newer client may send."""

S, R = session_service_pb2, run_service_pb2
BAD, GONE = "INVALID_ARGUMENT", "NOT_FOUND"
OTHERS: list[tuple[str, Method, Any, str, str, list[str]]] = [
    ("agent unnamed", AGENT, agent_service_pb2.GetAgentRequest(), BAD, INPUT, ["name"]),
    ("agent unknown", AGENT, agent_service_pb2.GetAgentRequest(name="x"), GONE, "AGENT_NOT_FOUND", []),
    ("create: no agent", CREATE, session(agent_name=""), BAD, INPUT, ["agent_name"]),
    ("create: unknown agent", CREATE, session(agent_name="x"), GONE, "AGENT_NOT_FOUND", []),
    ("create: long title", CREATE, session(title="t" * 256), BAD, INPUT, ["title"]),
    ("create: title with NUL", CREATE, session(title="a\x00"), BAD, INPUT, ["title"]),
    ("create: labels", CREATE, session(metadata={"k": "v" * 513}), BAD, INPUT, ["metadata.k"]),
    ("create: inputs", CREATE, session(inputs=struct(n=float("inf"))), BAD, INPUT, ["inputs.n"]),
    ("create: agent's rules", CREATE, session(agent_name="strict"), BAD, INPUT, ["inputs.topic"]),
    ("get: no id", GET, S.GetSessionRequest(), BAD, INPUT, ["session_id"]),
    ("get: no UUID", GET, S.GetSessionRequest(session_id="x"), BAD, INPUT, ["session_id"]),
    ("get: unknown", GET, S.GetSessionRequest(session_id=UNKNOWN), GONE, "SESSION_NOT_FOUND", []),
    ("list: negative size", LIST, S.ListSessionsRequest(page_size=-1), BAD, INPUT, ["page_size"]),
    ("list: large size", LIST, S.ListSessionsRequest(page_size=201), BAD, INPUT, ["page_size"]),
    ("list: garbage token", LIST, S.ListSessionsRequest(page_token="?"), BAD, TOKEN, ["page_token"]),
    ("list: no name", LIST, S.ListSessionsRequest(agent_name="x" * 129), BAD, INPUT, ["agent_name"]),
    ("list runs: no name", LIST_RUNS, R.ListRunsRequest(agent_name="a b"), BAD, INPUT, ["agent_name"]),
    (
        "usage: no name",
        USAGE,
        usage_service_pb2.QueryUsageRequest(agent_name="\U0001f600" * 100),
        BAD,
        INPUT,
        ["agent_name"],
    ),
    (
        "list: size and token",
        LIST,
        S.ListSessionsRequest(page_size=-1, page_token="AAAA"),
        BAD,
        INPUT,
        ["page_size", "page_token"],
    ),
    ("update: no id", UPDATE, update("title", session_id=""), BAD, INPUT, ["session_id"]),
    ("update: no mask", UPDATE, update(), BAD, INPUT, ["update_mask"]),
    ("update: unknown path", UPDATE, update("title", "id"), BAD, INPUT, ["update_mask.paths[1]"]),
    ("update: long title", UPDATE, update("title", title="t" * 256), BAD, INPUT, ["title"]),
    ("update: labels", UPDATE, update("metadata", metadata={"": ""}), BAD, INPUT, ['metadata[""]']),
    (
        "update: unknown, and the title is not meant",
        UPDATE,
        update("metadata", title="t" * 256),
        GONE,
        "SESSION_NOT_FOUND",
        [],
    ),
    ("delete: no id", DELETE, S.DeleteSessionRequest(), BAD, INPUT, ["session_id"]),
    ("delete: unknown", DELETE, S.DeleteSessionRequest(session_id=UNKNOWN), GONE, "SESSION_NOT_FOUND", []),
    (
        "messages: everything",
        MESSAGES,
        S.ListMessagesRequest(session_id="a", run_id="b", **FUTURE["order"], page_size=999, page_token="c"),
        BAD,
        INPUT,
        ["session_id", "run_id", "order", "page_size", "page_token"],
    ),
    (
        "messages: unknown",
        MESSAGES,
        S.ListMessagesRequest(session_id=UNKNOWN),
        GONE,
        "SESSION_NOT_FOUND",
        [],
    ),
    ("run: no id", GET_RUN, R.GetRunRequest(), BAD, INPUT, ["run_id"]),
    ("run: unknown", GET_RUN, R.GetRunRequest(run_id=UNKNOWN), GONE, "RUN_NOT_FOUND", []),
    (
        "runs: everything",
        LIST_RUNS,
        R.ListRunsRequest(session_id="a", **FUTURE["status"], page_size=-1),
        BAD,
        INPUT,
        ["session_id", "status", "page_size"],
    ),
    ("runs: unknown", LIST_RUNS, R.ListRunsRequest(session_id=UNKNOWN), GONE, "SESSION_NOT_FOUND", []),
    ("cancel: unknown", CANCEL, R.CancelRunRequest(run_id=UNKNOWN), GONE, "RUN_NOT_FOUND", []),
    ("cancel: long note", CANCEL, R.CancelRunRequest(run_id=UNKNOWN, note="n" * 256), BAD, INPUT, ["note"]),
    ("usage: unspecified", USAGE, usage(group_by=[0]), BAD, INPUT, ["group_by[0]"]),
    ("usage: repeated", USAGE, usage(group_by=[1, 2, 1]), BAD, INPUT, ["group_by[2]"]),
    ("usage: of the future", USAGE, usage(group_by=[99]), BAD, INPUT, ["group_by[0]"]),
    ("usage: session", USAGE, usage(session_id="x"), BAD, INPUT, ["session_id"]),
    ("usage: size", USAGE, usage(page_size=1001), BAD, INPUT, ["page_size"]),
    (
        "usage: end at the start",
        USAGE,
        usage(start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=5)),
        BAD,
        INPUT,
        ["end_time"],
    ),
    (
        "usage: impossible times",
        USAGE,
        usage(start_time=Timestamp(seconds=2**60), end_time=Timestamp(seconds=1, nanos=-1)),
        BAD,
        INPUT,
        ["start_time", "end_time"],
    ),
]


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason", "fields"), [c[1:] for c in OTHERS], ids=[c[0] for c in OTHERS]
)
async def test_other_requests(
    served: Served, method: Method, request_: Any, code: str, reason: str, fields: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(served)(request_)
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.fields) == (code, reason, fields)
    assert served.store.sessions == {}
    assert served.engine.cancelled == []


async def test_the_deepest_inputs_that_are_allowed(served: Served) -> None:
    await served.runs.Execute(run(inputs=nested(32)))
    assert len(served.engine.runs) == 1


async def test_a_message_may_hold_any_character(served: Served) -> None:
    text = "NUL \x00, a bell \x07, \u202e and 🜁\r\n"
    await served.runs.Execute(run(message=text))
    assert served.engine.runs[0].draft.message == text


async def test_violations_that_do_not_fit_are_counted(served: Served) -> None:
    request = run(inputs=struct(**{f"key_{n}": float("nan") for n in range(500)}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(request)
    refused = await refusal(caught.value)
    assert sum(detail.ByteSize() for detail in refused.details) <= 4096
    assert refused.fields
    assert len(refused.fields) + int(refused.metadata["omitted_violations"]) == 500
