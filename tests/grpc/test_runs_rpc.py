"""RunService over a real channel: what goes to the engine, what comes back, how runs are read and ended."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from support.fake_ports import NOW, OWNER, completed, delta
from support.served import Served, refusal

from dragoman import records
from dragoman.engine.ports import InputMedia, MediaKind
from dragoman.records import Owner, RunStatus, TokenUsage, Totals
from dragoman.transport import convert
from dragoman.v1 import event_pb2, message_pb2
from dragoman.v1 import run_service_pb2 as pb

RUN = pb.RunRequest(agent_name="plain", message="hi")


async def test_a_run_is_streamed_to_its_end(served: Served) -> None:
    events = [event async for event in served.runs.Run(RUN)]
    assert [event.WhichOneof("event") for event in events] == ["content_delta", "run_completed"]
    assert [event.sequence for event in events] == [1, 2]
    assert (served.engine.runs[0].opened, served.engine.runs[0].closed) == (1, 1)


async def test_the_draft_holds_what_was_sent_and_accepted(served: Served) -> None:
    session = served.store.add_session(agent_name="painter")
    inputs = Struct()
    inputs.update({"n": 1, "list": [True, None, "x", {"deep": 0.5}]})
    image = message_pb2.MEDIA_KIND_IMAGE
    request = pb.RunRequest(
        agent_name="painter",
        session_id=str(session.id).upper(),
        message="look",
        media=[message_pb2.MediaInput(kind=image, mime_type="image/PNG", name="a.png", data=b"img1")],
        inputs=inputs,
        metadata={"job": "17"},
    )
    await served.runs.Execute(request)
    draft = served.engine.runs[0].draft
    assert draft.owner == OWNER
    assert (draft.agent_name, draft.session, draft.message) == ("painter", session, "look")
    assert draft.media == (InputMedia(MediaKind.IMAGE, "image/PNG", "a.png", b"img1"),)
    sent = {"n": 1.0, "list": [True, None, "x", {"deep": 0.5}]}
    assert served.catalog.accepted_runs[0].inputs == sent
    assert draft.inputs == {**sent, "accepted": True}
    assert draft.metadata == {"job": "17"}
    assert draft.session_inputs == {}


async def test_a_new_session_gets_what_the_agent_makes_of_no_inputs(served: Served) -> None:
    await served.runs.Execute(RUN)
    draft = served.engine.runs[0].draft
    assert draft.session is None
    assert draft.session_inputs == {"accepted": True}


async def test_media_alone_are_a_message(served: Served) -> None:
    await served.runs.Execute(
        pb.RunRequest(agent_name="painter", media=[message_pb2.MediaInput(data=b"img")])
    )
    assert served.engine.runs[0].draft.media[0].kind is MediaKind.IMAGE


async def test_execute_answers_with_run_content_and_messages(served: Served) -> None:
    session = served.store.add_session()
    earlier = served.store.add_run(session)
    served.store.add_messages(earlier, "before")
    original = served.engine.start

    async def start(draft: object) -> object:
        live = await original(draft)  # type: ignore[arg-type]  # handed on as it came
        served.store.add_messages(live.run, *(f"message {n}" for n in range(450)))
        return live

    served.engine.start = start  # type: ignore[method-assign,assignment]  # a run that leaves messages
    answer = await served.runs.Execute(
        pb.RunRequest(agent_name="plain", message="hi", session_id=str(session.id))
    )
    live = served.engine.runs[0]
    assert answer.run.id == str(live.run_id)
    assert answer.run.status == pb.RUN_STATUS_COMPLETED
    assert answer.run.completed.content == answer.content == "hello"
    assert [message.content for message in answer.messages] == [f"message {n}" for n in range(450)]
    assert {message.session_id for message in answer.messages} == {str(session.id)}


OUTCOMES = [
    ("completed", completed("all of it"), pb.RUN_STATUS_COMPLETED, "all of it"),
    (
        "failed",
        event_pb2.RunEvent(run_failed=event_pb2.RunFailed(content="half")),
        pb.RUN_STATUS_FAILED,
        "half",
    ),
    (
        "cancelled",
        event_pb2.RunEvent(run_cancelled=event_pb2.RunCancelled(content="some", cancelled_by="local")),
        pb.RUN_STATUS_CANCELLED,
        "some",
    ),
    (
        "paused",
        event_pb2.RunEvent(run_paused=event_pb2.RunPaused(model_calls=2)),
        pb.RUN_STATUS_PAUSED,
        "a and b",
    ),
]


@pytest.mark.parametrize(
    ("outcome", "last", "status", "content"), OUTCOMES, ids=[case[0] for case in OUTCOMES]
)
async def test_every_end_of_a_run_is_an_answer(
    served: Served, outcome: str, last: event_pb2.RunEvent, status: pb.RunStatus.ValueType, content: str
) -> None:
    members = delta("a member's")
    members.member.agent_name = "helper"
    served.engine.script = (delta("a "), members, delta("and b"), last)
    answer = await served.runs.Execute(RUN)
    assert answer.run.WhichOneof("outcome") == outcome
    assert getattr(answer.run, outcome) == getattr(last, f"run_{outcome}")
    assert (answer.run.status, answer.content) == (status, content)


async def test_a_run_is_read_as_it_is_stored(served: Served) -> None:
    session = served.store.add_session()
    event = completed("done")
    event.sequence = 9
    stored = served.store.add_run(
        session,
        status=RunStatus.COMPLETED,
        metadata={"k": "v"},
        end_time=NOW + timedelta(seconds=2),
        last_sequence=9,
        totals=Totals(
            TokenUsage(input_tokens=7, output_tokens=5, cache_read_tokens=1),
            Decimal("0.1234567891234"),
            Decimal("-2.5"),
            "ZAR",
            3,
            1,
        ),
        last_event=event.SerializeToString(),
    )
    run = (await served.runs.GetRun(pb.GetRunRequest(run_id=str(stored.id)))).run
    assert (run.id, run.session_id, run.agent_name) == (str(stored.id), str(session.id), "plain")
    assert (run.model, run.provider, run.status) == ("scripted-1", "Scripted", pb.RUN_STATUS_COMPLETED)
    assert dict(run.metadata) == {"k": "v"}
    assert run.create_time.ToMicroseconds() == NOW.timestamp() * 1_000_000
    assert run.end_time.ToMicroseconds() - run.create_time.ToMicroseconds() == 2_000_000
    assert (run.last_sequence, run.model_calls, run.usage.total_tokens) == (9, 3, 13)
    assert (run.cost.exact_usd, run.cost.exact_amount) == ("0.123456789123", "-2.500000000000")
    assert (run.cost.amount.units, run.cost.amount.nanos) == (-2, -500_000_000)
    assert run.cost.unpriced_calls == 1
    assert run.completed == event.run_completed


async def test_a_run_under_way_has_no_end_outcome_or_cost(served: Served) -> None:
    stored = served.store.add_run(served.store.add_session())
    run = (await served.runs.GetRun(pb.GetRunRequest(run_id=str(stored.id)))).run
    assert run.status == pb.RUN_STATUS_RUNNING
    assert not run.HasField("end_time")
    assert not run.HasField("cost")
    assert run.WhichOneof("outcome") is None


async def test_a_run_stored_with_a_wrong_last_event_is_a_defect(served: Served) -> None:
    stored = served.store.add_run(
        served.store.add_session(), last_event=delta("x").SerializeToString(), status=RunStatus.FAILED
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.GetRun(pb.GetRunRequest(run_id=str(stored.id)))
    assert (await refusal(caught.value)).reason == "INTERNAL"


async def test_anothers_run_is_not_found(served: Served) -> None:
    session = served.store.add_session(owner=Owner("somebody"))
    stored = served.store.add_run(session, owner=Owner("somebody"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.GetRun(pb.GetRunRequest(run_id=str(stored.id)))
    assert (await refusal(caught.value)).reason == "RUN_NOT_FOUND"


async def test_runs_are_listed_in_pages_and_filtered(served: Served) -> None:
    session, other = served.store.add_session(), served.store.add_session()
    ids: list[UUID] = []
    for number in range(7):
        stored = served.store.add_run(session, create_time=NOW + timedelta(seconds=number // 2))
        ids.append(stored.id)
    served.store.add_run(other, agent_name="painter", status=RunStatus.PAUSED)
    served.store.add_run(session, owner=Owner("somebody"))

    listed: list[str] = []
    request = pb.ListRunsRequest(session_id=str(session.id), page_size=3)
    sizes: list[int] = []
    while True:
        page = await served.runs.ListRuns(request)
        listed += [run.id for run in page.runs]
        sizes.append(len(page.runs))
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sizes == [3, 3, 1]
    by_time = sorted(ids, key=lambda id_: (served.store.runs[id_].create_time, id_), reverse=True)
    assert listed == [str(id_) for id_ in by_time]

    paused = await served.runs.ListRuns(pb.ListRunsRequest(status=pb.RUN_STATUS_PAUSED))
    painted = await served.runs.ListRuns(pb.ListRunsRequest(agent_name="painter"))
    assert [run.agent_name for run in paused.runs] == ["painter"]
    assert list(painted.runs) == list(paused.runs)
    assert len((await served.runs.ListRuns(pb.ListRunsRequest())).runs) == 8


async def test_a_page_of_exactly_all_rows_is_the_last(served: Served) -> None:
    session = served.store.add_session()
    for _ in range(3):
        served.store.add_run(session)
    page = await served.runs.ListRuns(pb.ListRunsRequest(page_size=3))
    assert (len(page.runs), page.next_page_token) == (3, "")


async def test_cancel_asks_the_engine_and_returns_the_run(served: Served) -> None:
    stored = served.store.add_run(served.store.add_session())
    note = "n" * 255
    answer = await served.runs.CancelRun(pb.CancelRunRequest(run_id=str(stored.id), note=note))
    assert answer.run.id == str(stored.id)
    assert served.engine.cancelled == [(stored.id, "local", note)]


def test_every_status_of_a_stored_run_is_shown() -> None:
    assert set(convert.RUN_STATUS) == set(records.RunStatus)
    assert set(convert.STATUS_FILTER) == set(pb.RunStatus.values())
