"""What a scrape tells is what has happened: calls, runs, tokens, money, tools, failures, and nobody's name."""

from pathlib import Path

import grpc
import pytest
from agno.team import TeamMode
from cryptography import x509
from support.certificates import Authority
from support.e2e import MODEL_ID, ClaudeAgent, claude, kinds, stubs
from support.following import ask, attach, deltas, run_id_of, session_id_of, started
from support.served import unary_of
from support.teams import Cast, delegation, look
from support.telemetry import scrape, settled, watched

from dragoman.testing.anthropic import FakeAnthropic, HttpError, ToolUse, Turn, Usage
from dragoman.v1 import run_service_pb2

RUN = "dragoman.v1.RunService/Run"
EXECUTE = "dragoman.v1.RunService/Execute"


async def test_figures_are_what_happened(tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        fake.script(
            Turn(
                [ToolUse("t1", "weather", {"city": "Oslo"}), ToolUse("t2", "broken", {"city": "Rome"})],
                usage=Usage(100, 10),
            ),
            Turn("Clear, and eleven degrees.", usage=Usage(200, 20)),
            HttpError(529),
        )
        async with (
            watched(tmp_path, ClaudeAgent(claude(fake)), model_retries=0) as server,
            stubs(server.info.address) as client,
        ):
            events = await client.run("assistant", "How is the weather?", request_id="idempotent-7f3")
            failed = await client.run("assistant", "And now?")
            with pytest.raises(grpc.aio.AioRpcError):
                await client.run("nobody", "hello")
            with pytest.raises(grpc.aio.AioRpcError):
                await client.runs.GetRun(run_service_pb2.GetRunRequest(run_id="x"))
            figures = await settled(server)
    money = events[-1].run_completed.cost.amount
    cost = money.units + money.nanos / 1e9
    assert kinds(events)[-1] == "run_completed"
    assert kinds(failed)[-1] == "run_failed"
    assert cost > 0
    for name, labels, expected in (
        ("rpc_started_total", {"method": RUN}, 3),
        ("rpc_handled_total", {"method": RUN, "code": "OK"}, 2),
        ("rpc_handled_total", {"method": RUN, "code": "NOT_FOUND"}, 1),
        ("rpc_refused_total", {"reason": "AGENT_NOT_FOUND"}, 1),
        ("rpc_handled_total", {"method": "dragoman.v1.RunService/GetRun", "code": "INVALID_ARGUMENT"}, 1),
        ("rpc_duration_seconds_count", {"method": RUN}, 3),
        ("rpc_open_streams", {}, 0),
        ("rpc_stream_messages_sent_total", {"method": RUN}, len(events) + len(failed)),
        ("runs_started_total", {"agent": "assistant", "how": "new"}, 2),
        ("runs_ended_total", {"agent": "assistant", "outcome": "completed", "reason": "STOP"}, 1),
        ("runs_ended_total", {"agent": "assistant", "outcome": "failed", "reason": "MODEL_UNAVAILABLE"}, 1),
        ("runs_active", {}, 0),
        ("run_duration_seconds_count", {"agent": "assistant"}, 2),
        ("run_first_event_seconds_count", {"agent": "assistant"}, 1),
        ("model_calls_total", {"model": MODEL_ID, "status": "completed"}, 2),
        ("model_calls_total", {"model": MODEL_ID, "status": "failed"}, 1),
        ("model_call_failures_total", {"kind": "OVERLOADED"}, 1),
        ("model_call_duration_seconds_count", {}, 3),
        ("model_call_first_token_seconds_count", {}, 2),
        ("tokens_total", {"kind": "input", "agent": "assistant", "model": MODEL_ID}, 300),
        ("tokens_total", {"kind": "output"}, 30),
        ("tool_calls_total", {"tool": "weather", "outcome": "completed"}, 1),
        ("tool_calls_total", {"tool": "broken", "outcome": "failed"}, 1),
        ("tool_call_duration_seconds_count", {}, 2),
        ("unmapped_events_total", {}, 0),
        ("storage_failures_total", {}, 0),
        ("storage_duration_seconds_count", {"operation": "start_run"}, 2),
        ("storage_duration_seconds_count", {"operation": "end_run"}, 2),
        ("build_info", {}, 1),
        ("spans_exported_total", {}, 0),
    ):
        assert figures(name, **labels) == expected, (name, labels)
    assert figures("cost_total", currency="ZAR") == pytest.approx(cost, abs=1e-8)
    assert "7f3" not in figures.text


async def test_open_streams_active_runs_and_followers(tmp_path: Path) -> None:
    """While it runs and when it is cancelled; messages count before their stream ends."""
    async with FakeAnthropic() as fake:
        fake.script(
            Turn("one two three four", hang_after=2, usage=Usage(50, 5)), Turn("late", usage=Usage(7, 7))
        )
        async with (
            watched(tmp_path, ClaudeAgent(claude(fake)), flush_interval=0) as server,
            stubs(server.info.address) as client,
        ):
            first = ask(client, "assistant", "count")
            await first.until(deltas(2))
            run_id = run_id_of(first.seen)
            second = attach(client, run_id)
            await second.until(deltas(2))
            waiting = ask(
                client,
                "assistant",
                "later",
                session_id=session_id_of(first.seen),
                session_conflict=run_service_pb2.SESSION_CONFLICT_QUEUE,
            )
            await waiting.until(started)
            during = await scrape(server)
            await client.runs.CancelRun(run_service_pb2.CancelRunRequest(run_id=run_id))
            await first.end()
            await second.end()
            await waiting.end()
            after = await settled(server)
    assert during("runs_active") == 2
    assert during("runs_queued") == 1
    assert during("run_queue_age_seconds") > 0
    assert during("rpc_open_streams", method=RUN) == 2
    assert during("rpc_open_streams", method="dragoman.v1.RunService/AttachRun") == 1
    assert during("rpc_stream_messages_sent_total", method=RUN) >= 3
    assert during("runs_attached_total", where="here") == 1
    assert during("tokens_total") == 0  # the call is under way: what it comes to is counted at its end
    assert after("runs_active") == after("runs_queued") == after("run_queue_age_seconds") == 0
    assert after("rpc_open_streams") == 0
    assert after("runs_ended_total", outcome="cancelled", reason="CALLER") == 1
    assert after("model_calls_total", status="interrupted") == 1
    assert after("tokens_total", kind="input") == 57


async def test_the_work_of_members_is_counted_to_their_team(tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        cast = Cast(fake, lambda: claude(fake))
        cast.plays("Lead", Turn([delegation("d1", "ann", "look around")]), Turn("Done."))
        cast.plays("Ann", Turn([ToolUse("t1", "look", {"where": "here"})]), Turn("Nothing here."))
        ann = cast.agent("Ann", tools=[look])
        team = cast.team("Lead", [ann], TeamMode.coordinate)
        async with watched(tmp_path, team) as server, stubs(server.info.address) as client:
            events = await client.run("Lead", "look")
            figures = await scrape(server)
    assert kinds(events)[-1] == "run_completed"
    usage = events[-1].run_completed.usage
    assert figures("tokens_total", agent="Lead", kind="input") == usage.input_tokens
    assert figures("tokens_total", agent="Lead", kind="output") == usage.output_tokens
    assert figures("tokens_total", kind="cache_read") == usage.cache_read_tokens
    assert figures("model_calls_total", agent="Lead") == 4
    assert figures("member_runs_total", agent="Lead", outcome="completed") == 1
    assert figures("tool_calls_total", agent="Lead", tool="look", outcome="completed") == 1
    assert figures("tool_calls_total", agent="Lead", tool="delegate_task_to_member") == 1
    assert not any("Ann" in sample.labels.values() for sample in figures.samples)


async def test_refusals_are_told_by_why_and_by_limit(tmp_path: Path) -> None:
    async with (
        FakeAnthropic() as fake,
        watched(tmp_path, ClaudeAgent(claude(fake)), auth=("keys",)) as server,
        stubs(server.info.address) as client,
    ):
        listing = run_service_pb2.ListRunsRequest()
        for metadata in ((), (("x-api-key", "dgm_made_up"),), (("x-api-key", f"dgm_{'a' * 16}_{'b' * 43}"),)):
            with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                await client.runs.ListRuns(listing, metadata=metadata)
        figures = await settled(server)
    assert figures("auth_refusals_total", why="none") == 1
    assert figures("auth_refusals_total", why="key") == 2
    assert figures("rpc_handled_total", method="dragoman.v1.RunService/ListRuns", code="UNAUTHENTICATED") == 3


async def test_a_limit_that_is_reached_is_told(tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn("one two three", hang_after=1))
        async with (
            watched(tmp_path, ClaudeAgent(claude(fake)), max_runs=1, flush_interval=0) as server,
            stubs(server.info.address) as client,
        ):
            running = ask(client, "assistant", "count")
            await running.until(deltas(1))
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await client.run("assistant", "me too")
            await client.runs.CancelRun(run_service_pb2.CancelRunRequest(run_id=run_id_of(running.seen)))
            await running.end()
            figures = await settled(server)
    assert figures("quota_refusals_total", limit="runs") == 1
    assert figures("rpc_refused_total", reason="TOO_MANY_RUNS") == 1


async def test_calls_of_what_there_is_not_get_no_names_of_their_own(tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        agent = ClaudeAgent(claude(fake))
        async with (
            watched(tmp_path, agent) as server,
            grpc.aio.insecure_channel(server.info.address) as channel,
        ):
            for number in range(5):
                call = unary_of(channel, f"/made.Up/Method{number}")
                with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                    await call(b"")
            figures = await settled(server)
    assert figures("rpc_handled_total", method="other", code="UNIMPLEMENTED") == 5
    assert "made.Up" not in figures.text


async def test_the_certificate_of_a_server_with_tls(tmp_path: Path) -> None:
    pem = Authority().server()
    certificate, key = pem.write(tmp_path, "server")
    async with watched(tmp_path, tls_cert=certificate, tls_key=key) as server:
        figures = await scrape(server)
    ends = x509.load_pem_x509_certificate(pem.certificate).not_valid_after_utc
    assert figures("tls_certificate_expiry_timestamp_seconds") == ends.timestamp()
