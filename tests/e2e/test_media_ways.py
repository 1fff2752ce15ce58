"""Media through the whole way: from a URL, by id, of every kind, and out of tools."""

import hashlib
import struct
from typing import Any

import grpc
import pytest
from agno.agent import Agent
from agno.media import File, Image
from agno.tools.function import ToolResult
from support.e2e import INSTRUCTIONS, ClaudeAgent, claude, kinds, reason_of, stubs
from support.media_host import MediaHost, answer, redirect

from dragoman.agents import BaseAgent, MediaKind
from dragoman.testing.anthropic import FakeAnthropic, Text, ToolUse, Turn
from dragoman.testing.picture import render_png
from dragoman.testing.scripted import ScriptedModel
from dragoman.testing.serving import serving
from dragoman.v1 import message_pb2, run_service_pb2, session_service_pb2

SMALL = render_png("SMALL")
LARGE = SMALL + bytes(
    40_000
)  # over the size from which media are kept apart; what follows a PNG's end is ignored
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n" + b"% filler\n" * 3000
WAV = (
    b"RIFF"
    + struct.pack("<I", 36 + 20_000)
    + b"WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    + b"data"
    + struct.pack("<I", 20_000)
    + bytes(20_000)
)
MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(20_000)


def identity(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_picture_from_a_url_is_seen_kept_and_sent_again_by_its_id() -> None:
    async with FakeAnthropic() as fake, MediaHost() as host:
        fake.script(Turn([Text("a sign")]), Turn([Text("the same sign")]))
        host.routes["/a"] = redirect("/sign.png?signature=secret")
        host.routes["/sign.png"] = answer(LARGE, "image/png")
        private = (f"127.0.0.1:{host.port}",)
        uri = f"http://127.0.0.1:{host.port}/a"
        agent = ClaudeAgent(claude(fake))
        async with serving(agent, media_private_hosts=private) as server, stubs(server.address) as client:
            one = message_pb2.MediaInput(uri=uri, name="sign.png")
            events = await client.run("assistant", "What is it?", media=[one])
            assert kinds(events)[-1] == "run_completed", events[-1]
            session_id = events[0].run_started.session_id
            request = session_service_pb2.ListMessagesRequest(session_id=session_id)
            asked = (await client.sessions.ListMessages(request)).messages[0]
            (kept,) = asked.media
            assert (kept.id, kept.name, kept.mime_type) == (identity(LARGE), "sign.png", "image/png")
            assert kept.size_bytes == len(LARGE)
            assert kept.uri == ""
            again = message_pb2.MediaInput(media_id=kept.id)
            events = await client.run("assistant", "And this?", media=[again])
            assert kinds(events)[-1] == "run_completed", events[-1]
    assert [request.images() for request in fake.requests] == [[LARGE], [LARGE]]
    assert len(host.heads) == 2


async def test_a_url_that_fails_leaves_nothing_behind() -> None:
    async with FakeAnthropic() as fake, MediaHost() as host:
        host.routes["/page"] = answer(b"<html>secret</html>", "image/png")
        private = (f"127.0.0.1:{host.port}",)
        agent = ClaudeAgent(claude(fake))
        async with serving(agent, media_private_hosts=private) as server, stubs(server.address) as client:
            for uri in (
                f"http://127.0.0.1:{host.port}/page",
                f"http://127.0.0.1:{host.port}/gone",
                "http://127.0.0.1/",
                "http://169.254.169.254/latest",
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.run("assistant", "x", media=[message_pb2.MediaInput(uri=uri)])
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                details = reason_of(caught.value)
                assert details["ErrorInfo"].reason == "INVALID_MEDIA"
                assert details["BadRequest"].field_violations[0].field == "media[0].uri"
                assert "secret" not in str(details)
            assert not (await client.runs.ListRuns(run_service_pb2.ListRunsRequest())).runs
            assert not (
                await client.sessions.ListSessions(session_service_pb2.ListSessionsRequest())
            ).sessions
    assert fake.requests == []


class Senses(BaseAgent):
    name = "senses"
    accepted_media = tuple(MediaKind)

    def __init__(self, model: ScriptedModel) -> None:
        self.model = model

    def build_agent(self) -> Agent:
        return Agent(model=self.model, telemetry=False)


async def test_pictures_documents_sounds_and_films_reach_a_model_that_takes_them() -> None:
    model = ScriptedModel(turns=[["seen"], ["seen again"]])
    async with serving(Senses(model)) as server, stubs(server.address) as client:
        media = [message_pb2.MediaInput(data=data) for data in (SMALL, PDF, WAV, MP4)]
        events = await client.run("senses", "What are these?", media=media)
        assert kinds(events)[-1] == "run_completed", events[-1]
        session_id = events[0].run_started.session_id
        events = await client.run("senses", "Again?", session_id=session_id)
        assert kinds(events)[-1] == "run_completed", events[-1]
    for request in model.requests:
        sent = next(message for message in request.messages if message.role == "user")
        given: list[Any] = [
            *(sent.images or ()),
            *(sent.files or ()),
            *(sent.audio or ()),
            *(sent.videos or ()),
        ]
        assert [medium.content for medium in given] == [SMALL, PDF, WAV, MP4]
        types = [medium.mime_type for medium in given]
        assert types == ["image/png", "application/pdf", "audio/wav", "video/mp4"]


def paint() -> ToolResult:
    """Paints a picture and writes a paper about it."""
    return ToolResult(
        content="painted",
        images=[Image(content=LARGE, mime_type="image/png")],
        files=[File(content=PDF, mime_type="application/pdf", filename="paper.pdf")],
    )


class Painter(ClaudeAgent):
    name = "painter"

    def build_agent(self) -> Agent:
        return Agent(model=self.model, tools=[paint], instructions=INSTRUCTIONS, telemetry=False)


async def test_what_tools_give_back_is_shown_by_its_hash_kept_and_seen_by_the_model_ever_after() -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn([ToolUse("t1", "paint")]), Turn([Text("There.")]), Turn([Text("Still there.")]))
        async with serving(Painter(claude(fake))) as server, stubs(server.address) as client:
            events = await client.run("painter", "Paint!")
            assert kinds(events)[-1] == "run_completed", events[-1]
            (called,) = [e.tool_call_completed for e in events if e.HasField("tool_call_completed")]
            shown = {medium.id: medium for medium in called.media}
            assert shown.keys() == {identity(LARGE), identity(PDF)}
            assert all(not medium.data for medium in shown.values())
            assert shown[identity(PDF)].name == "paper.pdf"
            session_id = events[0].run_started.session_id
            request = session_service_pb2.ListMessagesRequest(session_id=session_id, inline_media=True)
            messages = (await client.sessions.ListMessages(request)).messages
            kept = {medium.id: medium.data for message in messages for medium in message.media}
            assert kept == {identity(LARGE): LARGE, identity(PDF): PDF}
            again = message_pb2.MediaInput(media_id=identity(LARGE))
            events = await client.run("painter", "Look.", session_id=session_id, media=[again])
            assert kinds(events)[-1] == "run_completed", events[-1]
    assert [request.images() for request in fake.requests] == [[], [LARGE], [LARGE, LARGE]]
    before, after = (request.messages for request in fake.requests[1:])
    assert after[: len(before)] == before
