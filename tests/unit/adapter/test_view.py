"""Stored messages as their protos."""

from datetime import UTC, datetime
from typing import Any

import pytest
from agno.media import Audio, File, Image, Video
from agno.models.message import Citations, DocumentCitation, Message, UrlCitation

from dragoman import ids, records
from dragoman.adapter import AgnoMessageView
from dragoman.adapter.media import INLINE_BELOW
from dragoman.adapter.messages import encode
from dragoman.v1 import message_pb2

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def row(message: Message, *, parent: bool = False) -> tuple[records.Message, dict[bytes, records.Media]]:
    encoded = encode(message)
    stored = records.Message(
        id=ids.new_id(),
        run_id=ids.new_id(),
        parent_run_id=ids.new_id() if parent else None,
        agent_name="Writer",
        role=message.role,
        provider="Anthropic",
        model="m",
        parts=encoded.parts,
        create_time=WHEN,
        media=tuple(medium.sha256 for medium in encoded.media),
        sequence=7,
    )
    return stored, {medium.sha256: medium for medium in encoded.media}


def show(message: Message) -> message_pb2.Message:
    return AgnoMessageView().show(row(message)[0], {})


def test_who_and_when() -> None:
    stored, _ = row(Message(role="assistant", content="Hi", reasoning_content="Hm"), parent=True)
    shown = AgnoMessageView().show(stored, {})
    assert (shown.id, shown.run_id, shown.parent_run_id) == tuple(
        str(identity) for identity in (stored.id, stored.run_id, stored.parent_run_id)
    )
    assert (shown.agent_name, shown.sequence, shown.provider, shown.model) == ("Writer", 7, "Anthropic", "m")
    assert shown.create_time.ToDatetime(UTC) == WHEN
    assert (shown.content, shown.reasoning, shown.session_id) == ("Hi", "Hm", "")
    assert not shown.HasField("usage")
    assert not shown.HasField("cost")


ROLES = [
    ("user", message_pb2.MESSAGE_ROLE_USER),
    ("assistant", message_pb2.MESSAGE_ROLE_ASSISTANT),
    ("tool", message_pb2.MESSAGE_ROLE_TOOL),
    ("oracle", message_pb2.MESSAGE_ROLE_UNSPECIFIED),
]


@pytest.mark.parametrize(("role", "expected"), ROLES)
def test_roles(role: str, expected: message_pb2.MessageRole.ValueType) -> None:
    assert show(Message(role=role)).role == expected


CONTENTS = [
    (None, ""),
    ("Hi", "Hi"),
    ([{"type": "text", "text": "one"}, {"type": "image"}, "two"], "one\ntwo"),
    ([], ""),
]


@pytest.mark.parametrize(("content", "expected"), CONTENTS)
def test_content(content: Any, expected: str) -> None:
    assert show(Message(role="user", content=content)).content == expected


ARGUMENTS = [
    ('{"a": [1, null], "b": {"c": true}}', {"a": [1, None], "b": {"c": True}}),
    ("", {}),
    ("{bro", {"value": "{bro"}),
]


@pytest.mark.parametrize(("raw", "expected"), ARGUMENTS)
def test_tool_calls(raw: str, expected: dict[str, Any]) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": raw}}
    (shown,) = show(Message(role="assistant", tool_calls=[call])).tool_calls
    assert (shown.id, shown.name) == ("t1", "f")
    wanted = message_pb2.ToolCall()
    wanted.arguments.update(expected)
    assert shown.arguments == wanted.arguments


@pytest.mark.parametrize(
    ("failed", "content"), [(False, "cannot open /etc/shadow"), (True, "the tool call failed")]
)
def test_tool_results_and_no_text_of_exceptions(failed: bool, content: str) -> None:
    text = "cannot open /etc/shadow"
    shown = show(Message(role="tool", tool_call_id="t1", tool_name="f", tool_call_error=failed, content=text))
    assert (shown.tool_call_id, shown.tool_name, shown.tool_failed) == ("t1", "f", failed)
    assert shown.content == content


def test_media_by_reference_and_inline() -> None:
    large = b"x" * INLINE_BELOW
    message = Message(
        role="assistant",
        images=[
            Image(content=b"small", mime_type="image/png"),
            Image(content=large, metadata={"name": "l.png"}),
        ],
        videos=[Video(url="https://example.org/v")],
        files=[File(content="text", filename="t.txt", mime_type="text/plain")],
        audio_output=Audio(content=b"sound", transcript="Hello"),
    )
    stored, media = row(message)
    shown = AgnoMessageView().show(stored, {}).media
    kinds = [message_pb2.MediaKind.Name(medium.kind).removeprefix("MEDIA_KIND_") for medium in shown]
    assert kinds == ["IMAGE", "IMAGE", "VIDEO", "FILE", "AUDIO"]
    assert [medium.data for medium in shown] == [b"small", b"", b"", b"text", b"sound"]
    assert [medium.size_bytes for medium in shown] == [5, INLINE_BELOW, 0, 4, 5]
    assert [medium.name for medium in shown] == ["", "l.png", "", "t.txt", ""]
    assert [medium.id for medium in shown if medium.size_bytes] == [medium.id for medium in media.values()]
    assert (shown[2].uri, shown[4].transcript) == ("https://example.org/v", "Hello")
    inline = AgnoMessageView().show(stored, media).media
    assert inline[1].data == large


def test_citations() -> None:
    citations = Citations(
        raw=[{"x": 1}],
        urls=[UrlCitation(url="https://example.org", title="Example")],
        documents=[DocumentCitation(document_title="Paper", cited_text="words", file_name="p.pdf")],
    )
    page, document = show(Message(role="assistant", content="x", citations=citations)).citations
    assert (page.url, page.title) == ("https://example.org", "Example")
    assert (document.title, document.cited_text, document.file_name) == ("Paper", "words", "p.pdf")
