"""A chat shows what an agent does, keeps its session, counts what it costs, and survives failures."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2
from support.cli_server import COST, RUN_ID, SESSION_ID, USAGE, conversation, error

from dragoman.cli.chat import Conversation
from dragoman.client import Dragoman
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2, session_service_pb2


def run_requests(services: Any) -> list[run_service_pb2.RunRequest]:
    return [each for each in services.requests if isinstance(each, run_service_pb2.RunRequest)]


def test_a_turn_shows_text_tools_tokens_and_cost(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("The weather is fine.")]
    result = dragoman("chat", "example", "--server", services.address, lines=["hello", "/quit", "unread"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "I think.",
        '  → weather(city="Paris", days=3)',
        "  ← weather: 17 degrees",
        "  ✗ sensor: the tool failed",
        "The weather is fine.",
        "1 model call · 1,200 in, 80 out · ZAR 0.028900",
        f"session {SESSION_ID}",
    ]


def test_the_session_goes_on_and_totals_add_up(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("one"), conversation("two"), conversation("three")]
    result = dragoman("chat", "example", "-s", services.address, lines=["a", "", "b", "/new", "c"])
    assert result.exit_code == 0
    sent = [(request.message, request.session_id) for request in run_requests(services)]
    assert sent == [("a", ""), ("b", SESSION_ID), ("c", "")]
    assert "2 turns · 2,560 tokens · ZAR 0.057800" in result.output
    assert "3 turns · 3,840 tokens · ZAR 0.086700" in result.output


def test_options_reach_the_server(services: Any, dragoman: Any, tmp_path: Path) -> None:
    picture = tmp_path / "word.png"
    picture.write_bytes(b"png")
    services.plays = [conversation("one"), conversation("two")]
    result = dragoman(
        *("chat", "vision", "--server", services.address, "--image", str(picture)),
        *("--input", "tone=formal", "--input", "topics=[1, true]", "--session-input", "language=German"),
        lines=["a", "b"],
    )
    assert result.exit_code == 0
    first, second = run_requests(services)
    assert [medium.name for medium in first.media] == ["word.png"]
    assert not second.media
    for request in (first, second):
        assert json_format.MessageToDict(request.inputs) == {"tone": "formal", "topics": [1, True]}
        assert request.session_id == SESSION_ID
    created = services.requests[0]
    assert isinstance(created, session_service_pb2.CreateSessionRequest)
    assert json_format.MessageToDict(created.inputs) == {"language": "German"}


def test_media_may_be_files_urls_and_ids(services: Any, dragoman: Any, tmp_path: Path) -> None:
    paper = tmp_path / "paper.pdf"
    paper.write_bytes(b"pdf")
    services.plays = [conversation("one")]
    uri, media_id = "HTTPS://images.test/cat.png?a=b", "ab" * 32
    result = dragoman(
        *("chat", "vision", "--server", services.address, "--image", uri, "--image", media_id),
        *("--media", str(paper), "--media", "http://a.test/film.mp4"),
        lines=["a"],
    )
    assert result.exit_code == 0
    assert list(run_requests(services)[0].media) == [
        message_pb2.MediaInput(uri=uri),
        message_pb2.MediaInput(media_id=media_id),
        message_pb2.MediaInput(name="paper.pdf", data=b"pdf"),
        message_pb2.MediaInput(uri="http://a.test/film.mp4"),
    ]


def test_a_given_session_is_gone_on_with(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("one")]
    dragoman("chat", "example", "-s", services.address, "--session", "abc", lines=["a"])
    assert run_requests(services)[0].session_id == "abc"


def failed(status: status_pb2.Status) -> list[event_pb2.RunEvent]:
    return [
        event_pb2.RunEvent(run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id=SESSION_ID)),
        event_pb2.RunEvent(
            run_failed=event_pb2.RunFailed(error=status, usage=USAGE, cost=COST, model_calls=1)
        ),
    ]


def test_failures_are_told_and_the_chat_goes_on(services: Any, dragoman: Any) -> None:
    services.plays = [
        error(code_pb2.INVALID_ARGUMENT, "not valid", "INVALID_INPUT", ("inputs.tone", "is unknown")),
        failed(error(code_pb2.UNAVAILABLE, "the model refused", "MODEL_UNAVAILABLE")),
        conversation("still here"),
    ]
    result = dragoman("chat", "example", "-s", services.address, lines=["a", "b", "c"])
    assert "error: not valid [INVALID_INPUT]\n  inputs.tone: is unknown" in result.stderr
    assert "failed: the model refused [MODEL_UNAVAILABLE]" in result.stdout
    assert "still here" in result.stdout
    assert "Traceback" not in result.output
    assert result.exit_code == 1  # what comes from a pipe is a program's business


def test_control_characters_are_shown_not_obeyed(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("\x1b]0;owned\x07 [bold]plain[/bold] text")]
    result = dragoman("chat", "example", "-s", services.address, lines=["a"])
    assert "\\x1b]0;owned\\x07 [bold]plain[/bold] text" in result.output
    assert "\x1b" not in result.output


def test_history(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("one")]
    services.messages = [
        message_pb2.Message(
            sequence=1,
            role=message_pb2.MESSAGE_ROLE_USER,
            content="look",
            media=[message_pb2.Media(id="ab" * 32, mime_type="image/png", size_bytes=400)],
        ),
        message_pb2.Message(
            sequence=2, role=message_pb2.MESSAGE_ROLE_ASSISTANT, content="fine", usage=USAGE, cost=COST
        ),
    ]
    result = dragoman("chat", "example", "-s", services.address, lines=["/history", "a", "/history"])
    assert result.exit_code == 0
    assert "nothing has been said yet" in result.output
    assert "1. user\n  look\n  [image/png abababababab, 400 bytes]\n2. assistant\n  fine\n" in result.output


def test_an_unknown_command_is_not_sent(services: Any, dragoman: Any) -> None:
    result = dragoman("chat", "example", "-s", services.address, lines=["/help"])
    assert "/history" in result.output
    assert not services.requests


def test_a_missing_picture(services: Any, dragoman: Any, tmp_path: Path) -> None:
    result = dragoman("chat", "vision", "-s", services.address, "--image", str(tmp_path / "no.png"))
    assert result.exit_code == 1
    assert "no.png: No such file" in result.stderr


async def test_leaving_a_turn_cancels_its_run(services: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What Ctrl-C does while an answer is written."""
    services.plays = [[*conversation("never finished")[:2], None]]
    async with Dragoman(services.address) as client:
        turn = asyncio.create_task(Conversation(client, "example").say("hello"))
        async with asyncio.timeout(60):
            while "I think." not in capsys.readouterr().out:
                await asyncio.sleep(0)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
    cancelled = services.requests[-1]
    assert isinstance(cancelled, run_service_pb2.CancelRunRequest)
    assert cancelled.run_id == RUN_ID
