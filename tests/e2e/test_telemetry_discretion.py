"""A conversation with content and secrets in all places leaves none of them in logs, figures and spans; and what it does
leave can be told apart: each line says of which call, run and trace it is."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from agno.agent import Agent
from support.e2e import Stubs, claude, kinds, stubs
from support.telemetry import Figures, collecting, scrape, settled, watched

from dragoman.telemetry import configure_logging
from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, HttpError, Text, Thinking, ToolUse, Turn
from dragoman.v1 import run_service_pb2, session_service_pb2

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MARK = "Xyzzy"
"""In every content and secret below."""

KEY = f"dgm_abcdefghijklmnop_{MARK}{'a' * 38}"


def search(query: str) -> str:
    """Searches."""
    return f"found {MARK} for {query}"


def fail(query: str) -> str:
    """Fails."""
    raise RuntimeError(f"{MARK} with password={MARK} while looking for {query}")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in ("agno", "agno-team", "agno-workflow")]
    before = root.handlers, root.level, [(each, each.handlers, each.propagate) for each in loggers]
    yield
    root.handlers, root.level = before[0], before[1]
    for each, handlers, propagate in before[2]:
        each.handlers, each.propagate = handlers, propagate


async def converse(client: Stubs, fake: FakeAnthropic) -> list[str]:
    """Runs that complete, fail and break off; the kinds of their last events."""
    metadata = (
        ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
        ("x-request-id", "request-7"),
        ("x-api-key", KEY),
        ("authorization", f"Bearer {MARK}"),
        ("cookie", MARK),
    )
    fake.script(
        Turn(
            [
                Thinking(f"I think of {MARK}"),
                Text(f"I say {MARK}"),
                ToolUse("t1", "search", {"query": MARK}),
                ToolUse("t2", "fail", {"query": MARK}),
            ]
        ),
        Turn(f"The answer is {MARK}"),
        HttpError(400, message=f"you said {MARK}, with key {KEY}"),
        Turn(f"{MARK} two three", error_after=ErrorEvent(2, message=MARK)),
    )
    ends = []
    for number in range(3):
        request = run_service_pb2.RunRequest(
            agent_name="assistant",
            message=f"my secret is {MARK}",
            request_id=f"{MARK}-{number}",
            metadata={"note": MARK},
        )
        ends.append(kinds([event async for event in client.runs.Run(request, metadata=metadata)])[-1])
    with pytest.raises(grpc.aio.AioRpcError):
        await client.runs.Execute(
            run_service_pb2.RunRequest(agent_name=MARK, message=MARK), metadata=metadata
        )
    with pytest.raises(grpc.aio.AioRpcError):
        await client.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=MARK))
    made = await client.sessions.CreateSession(
        session_service_pb2.CreateSessionRequest(agent_name="assistant", title=MARK, metadata={"a": MARK})
    )
    assert made.session.title == MARK
    return ends


async def test_nothing_of_it_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        agent = Agent(
            name="assistant",
            model=claude(fake),
            tools=[search, fail],
            instructions=f"never say {MARK}",
            telemetry=False,
        )
        async with (
            watched(
                tmp_path,
                agent,
                otlp_endpoint=endpoint,
                otlp_headers=f"authorization=Bearer {MARK}",
                model_retries=0,
            ) as server,
            stubs(server.info.address) as client,
        ):
            assert await converse(client, fake) == ["run_completed", "run_failed", "run_failed"]
            await settled(server)
            figures: Figures = await scrape(server)
    err = capsys.readouterr().err
    lines: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    assert MARK not in err
    assert MARK not in figures.text
    assert collector.spans
    assert not any(MARK.encode() in batch for batch in collector.raw)
    # It is content alone that is missing.
    assert figures("tool_calls_total", tool="fail", outcome="failed") == 1
    assert {"chat", "execute_tool", "invoke_agent"} <= {span.name.split(" ")[0] for span in collector.spans}

    ended = [line for line in lines if line["event"] == "run ended"]
    assert len(ended) == 3
    spans = {span.id: span for span in collector.spans}
    for line in ended:
        assert line["request_id"] == "request-7"
        assert line["principal"] == "local"
        assert line["trace_id"] == TRACE
        assert spans[line["span_id"]].attributes["dragoman.run.id"] == line["run_id"]
        assert spans[line["span_id"]].name == "invoke_agent assistant"
    calls = [line for line in lines if line["event"] == "call" and line["method"].endswith("/Run")]
    assert [line["run_id"] for line in calls] == [line["run_id"] for line in ended]
    assert all(spans[line["span_id"]].name == "dragoman.v1.RunService/Run" for line in calls)
    assert {line["trace_id"] for line in calls} == {TRACE}
    # What a library has to say in a run is of the run, too.
    of_agno = [line for line in lines if line["logger"].startswith("agno")]
    assert of_agno
    assert all(line["run_id"] in {each["run_id"] for each in ended} for line in of_agno)


async def test_without_a_collector_lines_have_the_callers_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "json")
    async with FakeAnthropic() as fake:
        fake.script(Turn("Yes."), Turn("Yes."))
        agent = Agent(name="assistant", model=claude(fake), telemetry=False)
        async with watched(tmp_path, agent) as server, stubs(server.info.address) as client:
            request = run_service_pb2.RunRequest(agent_name="assistant", message="hello")
            traceparent = (("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),)
            await client.runs.Execute(request, metadata=traceparent)
            await client.runs.Execute(request)
            await settled(server)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told, untold = [line for line in lines if line["event"] == "run ended"]
    assert (told["trace_id"], told["span_id"]) == (TRACE, "00f067aa0ba902b7")
    assert "trace_id" not in untold
    assert untold["request_id"] != told["request_id"]
