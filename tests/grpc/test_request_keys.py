"""The same request is known by its id and digest, in whatever bytes it came; every other request is another one."""

import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st
from support.fake_ports import OWNER, completed, delta
from support.served import UNKNOWN, Served, refusal

from dragoman.errors import (
    AgentFailed,
    Draining,
    RequestIdReused,
    SessionBusy,
    SessionNotFound,
    StorageUnavailable,
    TooManyRuns,
)
from dragoman.records import Owner, RequestKey
from dragoman.transport.idempotency import THREAD_BYTES, Family, Repeatable, request_key
from dragoman.v1 import message_pb2, session_service_pb2
from dragoman.v1 import run_service_pb2 as pb

RUN = pb.RunRequest(agent_name="plain", message="hi", request_id="job 1")


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def full() -> pb.RunRequest:
    return pb.RunRequest(
        agent_name="plain",
        session_id=UNKNOWN,
        message="hi",
        media=[message_pb2.MediaInput(data=b"one"), message_pb2.MediaInput(data=b"two")],
        inputs=struct(a=1, b=[True, {"c": "d", "e": None}], f="g"),
        metadata={"k": "v", "l": "w", "m": "x"},
        detail=pb.EVENT_DETAIL_ALL,
        request_id="id",
        limits=pb.RunLimits(max_cost=Money(units=1), max_total_tokens=5),
        session_conflict=pb.SESSION_CONFLICT_QUEUE,
        disconnect_policy=pb.DISCONNECT_POLICY_CANCEL,
    )


async def key(
    request: Repeatable, family: Family = "run", owner: Owner = OWNER, request_id: str = "id"
) -> RequestKey:
    copy = type(request).FromString(request.SerializeToString())
    copy.request_id = request_id
    made = await request_key(family, copy, owner)
    assert made is not None
    return made


@given(st.randoms(use_true_random=False))
async def test_the_order_on_the_wire_makes_no_difference(rng: random.Random) -> None:
    request = full()
    pieces: list[bytes] = []
    for field, value in request.ListFields():
        if field.name == "metadata":
            pieces += [pb.RunRequest(metadata={k: v}).SerializeToString() for k, v in value.items()]
        elif field.name != "media":  # the order of what is repeated is part of the request
            pieces.append(pb.RunRequest(**{field.name: value}).SerializeToString())
    rng.shuffle(pieces)
    shuffled = pb.RunRequest.FromString(b"".join(pieces))
    shuffled.media.extend(request.media)
    names = [*request.inputs.fields]
    rng.shuffle(names)
    inputs = Struct()
    for name in names:
        inputs.fields[name].CopyFrom(request.inputs.fields[name])
    shuffled.inputs.CopyFrom(inputs)
    assert await key(shuffled) == await key(request)


async def test_how_much_is_sent_makes_no_difference() -> None:
    digests = set()
    for detail in pb.EventDetail.values():
        request = full()
        request.detail = detail
        digests.add((await key(request)).digest)
    assert len(digests) == 1
    assert (await key(full(), request_id="other")).digest in digests
    assert len(digests.pop()) == 32


def changed(change: Callable[[Any], object]) -> pb.RunRequest:
    request = full()
    change(request)
    return request


CHANGES: dict[str, Callable[[Any], object]] = {
    "agent_name": lambda request: setattr(request, "agent_name", "painter"),
    "session_id": lambda request: request.ClearField("session_id"),
    "message": lambda request: setattr(request, "message", "hi "),
    "media": lambda request: request.media.reverse(),
    "inputs": lambda request: request.inputs.update({"a": 1.5}),
    "metadata": lambda request: request.metadata.update({"k": "w"}),
    "limits": lambda request: setattr(request.limits, "max_total_tokens", 6),
    "session_conflict": lambda request: setattr(request, "session_conflict", pb.SESSION_CONFLICT_REJECT),
    "disconnect_policy": lambda request: request.ClearField("disconnect_policy"),
}


def test_all_that_counts_is_changed_below() -> None:
    assert {field.name for field in pb.RunRequest.DESCRIPTOR.fields} - {"detail", "request_id"} == set(
        CHANGES
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_everything_else_makes_another_request(change: Callable[[Any], object]) -> None:
    assert (await key(changed(change))).digest != (await key(full())).digest


async def test_a_field_of_a_newer_client_makes_another_request() -> None:
    newer = pb.RunRequest.FromString(full().SerializeToString() + b"\xfa\x3f\x01x")  # number 127, bytes
    assert (await key(newer)).digest != (await key(full())).digest


def texts() -> st.SearchStrategy[str]:
    return st.text(st.sampled_from("ab\0"), max_size=3)


@given(*[st.tuples(st.sampled_from(["run", "continue"]), texts(), texts(), texts())] * 2)
async def test_methods_owners_and_requests_never_run_into_each_other(
    one: tuple[Family, str, str, str], other: tuple[Family, str, str, str]
) -> None:
    keys = [
        await key(pb.RunRequest(message=message), family, Owner(principal, user))
        for family, principal, user, message in (one, other)
    ]
    assert (keys[0] == keys[1]) == (one == other)


async def test_a_large_request_has_the_digest_of_its_bytes_too() -> None:
    large = pb.RunRequest(message="x" * THREAD_BYTES)
    again = pb.RunRequest(message="x" * THREAD_BYTES, detail=pb.EVENT_DETAIL_ALL)
    other = pb.RunRequest(message="x" * (THREAD_BYTES + 1))
    assert await key(large) == await key(again)
    assert await key(large) != await key(other)


async def test_without_an_id_there_is_no_key() -> None:
    assert await request_key("run", pb.RunRequest(message="hi"), OWNER) is None
    assert await request_key("run", pb.RunRequest(request_id="é"), OWNER) is None


async def run_id_of(served: Served, request: pb.RunRequest, method: str) -> str:
    """Makes the request and tells which of the engine's runs was followed."""
    before = [run.joined for run in served.engine.runs]
    if method == "Execute":
        await served.runs.Execute(request)
    else:
        _ = [event async for event in served.runs.Run(request)]
    joined = [run.joined for run in served.engine.runs]
    followed = [n for n, count in enumerate(joined) if count > (before[n] if n < len(before) else 0)]
    assert len(followed) == 1
    return str(served.engine.runs[followed[0]].run_id)


@pytest.mark.parametrize("methods", [("Run", "Run"), ("Run", "Execute"), ("Execute", "Run")])
async def test_the_same_request_follows_the_same_run(served: Served, methods: tuple[str, str]) -> None:
    first = await run_id_of(served, RUN, methods[0])
    again = pb.RunRequest()
    again.CopyFrom(RUN)
    again.detail = pb.EVENT_DETAIL_CONTENT
    assert await run_id_of(served, again, methods[1]) == first
    assert len(served.engine.runs) == 1
    assert (served.engine.runs[0].joined, served.engine.runs[0].left) == (2, [False, False])


async def test_requests_without_an_id_are_all_different(served: Served) -> None:
    request = pb.RunRequest(agent_name="plain", message="hi")
    assert await run_id_of(served, request, "Run") != await run_id_of(served, request, "Run")
    assert [run.draft.request for run in served.engine.runs] == [None, None]


async def test_another_request_with_the_same_id_is_refused(served: Served) -> None:
    await served.runs.Execute(RUN)
    for message in ("other", " "):  # one that would be started, and one that would not
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.runs.Execute(pb.RunRequest(agent_name="plain", message=message, request_id="job 1"))
        refused = await refusal(caught.value)
        assert (refused.code, refused.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert refused.metadata == {"request_id": "job 1"}


async def test_a_retry_is_served_though_it_would_be_refused_by_now(served: Served) -> None:
    session = served.store.add_session()
    request = pb.RunRequest(agent_name="plain", message="hi", session_id=str(session.id), request_id="job 1")
    first = await run_id_of(served, request, "Run")
    for refusal_ in (SessionBusy(session.id, first), TooManyRuns(3), AgentFailed("plain")):
        served.engine.refusal = refusal_
        assert await run_id_of(served, request, "Run") == first
        assert await run_id_of(served, request, "Execute") == first
    served.engine.refusal = None
    del served.store.sessions[session.id]
    assert await run_id_of(served, request, "Run") == first


@pytest.mark.parametrize(
    "error", [Draining(), StorageUnavailable(), RequestIdReused("job 1")], ids=lambda error: str(error.reason)
)
async def test_what_says_nothing_of_the_request_is_not_looked_behind(served: Served, error: Any) -> None:
    await served.runs.Execute(RUN)
    served.engine.refusal = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(RUN)
    assert (await refusal(caught.value)).reason == error.reason
    assert served.engine.found == []


async def test_a_first_request_that_is_refused_stays_refused(served: Served) -> None:
    served.engine.refusal = SessionBusy("s", "r")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(RUN)
    assert (await refusal(caught.value)).reason == "SESSION_BUSY"
    assert [key.id for key in served.engine.found] == ["job 1"]
    assert served.engine.runs == []


BAD_IDS = ["x" * 129, "tab\t", "new\nline", "é", "\x7f", "🜁"]


@pytest.mark.parametrize("request_id", BAD_IDS, ids=["long", "tab", "line", "letter", "delete", "symbol"])
async def test_what_cannot_be_a_request_id(served: Served, request_id: str) -> None:
    continued = pb.ContinueRunRequest(
        run_id=UNKNOWN,
        request_id=request_id,
        resolutions=[pb.Resolution(requirement_id="a", confirmation=pb.Confirmation())],
    )
    create = session_service_pb2.CreateSessionRequest(agent_name="plain", request_id=request_id)
    calls: list[Callable[[], Any]] = [
        lambda: served.runs.Execute(pb.RunRequest(agent_name="plain", message="hi", request_id=request_id)),
        lambda: anext(aiter(served.runs.ContinueRun(continued))),
        lambda: served.sessions.CreateSession(create),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        refused = await refusal(caught.value)
        assert (refused.reason, refused.fields) == ("INVALID_INPUT", ["request_id"])
    assert served.engine.found == []
    assert served.store.sessions == {}


@pytest.mark.parametrize("request_id", ["x" * 128, " ", "~!\"'{}"], ids=["long", "space", "signs"])
async def test_what_can_be_a_request_id(served: Served, request_id: str) -> None:
    await served.runs.Execute(pb.RunRequest(agent_name="plain", message="hi", request_id=request_id))
    made = served.engine.runs[0].draft.request
    assert made is not None
    assert made.id == request_id


CREATE = session_service_pb2.CreateSessionRequest(
    agent_name="strict", inputs=struct(topic="tea"), title="Tea", request_id="make 1"
)


async def test_a_session_is_made_once_per_request(served: Served) -> None:
    first = (await served.sessions.CreateSession(CREATE)).session
    again = (await served.sessions.CreateSession(CREATE)).session
    assert again == first
    assert len(served.store.sessions) == 1
    other = session_service_pb2.CreateSessionRequest(agent_name="plain", request_id="make 1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.sessions.CreateSession(other)
    assert (await refusal(caught.value)).reason == "REQUEST_ID_REUSED"


async def test_a_session_is_found_though_its_agent_would_refuse_it_by_now(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await served.sessions.CreateSession(CREATE)).session

    async def refuse(*_: object) -> Any:
        raise AgentFailed("strict")

    monkeypatch.setattr(served.catalog, "accept_session", refuse)
    assert (await served.sessions.CreateSession(CREATE)).session == first
    unknown = session_service_pb2.CreateSessionRequest(agent_name="strict", request_id="make 2")
    reused = session_service_pb2.CreateSessionRequest(agent_name="plain", request_id="make 1")
    for request, reason in ((unknown, "AGENT_FAILED"), (reused, "REQUEST_ID_REUSED")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.sessions.CreateSession(request)
        assert (await refusal(caught.value)).reason == reason


async def test_a_session_that_was_made_and_deleted_is_not_made_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await served.sessions.CreateSession(CREATE)).session
    served.store.sessions.clear()

    async def refuse(*_: object) -> Any:
        raise SessionNotFound(first.id)

    monkeypatch.setattr(served.store, "create_session", refuse)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.sessions.CreateSession(CREATE)
    assert (await refusal(caught.value)).reason == "SESSION_NOT_FOUND"


async def test_a_request_that_comes_twice_at_once_makes_one_run(served: Served) -> None:
    served.engine.script = (delta("a"), completed("a"))
    calls = [aiter(served.runs.Run(RUN)) for _ in range(10)]
    for call in calls:
        assert [event.sequence async for event in call] == [1, 2]
    assert len(served.engine.runs) == 1
