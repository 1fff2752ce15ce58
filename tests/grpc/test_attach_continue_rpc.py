"""AttachRun and ContinueRun: what is followed from where, and what a paused run is told."""

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from support.fake_ports import FakeRun, completed, delta
from support.served import UNKNOWN, Served, refusal, serve

from dragoman import records
from dragoman.errors import Draining, EventsTrimmed, RunNotResumable, StorageUnavailable
from dragoman.records import Owner, RunStatus
from dragoman.v1 import event_pb2, run_service_pb2_grpc
from dragoman.v1 import run_service_pb2 as pb


def event(name: str) -> event_pb2.RunEvent:
    made = event_pb2.RunEvent()
    getattr(made, name).SetInParent()
    return made


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


async def sequences(call: Any) -> list[int]:
    return [event.sequence async for event in call]


SCRIPT = (event("run_queued"), event("run_started"), delta("a"), event("pre_hook_started"), completed("a"))


@pytest.mark.parametrize(
    ("after", "detail", "expected"),
    [
        (0, pb.EVENT_DETAIL_ALL, [1, 2, 3, 4, 5]),
        (0, pb.EVENT_DETAIL_CONTENT, [1, 2, 3, 5]),
        (2, pb.EVENT_DETAIL_UNSPECIFIED, [3, 5]),
        (4, pb.EVENT_DETAIL_ALL, [5]),
        (5, pb.EVENT_DETAIL_ALL, []),
        (2**63 - 1, pb.EVENT_DETAIL_ALL, []),
    ],
)
async def test_a_run_is_followed_from_any_event(
    served: Served, after: int, detail: pb.EventDetail.ValueType, expected: list[int]
) -> None:
    stored = served.store.add_run(served.store.add_session())
    served.engine.script = SCRIPT
    request = pb.AttachRunRequest(run_id=str(stored.id), after_sequence=after, detail=detail)
    assert await sequences(served.runs.AttachRun(request)) == expected
    run = served.engine.runs[0]
    assert (run.run_id, run.opened, run.closed, run.joined, run.left) == (stored.id, 1, 1, 1, [False])


async def test_a_stream_without_events_tells_its_request_id_too(served: Served) -> None:
    stored = served.store.add_run(served.store.add_session())
    request = pb.AttachRunRequest(run_id=str(stored.id), after_sequence=2)

    def attach() -> tuple[list[event_pb2.RunEvent], str | bytes | None]:
        # Not the client of asyncio: when the status comes at once it may forget the initial metadata.
        with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
            call: Any = run_service_pb2_grpc.RunServiceStub(channel).AttachRun(
                request, metadata=(("x-request-id", "mine"),), timeout=60
            )
            return list(call), dict(call.initial_metadata()).get("x-request-id")

    assert await asyncio.to_thread(attach) == ([], "mine")


ATTACH = [
    ("nothing", pb.AttachRunRequest(), "INVALID_INPUT", ["run_id"]),
    (
        "all that can be wrong",
        pb.AttachRunRequest(run_id="x", after_sequence=-1, detail=9),  # type: ignore[arg-type]  # of the future
        "INVALID_INPUT",
        ["run_id", "after_sequence", "detail"],
    ),
    ("unknown", pb.AttachRunRequest(run_id=UNKNOWN), "RUN_NOT_FOUND", []),
]


@pytest.mark.parametrize(
    ("request_", "reason", "fields"), [c[1:] for c in ATTACH], ids=[c[0] for c in ATTACH]
)
async def test_what_cannot_be_attached_to(
    served: Served, request_: pb.AttachRunRequest, reason: str, fields: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.AttachRun(request_))
    refused = await refusal(caught.value)
    assert (refused.reason, refused.fields) == (reason, fields)
    assert served.engine.runs == []


async def test_anothers_run_cannot_be_attached_to_or_continued(served: Served) -> None:
    stored = paused(served, owner=Owner("somebody"))
    calls = [
        served.runs.AttachRun(pb.AttachRunRequest(run_id=str(stored.id))),
        served.runs.ContinueRun(yes(stored)),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sequences(call)
        assert (await refusal(caught.value)).reason == "RUN_NOT_FOUND"


ENDS = [
    (Draining("r", 2), "UNAVAILABLE", {"run_id": "r", "last_sequence": "2"}),
    (EventsTrimmed("r", 17), "OUT_OF_RANGE", {"run_id": "r", "oldest_sequence": "17"}),
    (RunNotResumable("r"), "FAILED_PRECONDITION", {"run_id": "r"}),
    (StorageUnavailable(), "UNAVAILABLE", {}),
]


@pytest.mark.parametrize("before", [0, 2], ids=["at once", "later"])
@pytest.mark.parametrize(("error", "code", "metadata"), ENDS, ids=[case[0].reason for case in ENDS])
async def test_a_stream_that_breaks_says_how_to_go_on(
    served: Served, error: Any, code: str, metadata: dict[str, str], before: int
) -> None:
    stored = served.store.add_run(served.store.add_session())
    served.engine.script = (*(delta(str(n)) for n in range(before)), error)
    received: list[int] = []

    async def read() -> None:
        async for one in served.runs.AttachRun(pb.AttachRunRequest(run_id=str(stored.id))):
            received.append(one.sequence)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.metadata) == (code, error.reason, metadata)
    assert received == list(range(1, before + 1))
    assert served.engine.runs[0].left == [False]


CONFIRM = event_pb2.Requirement(id="c", confirmation=event_pb2.ConfirmationNeed())
TRIP = event_pb2.Requirement(
    id="u",
    user_input=event_pb2.UserInputNeed(
        schema=struct(
            type="object",
            properties={"city": {"type": "string"}, "days": {"type": "integer"}},
            required=["city"],
        )
    ),
)


def paused(served: Served, *requirements: event_pb2.Requirement, **fields: Any) -> records.Run:
    last = event_pb2.RunEvent(
        sequence=7, run_paused=event_pb2.RunPaused(requirements=requirements or (CONFIRM,))
    )
    return served.store.add_run(
        served.store.add_session(),
        **{
            "status": RunStatus.PAUSED,
            "last_sequence": 7,
            "last_event": last.SerializeToString(),
            **fields,
        },
    )


def yes(run: records.Run, **fields: Any) -> pb.ContinueRunRequest:
    resolution = pb.Resolution(requirement_id="c", confirmation=pb.Confirmation(confirmed=True))
    return pb.ContinueRunRequest(**{"run_id": str(run.id), "resolutions": [resolution], **fields})


async def test_a_paused_run_goes_on_where_it_stood(served: Served) -> None:
    stored = paused(served, CONFIRM, TRIP)
    served.engine.script = (event("run_continued"), delta("b"), event("pre_hook_started"), completed("ab"))
    resolutions = [
        pb.Resolution(requirement_id="u", user_input=pb.UserInput(values=struct(city="Lagos", days=3))),
        pb.Resolution(requirement_id="c", confirmation=pb.Confirmation(note="no, thanks")),
    ]
    request = yes(stored, resolutions=resolutions, request_id="q")
    assert await sequences(served.runs.ContinueRun(request, timeout=60)) == [8, 9, 11]
    (draft,) = served.engine.resumed
    assert (draft.owner, draft.run_id, draft.after_sequence) == (stored.owner, stored.id, 7)
    assert list(draft.resolutions) == resolutions
    assert draft.request is not None
    assert draft.request.id == "q"
    assert (draft.cancel_on_disconnect, draft.deadline) == (False, None)


async def test_a_continued_run_can_have_its_callers_deadline(served: Served) -> None:
    request = yes(paused(served), disconnect_policy=pb.DISCONNECT_POLICY_CANCEL)
    await sequences(served.runs.ContinueRun(request, timeout=60))
    (draft,) = served.engine.resumed
    assert draft.cancel_on_disconnect
    assert draft.deadline is not None
    assert 0 < draft.deadline < 60 * 1.02


async def test_a_continuation_that_is_asked_for_twice_is_followed_twice(served: Served) -> None:
    stored = paused(served)
    request = yes(stored, request_id="q")
    first = await sequences(served.runs.ContinueRun(request))
    assert served.store.runs[stored.id].status is RunStatus.RUNNING
    assert await sequences(served.runs.ContinueRun(request)) == first == [8, 9]
    # It has paused again, for something else: the answers of then would be wrong now.
    again = event_pb2.RunEvent(sequence=9, run_paused=event_pb2.RunPaused(requirements=[TRIP]))
    later = paused(served, last_sequence=9, last_event=again.SerializeToString(), id=stored.id)
    assert served.store.runs[stored.id] is later
    assert await sequences(served.runs.ContinueRun(request)) == first
    assert len(served.engine.resumed) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.ContinueRun(yes(stored, request_id="q", resolutions=[answer("u")])))
    assert (await refusal(caught.value)).reason == "REQUEST_ID_REUSED"


def answer(requirement_id: str) -> pb.Resolution:
    return pb.Resolution(requirement_id=requirement_id, user_input=pb.UserInput(values=struct(city="Lagos")))


@pytest.mark.parametrize(
    "status",
    [status for status in RunStatus if status is not RunStatus.PAUSED],
    ids=lambda status: str(status),
)
async def test_only_a_paused_run_can_be_continued(served: Served, status: RunStatus) -> None:
    stored = paused(served, status=status)
    for request_id in ("", "unknown"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sequences(served.runs.ContinueRun(yes(stored, request_id=request_id)))
        refused = await refusal(caught.value)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "RUN_NOT_PAUSED")
        assert refused.metadata == {"run_id": str(stored.id), "status": status.value}


async def test_of_two_who_continue_a_run_one_is_refused(served: Served) -> None:
    stored = paused(served)
    calls = [served.runs.ContinueRun(yes(stored, request_id=name)) for name in ("one", "two")]
    reasons: list[str] = []
    for call in calls:
        try:
            assert await sequences(call) == [8, 9]
        except grpc.aio.AioRpcError as error:
            reasons.append((await refusal(error)).reason)
    assert reasons == ["RUN_NOT_PAUSED"]
    assert len(served.engine.resumed) == 1


async def test_a_run_that_is_stored_paused_without_a_pause_is_a_defect(served: Served) -> None:
    stored = paused(served, last_event=completed("x").SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.ContinueRun(yes(stored)))
    assert (await refusal(caught.value)).reason == "INTERNAL"


async def test_the_shape_of_a_continuation_is_checked_before_the_run_is_looked_for(served: Served) -> None:
    request = pb.ContinueRunRequest(
        run_id="x",
        resolutions=[
            pb.Resolution(),
            pb.Resolution(requirement_id="a", confirmation=pb.Confirmation(note="n" * 4097)),
            pb.Resolution(
                requirement_id="b",
                external_execution=pb.ExternalExecution(result="€" * (1024 * 1024 // 3 + 1)),
            ),
            pb.Resolution(requirement_id="d", user_input=pb.UserInput(values=struct(a="x" * (1024 * 1024)))),
        ],
        detail=9,  # type: ignore[arg-type]  # of the future
        disconnect_policy=9,  # type: ignore[arg-type]
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.ContinueRun(request))
    assert (await refusal(caught.value)).fields == [
        "run_id",
        "resolutions[0].requirement_id",
        "resolutions[0].answer",
        "resolutions[1].confirmation.note",
        "resolutions[2].external_execution.result",
        "resolutions[3].user_input.values",
        "detail",
        "disconnect_policy",
    ]


@pytest.mark.parametrize("count", [0, 1001])
async def test_how_many_resolutions_there_may_be(served: Served, count: int) -> None:
    stored = paused(served)
    request = yes(stored, resolutions=[pb.Resolution()] * count)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.ContinueRun(request))
    assert (await refusal(caught.value)).fields == ["resolutions"]


async def test_answers_that_are_wrong_leave_the_run_paused(served: Served) -> None:
    stored = paused(served, CONFIRM, TRIP)
    wrong = pb.Resolution(requirement_id="u", user_input=pb.UserInput(values=struct(days=1.5)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(served.runs.ContinueRun(yes(stored, resolutions=[wrong])))
    refused = await refusal(caught.value)
    assert refused.fields == [
        "resolutions[0].user_input.values.city",
        "resolutions[0].user_input.values.days",
        "resolutions",
    ]
    assert served.engine.resumed == []
    assert served.store.runs[stored.id] is stored


@pytest.mark.parametrize("status", list(RunStatus), ids=lambda status: str(status))
async def test_every_status_can_be_asked_for(served: Served, status: RunStatus) -> None:
    stored = paused(served, status=status)
    number = pb.RunStatus.Value(f"RUN_STATUS_{status.name}")
    listed = await served.runs.ListRuns(pb.ListRunsRequest(status=number))
    assert [(run.id, run.status) for run in listed.runs] == [(str(stored.id), number)]


async def test_a_paused_run_tells_execute_all_that_it_has_written(served: Served) -> None:
    """Also when the request was made before and the run has been continued since."""
    pause = event_pb2.RunEvent(run_paused=event_pb2.RunPaused(requirements=[CONFIRM]))
    served.engine.script = (delta("one, "), event("run_paused"), event("run_continued"), delta("two"), pause)
    answer = await served.runs.Execute(pb.RunRequest(agent_name="plain", message="hi"))
    assert (answer.run.status, answer.content) == (pb.RUN_STATUS_PAUSED, "one, two")
    run: FakeRun = served.engine.runs[0]
    assert (run.opened, run.closed, run.joined, run.left) == (2, 2, 1, [False])
    assert UUID(answer.run.id) == run.run_id


async def test_several_servers_can_share_a_port() -> None:
    async with serve(share_port=True) as one, serve(share_port=True, port=one.port) as other:
        assert one.port == other.port
