"""A run's spans arrive at a collector, in the caller's trace, one below the other, however the run ends; and what a collector
that is away or stuck costs: spans, and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from agno.agent import Agent
from agno.team import TeamMode
from agno.tools import tool
from support.e2e import MODEL_ID, ClaudeAgent, Stubs, claude, kinds, stubs
from support.following import Follower, attach, deltas, run_id_of
from support.pauses import yes
from support.teams import Cast, delegation, look
from support.telemetry import Collector, Span, collecting, settled, watched

from dragoman.app import Server
from dragoman.testing.anthropic import FakeAnthropic, HttpError, ToolUse, Turn, Usage
from dragoman.v1 import run_service_pb2

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
RUN = "dragoman.v1.RunService/Run"


@asynccontextmanager
async def traced(
    tmp_path: Path, endpoint: str, *agents: object, **settings: Any
) -> AsyncIterator[tuple[Server, Stubs]]:
    """A server that sends its spans there. When the block is left, all have been sent, if the collector takes them."""
    async with (
        watched(tmp_path, *agents, otlp_endpoint=endpoint, model_retries=0, **settings) as server,
        stubs(server.info.address) as client,
    ):
        yield server, client
        await settled(server)


async def run(client: Stubs, agent: str, message: str, traceparent: str = TRACEPARENT, **fields: Any) -> Any:
    """All events of a run whose caller is traced."""
    request = run_service_pb2.RunRequest(
        agent_name=agent, message=message, detail=run_service_pb2.EVENT_DETAIL_ALL, **fields
    )
    metadata = (("traceparent", traceparent), ("tracestate", "vendor=1")) if traceparent else ()
    return [event async for event in client.runs.Run(request, metadata=metadata)]


def below(collector: Collector, parent: Span, prefix: str) -> list[Span]:
    """The spans directly below another, by the begin of their names, in order."""
    return [span for span in collector.named(prefix) if span.parent == parent.id]


async def test_a_run_in_its_callers_trace(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.script(
            Turn([ToolUse("t1", "weather", {"city": "Oslo"}), ToolUse("t2", "broken", {"city": "Rome"})]),
            Turn("Clear.", usage=Usage(200, 20, cache_read_input_tokens=30)),
        )
        headers = "x-tenant=blue, authorization=Bearer abc"
        async with traced(
            tmp_path, endpoint, ClaudeAgent(claude(fake)), otlp_headers=headers, service_name="desk"
        ) as (_, client):
            events = await run(client, "assistant", "How is the weather?")
        assert not any("traceparent" in request.headers for request in fake.requests)
    rpc, ran = collector.one(RUN), collector.one("invoke_agent assistant")
    assert (rpc.trace_id, rpc.parent) == (ran.trace_id, ran.parent) == (TRACE, CALLER)
    assert ran.links == [rpc.id]
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert rpc.attributes["rpc.response.status_code"] == "OK"
    started = events[0].run_started
    expected = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "assistant",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": MODEL_ID,
        "gen_ai.conversation.id": started.session_id,
        "dragoman.run.id": started.run_id,
        "dragoman.outcome": "completed",
    }
    assert expected.items() <= ran.attributes.items()
    first, second = below(collector, ran, "chat ")
    assert second.attributes["gen_ai.usage.input_tokens"] == 230
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] == 30
    assert second.attributes["gen_ai.usage.output_tokens"] == 20
    assert first.attributes["gen_ai.response.finish_reasons"] == ["tool_use"]
    assert second.attributes["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert ran.start <= first.start <= first.end <= second.start <= second.end <= ran.end
    tools = {span.attributes["gen_ai.tool.call.id"]: span for span in below(collector, ran, "execute_tool")}
    assert (tools["t1"].name, tools["t1"].failed) == ("execute_tool weather", False)
    assert (tools["t2"].name, tools["t2"].failed) == ("execute_tool broken", True)
    # The store works for the call until the run is claimed, and then for the run.
    assert below(collector, rpc, "start_run")
    assert below(collector, ran, "end_run")
    assert all(span.attributes["db.system.name"] == "sqlite" for span in collector.named("end_run"))
    assert collector.metadata[0]["x-tenant"] == "blue"
    assert collector.metadata[0]["authorization"] == "Bearer abc"
    assert collector.resources[0]["service.name"] == "desk"


async def test_members_below_their_team(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        cast = Cast(fake, lambda: claude(fake))
        cast.plays("Lead", Turn([delegation("d1", "ann", "look around")]), Turn("Done."))
        cast.plays("Ann", Turn([ToolUse("t1", "look", {"where": "here"})]), Turn("Nothing here."))
        team = cast.team("Lead", [cast.agent("Ann", tools=[look])], TeamMode.coordinate)
        async with traced(tmp_path, endpoint, team) as (_, client):
            events = await run(client, "Lead", "look")
    assert kinds(events)[-1] == "run_completed"
    lead, ann = collector.one("invoke_agent Lead"), collector.one("invoke_agent Ann")
    assert ann.parent == lead.id
    assert len(below(collector, lead, "chat ")) == len(below(collector, ann, "chat ")) == 2
    assert [span.name for span in below(collector, ann, "execute_tool")] == ["execute_tool look"]
    assert [span.name for span in below(collector, lead, "execute_tool")] == [
        "execute_tool delegate_task_to_member"
    ]
    assert ann.attributes["dragoman.outcome"] == "completed"
    assert {span.trace_id for span in collector.spans} == {TRACE}


async def test_a_failed_run(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.script(HttpError(529))
        async with traced(tmp_path, endpoint, ClaudeAgent(claude(fake))) as (_, client):
            await run(client, "assistant", "hello")
            with pytest.raises(grpc.aio.AioRpcError):
                await run(client, "nobody", "hello")
    ran = collector.one("invoke_agent assistant")
    assert (ran.failed, ran.attributes["error.type"]) == (True, "MODEL_UNAVAILABLE")
    (call,) = below(collector, ran, "chat ")
    assert (call.failed, call.attributes["error.type"]) == (True, "OVERLOADED")
    served, refused = collector.named(RUN)
    assert (served.failed, served.attributes["rpc.response.status_code"]) == (False, "OK")
    # A caller's mistake is no error of the server's.
    assert (refused.failed, refused.attributes["error.type"]) == (False, "AGENT_NOT_FOUND")
    assert refused.attributes["rpc.response.status_code"] == "NOT_FOUND"


@tool(requires_confirmation=True)
def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


async def test_a_run_that_goes_on_after_a_pause(tmp_path: Path) -> None:
    """It is a span of the call that continues it; the run's id and what was counted hold the two together."""
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.script(Turn([ToolUse("t1", "pay", {"amount": 3})]), Turn("Paid."))
        agent = Agent(name="cashier", model=claude(fake), tools=[pay], telemetry=False)
        async with traced(tmp_path, endpoint, agent) as (server, client):
            first = await run(client, "cashier", "pay", "")
            run_id = first[0].run_started.run_id
            (wanted,) = first[-1].run_paused.requirements
            request = run_service_pb2.ContinueRunRequest(run_id=run_id, resolutions=[yes(wanted)])
            metadata = (("traceparent", TRACEPARENT),)
            rest = [event async for event in client.runs.ContinueRun(request, metadata=metadata)]
            figures = await settled(server)
    assert kinds(rest)[-1] == "run_completed"
    before, after = collector.named("invoke_agent cashier")
    assert before.attributes["dragoman.outcome"] == "paused"
    assert after.attributes["dragoman.outcome"] == "completed"
    assert before.attributes["dragoman.run.id"] == after.attributes["dragoman.run.id"] == run_id
    assert (after.trace_id, after.parent) == (TRACE, CALLER)
    assert before.trace_id != TRACE
    assert len(below(collector, before, "chat ")) == len(below(collector, after, "chat ")) == 1
    assert figures("runs_started_total", how="new") == figures("runs_started_total", how="continued") == 1
    assert (
        figures("runs_ended_total", outcome="paused") == figures("runs_ended_total", outcome="completed") == 1
    )
    assert figures("model_calls_total") == 2
    assert figures("runs_active") == 0


async def test_a_cancelled_run_outlives_its_call_and_others_link_to_it(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.script(Turn("one two three four", hang_after=2))
        agent = ClaudeAgent(claude(fake))
        async with traced(tmp_path, endpoint, agent, flush_interval=0) as (server, client):
            request = run_service_pb2.RunRequest(agent_name="assistant", message="count")
            call = client.runs.Run(request, metadata=(("traceparent", TRACEPARENT),))
            first = Follower(call)
            await first.until(deltas(1))
            call.cancel()
            await first.done()
            run_id = run_id_of(first.seen)
            second = attach(client, run_id)
            await second.until(deltas(2))
            await client.runs.CancelRun(run_service_pb2.CancelRunRequest(run_id=run_id))
            await second.end()
            # One that comes later finds it, too.
            await attach(client, run_id).end()
            await settled(server)
    rpc, ran = collector.one(RUN), collector.one("invoke_agent assistant")
    assert rpc.attributes["rpc.response.status_code"] == "CANCELLED"
    assert rpc.end <= ran.end
    assert (ran.trace_id, ran.parent, ran.failed) == (TRACE, CALLER, False)
    assert ran.attributes["dragoman.outcome"] == "cancelled"
    assert ran.attributes["dragoman.run.reason"] == "CALLER"
    (model,) = below(collector, ran, "chat ")
    assert model.attributes["error.type"] == "cancelled"
    attached = collector.named("dragoman.v1.RunService/AttachRun")
    assert [span.links for span in attached] == [[ran.id], [ran.id]]
    assert all(span.trace_id != TRACE for span in attached)  # nobody has said that they belong together
    assert {span.attributes["dragoman.run.id"] for span in (*attached, rpc, ran)} == {run_id}


IGNORED = [
    "",
    "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
    f"00-{TRACE}-0000000000000000-01",
    f"ff-{TRACE}-{CALLER}-01",
    f"00-{TRACE}-{CALLER}",
    f"00-{TRACE.upper()[:-1]}!-{CALLER}-01",
    "x" * 5000,
]


async def test_sampling_is_the_callers_and_a_malformed_traceparent_is_none(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.respond = lambda _: Turn("Yes.")
        async with traced(tmp_path, endpoint, ClaudeAgent(claude(fake)), trace_sample_ratio=1.0) as (
            _,
            client,
        ):
            await run(client, "assistant", "hello", f"00-{TRACE}-{CALLER}-00")
            for traceparent in IGNORED:
                await run(client, "assistant", "hello", traceparent)
    calls = collector.named(RUN)
    assert len(calls) == len(IGNORED)
    assert len({span.trace_id for span in calls} | {TRACE}) == len(IGNORED) + 1
    assert {span.parent for span in calls} == {""}
    # Without a caller's span the run is below the call that asked for it.
    assert {span.parent for span in collector.named("invoke_agent")} == {span.id for span in calls}


async def test_no_sample_but_what_callers_trace(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.respond = lambda _: Turn("Yes.")
        async with traced(tmp_path, endpoint, ClaudeAgent(claude(fake)), trace_sample_ratio=0.0) as (
            _,
            client,
        ):
            await run(client, "assistant", "hello", "")
            await run(client, "assistant", "hello")
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert len(collector.named("invoke_agent")) == 1


@pytest.mark.parametrize("stuck", [False, True], ids=["dead", "stuck"])
async def test_a_collector_that_takes_nothing_costs_spans_alone(
    stuck: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The runs end, and the server stops, while an export is still being tried."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    async with collecting(stuck=True) as (collector, endpoint), FakeAnthropic() as fake:
        fake.respond = lambda _: Turn("Yes.")
        where = endpoint if stuck else "http://127.0.0.1:1"
        async with traced(tmp_path, where, ClaudeAgent(claude(fake))) as (server, client):
            ends = [kinds(await run(client, "assistant", "hello"))[-1] for _ in range(5)]
            if stuck:
                await collector.asked.wait()
                ends += [kinds(await run(client, "assistant", "hello"))[-1] for _ in range(5)]
            figures = await settled(server)
    assert set(ends) == {"run_completed"}
    assert figures("spans_exported_total", result="sent") == 0
    assert collector.spans == []


async def test_spans_are_counted(tmp_path: Path) -> None:
    async with collecting() as (collector, endpoint), FakeAnthropic() as fake:
        fake.script(Turn("Yes."))
        async with traced(tmp_path, endpoint, ClaudeAgent(claude(fake))) as (server, client):
            await run(client, "assistant", "hello")
            while not (figures := await settled(server))("spans_exported_total", result="sent"):
                await asyncio.sleep(0.05)
    assert 0 < figures("spans_exported_total", result="sent") <= len(collector.spans)
    assert figures("spans_exported_total", result="dropped") == 0


async def test_without_a_collector_there_is_no_thread_and_no_span(tmp_path: Path) -> None:
    import threading

    async with FakeAnthropic() as fake:
        fake.script(Turn("Yes."))
        before = {thread.name for thread in threading.enumerate()}
        async with (
            watched(tmp_path, ClaudeAgent(claude(fake))) as server,
            stubs(server.info.address) as client,
        ):
            assert kinds(await run(client, "assistant", "hello"))[-1] == "run_completed"
            assert not any(
                "Otel" in thread.name for thread in threading.enumerate() if thread.name not in before
            )
