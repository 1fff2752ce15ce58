"""Runs that wait for a person: paused, continued (after restarts, too), billed once, and never in the way of the history."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from agno.agent import Agent, RunOutput
from agno.tools import tool
from support.e2e import claude

from dragoman.agents import BaseAgent
from dragoman.client import (
    Dragoman,
    DragomanError,
    RunStream,
    confirm,
    give_result,
    kind,
    provide_input,
    reject,
)
from dragoman.testing.anthropic import FakeAnthropic, Text, Thinking, ToolUse, Turn, Usage
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2

USAGE = Usage(input_tokens=101, output_tokens=67, cache_read_input_tokens=11)
INSTRUCTIONS = "Be careful."


@tool(requires_confirmation=True)
def delete(path: str) -> str:
    """Deletes a file."""
    return f"deleted {path}"


@tool(requires_user_input=True, user_input_fields=["to", "copies"])
def send(subject: str, to: str, copies: int) -> str:
    """Sends a letter."""
    return f"sent {subject!r} to {to}, {copies!r} copies"


@tool(external_execution=True)
def shell(command: str) -> str:
    """Is executed by the caller."""
    raise AssertionError("never here")


def look(what: str) -> str:
    """Looks at something."""
    return f"saw {what}"


TOOLS: list[Any] = [delete, send, shell, look]


class Careful(BaseAgent):
    """Asks before it acts."""

    name = "careful"
    description = "Asks before it acts."
    history_runs = None

    def __init__(self, fake: FakeAnthropic) -> None:
        self.model = claude(fake)

    def build_agent(self) -> Agent:
        return Agent(model=self.model, tools=TOOLS, instructions=INSTRUCTIONS)


DELETE = ToolUse("t1", "delete", {"path": "/x"})
SEND = ToolUse("t2", "send", {"subject": "hi", "to": "", "copies": 0})
SHELL = ToolUse("t3", "shell", {"command": "ls"})
LOOK = ToolUse("t4", "look", {"what": "the sea"})


def resolve(requirement: event_pb2.Requirement) -> run_service_pb2.Resolution:
    """An answer to whatever is asked."""
    match requirement.WhichOneof("need"):
        case "confirmation":
            return confirm(requirement)
        case "user_input":
            return provide_input(requirement, {"to": "Bob", "copies": 2})
        case _:
            return give_result(requirement, "a.txt")


@asynccontextmanager
async def client(fake: FakeAnthropic, database_url: str) -> AsyncIterator[Dragoman]:
    """A server of its own each time; what it knows of earlier ones is in the database."""
    async with (
        serving(Careful(fake), database_url=database_url) as server,
        Dragoman(server.address) as made,
    ):
        yield made


async def paused(run: RunStream) -> Sequence[event_pb2.Requirement]:
    """Reads until it is paused, and returns what it waits for."""
    async for _ in run:
        pass
    assert run.paused is not None, run.result
    return run.paused.requirements


def bodies(fake: FakeAnthropic) -> list[Any]:
    return [request.json["messages"] for request in fake.requests]


async def assert_bill(fake: FakeAnthropic, run: run_service_pb2.Run, server: Dragoman) -> None:
    """Run and ledger have what the API billed, once."""
    billed = fake.billed
    assert run.usage.input_tokens == billed.input_tokens
    assert run.usage.output_tokens == billed.output_tokens
    assert run.usage.cache_read_tokens == billed.cache_read_tokens
    rows = [row async for row in server.query_usage()]
    assert sum(row.usage.input_tokens for row in rows) == billed.input_tokens
    assert sum(row.usage.output_tokens for row in rows) == billed.output_tokens
    assert sum(row.model_calls for row in rows) == run.model_calls == len(fake.requests)


async def test_several_requirements_at_once_and_a_restart_in_between(database_url: str) -> None:
    async with FakeAnthropic() as fake:
        fake.script(
            Turn([Thinking("Hm", signature="s1"), Text("I ask. "), DELETE, SEND, SHELL, LOOK], usage=USAGE),
            Turn("Done.", usage=USAGE),
            Turn("Gladly.", usage=USAGE),
        )
        async with client(fake, database_url) as first:
            run = first.run("careful", "Go.")
            requirements = await paused(run)
            assert [requirement.WhichOneof("need") for requirement in requirements] == [
                "confirmation",
                "user_input",
                "external_execution",
            ]
            with pytest.raises(DragomanError) as busy:
                await first.run("careful", "Meanwhile?", session=run.session_id).text()
            assert busy.value.reason == "SESSION_BUSY"
            last = run.last_sequence
        async with client(fake, database_url) as second:
            going_on = second.continue_run(run.run_id, [resolve(requirement) for requirement in requirements])
            events = [event async for event in going_on]
            assert [kind(event) for event in events[:1]] == ["run_continued"]
            assert events[0].sequence == last + 1
            assert isinstance(going_on.result, event_pb2.RunCompleted)
            assert going_on.result.content == "I ask. Done."
            await assert_bill(fake, await second.get_run(run.run_id), second)

            results = {block["tool_use_id"]: block["content"] for block in bodies(fake)[1][-1]["content"]}
            assert results == {
                "t1": "deleted /x",
                "t2": "sent 'hi' to Bob, 2 copies",
                "t3": "a.txt",
                "t4": "saw the sea",
            }
            assert bodies(fake)[1][: len(bodies(fake)[0])] == bodies(fake)[0]
            shown = [message async for message in second.list_messages(run.session_id)]
            assert [message.id for message in shown] == list(going_on.result.message_ids)
            assert [message.role for message in shown] == [
                message_pb2.MESSAGE_ROLE_USER,
                message_pb2.MESSAGE_ROLE_ASSISTANT,
                *[message_pb2.MESSAGE_ROLE_TOOL] * 4,
                message_pb2.MESSAGE_ROLE_ASSISTANT,
            ]
            replayed = [event async for event in second.attach(run.run_id)]
            assert [event.sequence for event in replayed] == sorted({event.sequence for event in replayed})
            assert [kind(event) for event in replayed].count("run_paused") == 1
            await second.run("careful", "Thanks.", session=run.session_id).text()
            assert bodies(fake)[2][: len(bodies(fake)[1])] == bodies(fake)[1]


async def test_the_model_is_sent_what_agno_itself_would_send(database_url: str) -> None:
    turns = [
        Turn([Thinking("Hm", signature="s1"), Text("I ask. "), DELETE, LOOK], usage=USAGE),
        Turn("Done.", usage=USAGE),
    ]
    async with FakeAnthropic() as fake, FakeAnthropic() as other:
        fake.script(*turns)
        other.script(*turns)
        async with client(fake, database_url) as server:
            run = server.run("careful", "Go.")
            requirements = await paused(run)
            await server.continue_run(
                run.run_id, [reject(requirement, "not that one") for requirement in requirements]
            ).text()
        model = claude(other)
        agent = Agent(model=model, tools=TOOLS, instructions=INSTRUCTIONS, telemetry=False)
        output: RunOutput | None = None
        async for event in agent.arun("Go.", stream=True, stream_events=True, yield_run_output=True):
            if isinstance(event, RunOutput):
                output = event
        assert output is not None
        for requirement in output.requirements or ():
            requirement.reject("not that one")
        async for _ in agent.acontinue_run(
            run_response=output, requirements=output.requirements, stream=True, stream_events=True
        ):
            pass
        if model.async_client is not None:
            await model.async_client.close()
        assert [request.json for request in fake.requests] == [request.json for request in other.requests]
        assert "not that one" in json.dumps(bodies(fake)[1])


async def test_a_run_pauses_twice(database_url: str) -> None:
    async with FakeAnthropic() as fake:
        fake.script(
            Turn([Text("One. "), DELETE], usage=USAGE),
            Turn([Text("Two. "), SHELL], usage=USAGE),
            Turn("Done.", usage=USAGE),
        )
        async with client(fake, database_url) as server:
            run = server.run("careful", "Go.")
            requirements = await paused(run)
            again = server.continue_run(run.run_id, [resolve(requirement) for requirement in requirements])
            requirements = await paused(again)
            assert [requirement.WhichOneof("need") for requirement in requirements] == ["external_execution"]
            last = server.continue_run(run.run_id, [resolve(requirement) for requirement in requirements])
            assert await last.text() == "One. Two. Done."
            await assert_bill(fake, await server.get_run(run.run_id), server)


async def test_a_second_continue_does_nothing_twice(database_url: str) -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn([DELETE], usage=USAGE), Turn("Done.", usage=USAGE))
        async with client(fake, database_url) as server:
            run = server.run("careful", "Go.")
            answers = [resolve(requirement) for requirement in await paused(run)]
            first = server.continue_run(run.run_id, answers, request_id="answer-1")
            assert await first.text() == "Done."
            same = server.continue_run(run.run_id, answers, request_id="answer-1")
            sequences = [event.sequence async for event in same]
            assert sequences[0] == run.last_sequence + 1
            assert same.result == first.result
            with pytest.raises(DragomanError) as late:
                await server.continue_run(run.run_id, answers, request_id="answer-2").text()
            assert late.value.reason == "RUN_NOT_PAUSED"
            assert len(fake.requests) == 2


WRONG: list[
    tuple[str, Callable[[Sequence[event_pb2.Requirement]], list[run_service_pb2.Resolution]], str]
] = [
    ("none", lambda needs: [], "resolutions"),
    ("one is missing", lambda needs: [resolve(needs[0])], "resolutions"),
    (
        "one twice",
        lambda needs: [resolve(needs[0]), resolve(needs[0]), resolve(needs[1])],
        "resolutions[1]",
    ),
    (
        "of another kind",
        lambda needs: [give_result(needs[0], "x"), resolve(needs[1])],
        "resolutions[0]",
    ),
    (
        "against the schema",
        lambda needs: [resolve(needs[0]), provide_input(needs[1], {"to": "Bob", "copies": "two"})],
        "resolutions[1].user_input.values.copies",
    ),
]


@pytest.mark.parametrize(("answer", "path"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
async def test_a_wrong_answer_changes_nothing(
    answer: Callable[[Sequence[event_pb2.Requirement]], list[run_service_pb2.Resolution]],
    path: str,
    tmp_path: Any,
) -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn([DELETE, SEND], usage=USAGE), Turn("Done.", usage=USAGE))
        async with client(fake, f"sqlite:///{tmp_path / 'test.db'}") as server:
            run = server.run("careful", "Go.")
            requirements = await paused(run)
            with pytest.raises(DragomanError) as refused:
                await server.continue_run(run.run_id, answer(requirements)).text()
            assert refused.value.reason == "INVALID_INPUT"
            assert any(violation.field.startswith(path) for violation in refused.value.violations)
            assert (await server.get_run(run.run_id)).status == run_service_pb2.RUN_STATUS_PAUSED
            right = server.continue_run(run.run_id, [resolve(requirement) for requirement in requirements])
            assert await right.text() == "Done."


CONFLICT: dict[str, Literal["reject", "queue", "interrupt"]] = {
    "cancelled": "reject",
    "interrupted": "interrupt",
    "expired": "queue",
}


@pytest.mark.parametrize("how", ["cancelled", "interrupted", "expired"])
async def test_the_history_goes_on_when_a_paused_run_is_ended(how: str, database_url: str) -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn([Text("May I?"), DELETE, LOOK], usage=USAGE), Turn("As you like.", usage=USAGE))
        timeout = 1.0 if how == "expired" else 3600.0
        async with (
            serving(Careful(fake), database_url=database_url, pause_timeout=timeout) as serving_one,
            Dragoman(serving_one.address) as server,
        ):
            run = server.run("careful", "Go.")
            await paused(run)
            if how == "cancelled":
                ended = await server.cancel_run(run.run_id, note="never mind")
                assert ended.cancelled.reason == event_pb2.CANCEL_REASON_CALLER
            following = server.run("careful", "Then what?", session=run.session_id, conflict=CONFLICT[how])
            assert await following.text() == "As you like."
            ended = await server.get_run(run.run_id)
            assert ended.status == run_service_pb2.RUN_STATUS_CANCELLED
            assert (
                ended.cancelled.reason
                == {
                    "cancelled": event_pb2.CANCEL_REASON_CALLER,
                    "interrupted": event_pb2.CANCEL_REASON_INTERRUPTED,
                    "expired": event_pb2.CANCEL_REASON_EXPIRED,
                }[how]
            )
            assert ended.cancelled.content == "May I?"
            called = {
                block["id"]
                for message in bodies(fake)[1]
                for block in message["content"]
                if block["type"] == "tool_use"
            }
            answered = {
                block["tool_use_id"]
                for message in bodies(fake)[1]
                for block in message["content"]
                if block["type"] == "tool_result"
            }
            assert called == answered == {"t4"}
            with pytest.raises(DragomanError) as late:
                await server.continue_run(run.run_id, []).text()
            assert late.value.reason in ("RUN_NOT_PAUSED", "INVALID_INPUT")
