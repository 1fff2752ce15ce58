"""SessionService over a real channel."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from support.fake_ports import NOW, OWNER, FakeView
from support.served import Served, refusal

from dragoman.errors import SessionBusy
from dragoman.records import Owner
from dragoman.v1 import session_service_pb2 as pb

MIB = 1024 * 1024


async def test_a_session_is_made_as_the_agent_accepts_it(served: Served) -> None:
    inputs = Struct()
    inputs.update({"topic": "tea", "cups": 3})
    made = await served.sessions.CreateSession(
        pb.CreateSessionRequest(
            agent_name="strict", inputs=inputs, title="Tea 🍵", metadata={"a": "b\u00a0c"}
        )
    )
    session = made.session
    stored = served.store.sessions[UUID(session.id)]
    assert UUID(session.id).version == 7
    assert (stored.owner, stored.agent_name, stored.title) == (OWNER, "strict", "Tea 🍵")
    assert stored.inputs == {"topic": "tea", "cups": 3.0, "accepted": True}
    assert stored.create_time == stored.update_time
    assert {key: session.inputs[key] for key in session.inputs} == stored.inputs
    assert dict(session.metadata) == stored.metadata == {"a": "b\u00a0c"}
    assert session.create_time.ToDatetime(stored.create_time.tzinfo) == stored.create_time
    got = await served.sessions.GetSession(pb.GetSessionRequest(session_id=session.id))
    assert got.session == session


async def test_a_session_shows_its_counts_and_its_active_run(served: Served) -> None:
    run_id = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    stored = served.store.add_session(message_count=4, run_count=2, active_run_id=run_id)
    got = (await served.sessions.GetSession(pb.GetSessionRequest(session_id=str(stored.id)))).session
    assert (got.message_count, got.run_count, got.active_run_id) == (4, 2, str(run_id))


async def test_only_what_the_mask_names_is_changed(served: Served) -> None:
    stored = served.store.add_session(title="old", metadata={"k": "old"})

    async def update(*paths: str, **fields: Any) -> pb.Session:
        request = pb.UpdateSessionRequest(
            session_id=str(stored.id), update_mask=FieldMask(paths=paths), **fields
        )
        return (await served.sessions.UpdateSession(request)).session

    session = await update("title", title="new", metadata={"k": "unmeant"})
    assert (session.title, dict(session.metadata)) == ("new", {"k": "old"})
    session = await update("metadata", title="unmeant")
    assert (session.title, dict(session.metadata)) == ("new", {})
    session = await update("title", "metadata", metadata={"a": "b"})
    assert (session.title, dict(session.metadata)) == ("", {"a": "b"})


async def test_a_session_is_deleted(served: Served) -> None:
    stored = served.store.add_session()
    await served.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=str(stored.id)))
    assert served.store.sessions == {}


async def test_a_busy_session_tells_the_run_that_holds_it(served: Served) -> None:
    stored = served.store.add_session()
    served.store.broken = SessionBusy(stored.id, "r1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.sessions.DeleteSession(pb.DeleteSessionRequest(session_id=str(stored.id)))
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "SESSION_BUSY")
    assert refused.metadata == {"session_id": str(stored.id), "run_id": "r1"}


async def test_sessions_are_listed_in_pages_the_last_updated_first(served: Served) -> None:
    stored = [served.store.add_session(update_time=NOW + timedelta(microseconds=n)) for n in range(5)]
    served.store.add_session(agent_name="painter")
    served.store.add_session(owner=Owner("somebody"))
    served.store.add_session(owner=Owner("local", "a user"))
    request = pb.ListSessionsRequest(agent_name="plain", page_size=2)
    pages: list[list[str]] = []
    while True:
        page = await served.sessions.ListSessions(request)
        pages.append([session.id for session in page.sessions])
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    newest = [str(session.id) for session in reversed(stored)]
    assert pages == [newest[:2], newest[2:4], newest[4:]]
    everything = await served.sessions.ListSessions(pb.ListSessionsRequest())
    assert len(everything.sessions) == 6


@pytest.mark.parametrize("newest", [False, True])
async def test_messages_are_listed_in_both_directions(served: Served, newest: bool) -> None:
    session = served.store.add_session()
    run = served.store.add_run(session)
    served.store.add_messages(run, *(f"m{n}" for n in range(5)))
    order = pb.MESSAGE_ORDER_NEWEST_FIRST if newest else pb.MESSAGE_ORDER_OLDEST_FIRST
    request = pb.ListMessagesRequest(session_id=str(session.id), order=order, page_size=2)
    read: list[str] = []
    for expected in (2, 2, 1):
        page = await served.sessions.ListMessages(request)
        assert len(page.messages) == expected
        read += [message.content for message in page.messages]
        request.page_token = page.next_page_token
    assert request.page_token == ""
    assert (
        read == sorted(read, reverse=newest) == [f"m{n}" for n in (range(4, -1, -1) if newest else range(5))]
    )


async def test_messages_of_one_run(served: Served) -> None:
    session = served.store.add_session()
    first, second = served.store.add_run(session), served.store.add_run(session)
    served.store.add_messages(first, "one")
    served.store.add_messages(second, "two")
    request = pb.ListMessagesRequest(session_id=str(session.id), run_id=str(second.id))
    page = await served.sessions.ListMessages(request)
    assert [(message.content, message.session_id) for message in page.messages] == [("two", str(session.id))]


async def test_media_come_by_id_or_inline(served: Served) -> None:
    session = served.store.add_session()
    run = served.store.add_run(session)
    here, gone = served.store.add_medium(b"img one"), b"\x00" * 32
    served.store.add_messages(run, "look", media=(here, gone))
    request = pb.ListMessagesRequest(session_id=str(session.id))
    shown = (await served.sessions.ListMessages(request)).messages[0].media
    assert [(medium.id, medium.data) for medium in shown] == [(here.hex(), b""), (gone.hex(), b"")]
    assert served.store.media_reads == 0
    request.inline_media = True
    shown = (await served.sessions.ListMessages(request)).messages[0].media
    assert [medium.data for medium in shown] == [b"img one", b""]


async def test_inline_media_stop_at_sixteen_mebibytes(served: Served) -> None:
    session = served.store.add_session()
    run = served.store.add_run(session)
    media = [served.store.add_medium(bytes([n]) * (5 * MIB)) for n in range(6)]
    for number, sha256 in enumerate(media):
        served.store.add_messages(run, f"m{number}", media=(sha256,))
    request = pb.ListMessagesRequest(session_id=str(session.id), inline_media=True)
    page = await served.sessions.ListMessages(request)
    assert [len(message.media[0].data) // MIB for message in page.messages] == [5, 5, 5, 0, 0, 0]
    assert page.ByteSize() < 16 * MIB
    assert served.store.media_reads == 4


async def test_a_medium_that_is_shown_twice_counts_twice(served: Served) -> None:
    session = served.store.add_session()
    run = served.store.add_run(session)
    sha256 = served.store.add_medium(b"x" * (6 * MIB))
    served.store.add_messages(run, "a", "b", "c", media=(sha256,))
    request = pb.ListMessagesRequest(session_id=str(session.id), inline_media=True)
    page = await served.sessions.ListMessages(request)
    assert [len(message.media[0].data) // MIB for message in page.messages] == [6, 6, 0]


async def test_a_page_of_large_messages_is_short_and_goes_on(served: Served) -> None:
    session = served.store.add_session()
    run = served.store.add_run(session)
    served.store.add_messages(run, *(str(n) * (6 * MIB) for n in range(5)), "z" * (20 * MIB), "end")
    request = pb.ListMessagesRequest(session_id=str(session.id))
    read: list[str] = []
    sizes: list[int] = []
    while True:
        page = await served.sessions.ListMessages(request)
        sizes.append(len(page.messages))
        read += [message.content[0] for message in page.messages]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sizes == [2, 2, 1, 1, 1]
    assert read == ["0", "1", "2", "3", "4", "z", "e"]


@pytest.mark.parametrize(("size", "threaded"), [(10, False), (300_000, True)])
async def test_large_messages_are_decoded_off_the_loop(
    served: Served, monkeypatch: pytest.MonkeyPatch, size: int, threaded: bool
) -> None:
    session = served.store.add_session()
    served.store.add_messages(served.store.add_run(session), "x" * size)
    seen: list[threading.Thread] = []
    show = FakeView.show

    def noting(self: FakeView, *args: Any) -> Any:
        seen.append(threading.current_thread())
        return show(self, *args)

    monkeypatch.setattr(FakeView, "show", noting)
    await served.sessions.ListMessages(pb.ListMessagesRequest(session_id=str(session.id)))
    assert [thread is not threading.main_thread() for thread in seen] == [threaded]
