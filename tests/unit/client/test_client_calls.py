"""Each method of the client makes the call that it promises and reads the answer."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from dragoman.client import Dragoman, RetryPolicy, Unavailable, image, linked_media, media, stored_media
from dragoman.v1 import message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2


async def test_agents(services: Any) -> None:
    async with Dragoman(services.address, timeout=7) as client:
        assert [agent.name for agent in await client.list_agents()] == ["example", "toolbox"]
        assert (await client.get_agent("vision")).name == "vision"
    assert 5 < services.agents.remaining < 8


async def test_sessions(services: Any) -> None:
    async with Dragoman(services.address) as client:
        session = await client.create_session(
            "example", inputs={"language": "en", "topics": ["a", None, 1.5]}, title="T", metadata={"k": "v"}
        )
        assert json_format.MessageToDict(session.inputs) == {"language": "en", "topics": ["a", None, 1.5]}
        assert (session.agent_name, session.title, dict(session.metadata)) == ("example", "T", {"k": "v"})
        assert (await client.get_session("abc")).id == "abc"
        await client.delete_session(session)
        assert services.sessions.requests[-1].session_id == session.id


@pytest.mark.parametrize(
    ("changes", "mask"),
    [
        ({"title": "new"}, ["title"]),
        ({"title": ""}, ["title"]),
        ({"metadata": {}}, ["metadata"]),
        ({"title": "new", "metadata": {"a": "b"}}, ["title", "metadata"]),
    ],
)
async def test_update_names_what_is_given(services: Any, changes: dict[str, Any], mask: list[str]) -> None:
    async with Dragoman(services.address) as client:
        await client.update_session("abc", **changes)
    request = services.sessions.requests[-1]
    assert list(request.update_mask.paths) == mask
    assert request.title == changes.get("title", "")


async def test_lists_go_through_all_pages(services: Any) -> None:
    async with Dragoman(services.address) as client:
        found = [session.id async for session in client.list_sessions(agent="example", page_size=2)]
        assert found == ["0", "1", "2", "3", "4"]
        pages = [
            (request.agent_name, request.page_size, request.page_token)
            for request in services.sessions.requests
        ]
        assert pages == [("example", 2, ""), ("example", 2, "2"), ("example", 2, "4")]

        messages = client.list_messages(
            "abc", run="r", order="newest", include_members=True, inline_media=True
        )
        assert [message.content async for message in messages] == ["hello"]
        request = services.sessions.requests[-1]
        assert request == session_service_pb2.ListMessagesRequest(
            session_id="abc",
            run_id="r",
            order=session_service_pb2.MESSAGE_ORDER_NEWEST_FIRST,
            include_members=True,
            inline_media=True,
        )


async def test_a_list_left_early_asks_for_no_more(services: Any) -> None:
    async with Dragoman(services.address) as client:
        async for session in client.list_sessions():
            assert session.id == "0"
            break
    assert len(services.sessions.requests) == 1


async def test_runs(services: Any) -> None:
    async with Dragoman(services.address) as client:
        assert (await client.get_run("r")).id == "r"
        assert len([run async for run in client.list_runs(session="s", agent="a", status="failed")]) == 1
        assert services.runs.requests[-1] == run_service_pb2.ListRunsRequest(
            session_id="s", agent_name="a", status=run_service_pb2.RUN_STATUS_FAILED
        )
        cancelled = await client.cancel_run("r", note="enough")
        assert cancelled.status == run_service_pb2.RUN_STATUS_CANCELLED
        assert services.runs.requests[-1].note == "enough"


async def test_execute_has_no_deadline_and_takes_large_answers(services: Any) -> None:
    session = session_service_pb2.Session(id="s")
    async with Dragoman(services.address, timeout=5) as client:
        answer = await client.execute(
            "example", "hello", session=session, inputs={"n": 1}, metadata={"a": "b"}
        )
        assert (answer.run.session_id, len(answer.content)) == ("s", 8_000_000)
        unlimited = services.runs.remaining
        await client.execute("example", "hello", timeout=60)
        limited = services.runs.remaining
    assert unlimited is None
    assert 50 < limited < 61


async def test_usage(services: Any) -> None:
    start, end = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
    async with Dragoman(services.address) as client:
        groups = client.query_usage(
            ("day", "model"), start=start, end=end, agent="example", session="s", time_zone="Asia/Tokyo"
        )
        assert [group.agent_name async for group in groups] == ["example"]
        request = services.usage.requests[-1]
        assert list(request.group_by) == [
            usage_service_pb2.USAGE_DIMENSION_DAY,
            usage_service_pb2.USAGE_DIMENSION_MODEL,
        ]
        assert request.start_time.ToDatetime(UTC) == start
        assert request.end_time.ToDatetime(UTC) == end
        assert request.time_zone == "Asia/Tokyo"
        with pytest.raises(ValueError, match="time zone"):
            client.query_usage(start=datetime(2026, 1, 2))  # noqa: DTZ001


async def test_budgets(services: Any) -> None:
    async with Dragoman(services.address) as client:
        assert [budget.agent_name for budget in await client.get_budget(agent="example")] == ["example"]
        assert [budget.agent_name for budget in await client.get_budget()] == [""]


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, {1: "a"}])
async def test_inputs_that_are_not_json_are_refused_at_once(services: Any, value: object) -> None:
    async with Dragoman(services.address) as client:
        with pytest.raises(TypeError, match="inputs must be JSON"):
            client.run("example", "hello", inputs={"value": value})
    assert services.runs.calls == 0


QUICK = RetryPolicy(attempts=4, initial_backoff=0.01)


async def test_reads_are_repeated_while_the_server_is_unavailable(services: Any) -> None:
    services.agents.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    async with Dragoman(services.address, retry=QUICK) as client:
        assert len(await client.list_agents()) == 2
        assert services.agents.calls == 3

        services.agents.failures = [grpc.StatusCode.UNAVAILABLE] * 9
        with pytest.raises(Unavailable, match="not now"):
            await client.list_agents()
        assert services.agents.calls == 3 + 4


async def test_a_session_is_made_again_by_the_same_request(services: Any) -> None:
    services.sessions.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    async with Dragoman(services.address, retry=QUICK) as client:
        await client.create_session("example")
        await client.create_session("example", request_id="mine")
    first, second, third, own = services.sessions.requests
    assert first.request_id
    assert first == second == third
    assert own.request_id == "mine"


async def test_writes_without_a_request_id_are_not_repeated(services: Any) -> None:
    async with Dragoman(services.address, retry=QUICK) as client:
        for write in (client.update_session("abc", title="new"), client.delete_session("abc")):
            services.sessions.failures = [grpc.StatusCode.UNAVAILABLE]
            with pytest.raises(Unavailable):
                await write
    assert len(services.sessions.requests) == 2


async def test_nothing_is_repeated_when_it_is_switched_off(services: Any) -> None:
    services.sessions.failures = [grpc.StatusCode.UNAVAILABLE]
    services.runs.failure = grpc.StatusCode.UNAVAILABLE
    async with Dragoman(services.address, retry=None) as client:
        with pytest.raises(Unavailable):
            await client.create_session("example")
        with pytest.raises(Unavailable):
            await client.run("example", "hello").text()
    assert (len(services.sessions.requests), services.runs.calls) == (1, 1)


async def test_a_client_must_be_open(services: Any) -> None:
    client = Dragoman(services.address)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not open"):
            await client.list_agents()
        with pytest.raises(RuntimeError, match="not open"):
            client.run("example", "hello")
        async with client:
            assert await client.list_agents()
            with pytest.raises(RuntimeError, match="open already"):
                await client.__aenter__()


def test_media(tmp_path: Path) -> None:
    path = tmp_path / "word.png"
    path.write_bytes(b"png")
    assert image(path) == image(str(path))
    assert image(path) == message_pb2.MediaInput(
        kind=message_pb2.MEDIA_KIND_IMAGE, name="word.png", data=b"png"
    )
    assert media(b"pdf", mime_type="application/pdf", name="a.pdf") == message_pb2.MediaInput(
        mime_type="application/pdf", name="a.pdf", data=b"pdf"
    )
    with pytest.raises(FileNotFoundError):
        image(tmp_path / "missing.png")


def test_media_that_are_not_sent() -> None:
    shown = message_pb2.Media(id="ab" * 32, name="a.png", data=b"png")
    assert stored_media(shown) == message_pb2.MediaInput(media_id="ab" * 32, name="a.png")
    assert stored_media(shown, name="b") == message_pb2.MediaInput(media_id="ab" * 32, name="b")
    assert stored_media("cd" * 32) == message_pb2.MediaInput(media_id="cd" * 32)
    with pytest.raises(ValueError, match="has no id"):
        stored_media(message_pb2.Media(uri="https://a.test/"))
    assert linked_media("https://a.test/b", mime_type="image/png", name="b") == message_pb2.MediaInput(
        uri="https://a.test/b", mime_type="image/png", name="b"
    )
