"""A provider that fails is one run_failed with a sanitised reason; the text and usage until then are kept."""

import pytest
from google.rpc import error_details_pb2
from support.e2e import ClaudeAgent, claude, kinds, stubs, text_of

from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, HttpError, Turn
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2, session_service_pb2

SECRET = "sk-ant-secret at /home/somebody"

FAILURES: list[tuple[str, Turn | HttpError, str, str]] = [
    ("bad key", HttpError(401, message=SECRET), "AUTHENTICATION", ""),
    ("not allowed", HttpError(403, message=SECRET), "AUTHENTICATION", ""),
    ("bad request", HttpError(400, message=SECRET), "INVALID_REQUEST", ""),
    ("rate limit", HttpError(429, message=SECRET), "RATE_LIMITED", ""),
    ("server error", HttpError(500, message=SECRET), "SERVER_ERROR", ""),
    ("overloaded", HttpError(529, message=SECRET), "OVERLOADED", ""),
    (
        "overloaded in the middle",
        Turn("one two three", error_after=ErrorEvent(2, message=SECRET)),
        "OVERLOADED",
        "one two",
    ),
    ("dropped", Turn("one two three", drop_after=2), "CONNECTION", "one two"),
    ("dropped before the first word", Turn("one two three", drop_after=0), "CONNECTION", ""),
    ("hangs", Turn("one two three", hang_after=2), "TIMEOUT", "one two"),
    ("never answers", Turn("one", hang_before_first_byte=True), "TIMEOUT", ""),
]


def info(event: event_pb2.RunEvent) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    assert event.run_failed.error.details[0].Unpack(found)
    return found


@pytest.mark.parametrize(
    ("turn", "kind", "text"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
async def test_one_sanitised_failure(
    turn: Turn | HttpError, kind: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeAnthropic() as fake:
        fake.script(turn)
        agent = ClaudeAgent(claude(fake))
        async with (
            # Short where the time-out is what is tested; elsewhere a busy machine must not be taken for a silent provider.
            serving(agent, model_retries=0, model_timeout=2.0 if kind == "TIMEOUT" else 60.0) as server,
            stubs(server.address) as client,
        ):
            events = await client.run("assistant", "hello")
            ends = [name for name in kinds(events) if name.startswith("run_") and name != "run_started"]
            assert ends == ["run_failed"]
            found = info(events[-1])
            assert (found.reason, found.metadata["kind"]) == ("MODEL_UNAVAILABLE", kind)
            assert text_of(events).strip() == events[-1].run_failed.content.strip() == text
            assert SECRET.encode() not in events[-1].SerializeToString()
            # The session goes on, and the model sees what it had said.
            fake.script(Turn("Here I am again."))
            session_id = events[0].run_started.session_id
            again = await client.run("assistant", "still there?", session_id=session_id)
            assert kinds(again)[-1] == "run_completed"
            messages = fake.requests[-1].messages
            assert messages[-1]["role"] == "user"
            if text:
                assert text in str(messages)
            listed = await client.sessions.ListMessages(
                session_service_pb2.ListMessagesRequest(session_id=session_id)
            )
            assert [message.sequence for message in listed.messages] == list(
                range(1, len(listed.messages) + 1)
            )


@pytest.mark.parametrize("status", [429, 529, 500])
async def test_the_client_retries_what_is_worth_it_and_nobody_notices(status: int) -> None:
    async with FakeAnthropic() as fake:
        fake.script(HttpError(status, headers={"retry-after-ms": "1"}), Turn("second try"))
        async with (
            serving(ClaudeAgent(claude(fake)), model_retries=1) as server,
            stubs(server.address) as client,
        ):
            answer = await client.runs.Execute(
                run_service_pb2.RunRequest(agent_name="assistant", message="hello")
            )
    assert answer.content == "second try"
    assert answer.run.model_calls == 1
    assert answer.run.usage.input_tokens == fake.billed.input_tokens
