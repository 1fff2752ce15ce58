"""A run is followed over whatever breaks: each event reaches the caller once and in order, from whichever server."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, Self, TypeAlias

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from support.statuses import over_limit, status

from dragoman.client import (
    DeadlineExceeded,
    Dragoman,
    DragomanError,
    EventsTrimmed,
    NotFound,
    RetryPolicy,
    RunIsPaused,
    StreamLost,
    Unavailable,
    choose,
    confirm,
    give_result,
    kind,
    provide_input,
    reject,
)
from dragoman.v1 import event_pb2, run_service_pb2, run_service_pb2_grpc

RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SESSION_ID = "01890a5d-ac96-774b-bcce-b302099a8058"
Event = event_pb2.RunEvent
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
QUICK = RetryPolicy(initial_backoff=0.01, max_backoff=0.05)

STARTED = Event(sequence=1, run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id=SESSION_ID))
HEARTBEAT = Event(heartbeat=event_pb2.Heartbeat())


def delta(sequence: int) -> Event:
    return Event(sequence=sequence, content_delta=event_pb2.ContentDelta(text=f"{sequence} "))


def completed(sequence: int) -> Event:
    return Event(sequence=sequence, run_completed=event_pb2.RunCompleted(content="all of it"))


def paused(sequence: int) -> Event:
    need = event_pb2.Requirement(id="r1", confirmation=event_pb2.ConfirmationNeed())
    return Event(sequence=sequence, run_paused=event_pb2.RunPaused(requirements=[need]))


def continued(sequence: int) -> Event:
    return Event(sequence=sequence, run_continued=event_pb2.RunContinued(resolved_requirements=1))


WHOLE = [STARTED, delta(2), delta(3), completed(4)]


DRAINING = status(code_pb2.UNAVAILABLE, "DRAINING", run_id=RUN_ID, last_sequence="1")
NOT_RESUMABLE = status(code_pb2.FAILED_PRECONDITION, "RUN_NOT_RESUMABLE", run_id=RUN_ID)

Failure: TypeAlias = status_pb2.Status | tuple[grpc.StatusCode, str] | Literal["ok"]
"""How a call is cut off; "ok": as if all was well."""


@dataclass
class Cut:
    """One call is cut off after it has sent so many events."""

    after: int
    failure: Failure = (grpc.StatusCode.UNAVAILABLE, "connection lost")
    doubled: int = 0
    """How many events before those that were asked for are sent too."""


@dataclass
class World:
    """What all servers share, as a database: the run's events, what cuts the calls to come, and what was asked."""

    events: Sequence[Event] = ()
    cuts: list[Cut] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    outcome: run_service_pb2.Run = field(default_factory=run_service_pb2.Run)
    seen: list["Server"] = field(default_factory=list)
    """Which server was asked, for each request."""


class Server(run_service_pb2_grpc.RunServiceServicer):
    """One server of the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.draining = False
        self.hold_after: int | None = None
        """The stream rests after the event with this sequence until the caller has gone."""

    async def Run(self, request: run_service_pb2.RunRequest, context: Context) -> AsyncIterator[Event]:
        async for event in self._play(request, context, 0):
            yield event

    async def AttachRun(
        self, request: run_service_pb2.AttachRunRequest, context: Context
    ) -> AsyncIterator[Event]:
        async for event in self._play(request, context, request.after_sequence):
            yield event

    async def ContinueRun(
        self, request: run_service_pb2.ContinueRunRequest, context: Context
    ) -> AsyncIterator[Event]:
        async for event in self._play(request, context, 0):
            yield event

    async def Execute(
        self, request: run_service_pb2.RunRequest, context: Context
    ) -> run_service_pb2.ExecuteResponse:
        await self._ask(request, context)
        if self.world.cuts:
            await _fail(context, self.world.cuts.pop(0).failure)
        return run_service_pb2.ExecuteResponse(content="answer")

    async def GetRun(
        self, request: run_service_pb2.GetRunRequest, context: Context
    ) -> run_service_pb2.GetRunResponse:
        return run_service_pb2.GetRunResponse(run=self.world.outcome)

    async def ListRuns(
        self, request: run_service_pb2.ListRunsRequest, context: Context
    ) -> run_service_pb2.ListRunsResponse:
        return run_service_pb2.ListRunsResponse()

    async def CancelRun(
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> run_service_pb2.CancelRunResponse:
        await self._ask(request, context)
        return run_service_pb2.CancelRunResponse(run=run_service_pb2.Run(id=request.run_id))

    async def _ask(self, request: Any, context: Context) -> None:
        self.world.requests.append(request)
        self.world.seen.append(self)
        if self.draining:
            await _fail(context, DRAINING)

    async def _play(self, request: Any, context: Context, after: int) -> AsyncIterator[Event]:
        await self._ask(request, context)
        cut = self.world.cuts.pop(0) if self.world.cuts else None
        first = after - (cut.doubled if cut else 0)
        rest = [event for event in self.world.events if event.sequence == 0 or event.sequence > first]
        for event in rest if cut is None else rest[: cut.after]:
            yield event
            if self.hold_after is not None and event.sequence >= self.hold_after:
                await asyncio.Event().wait()
        if cut is not None:
            await _fail(context, cut.failure)


async def _fail(context: Context, failure: Failure) -> None:
    if isinstance(failure, status_pb2.Status):
        await context.abort_with_status(rpc_status.to_status(failure))
    elif failure != "ok":
        await context.abort(*failure)


async def start(servicer: Server) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    run_service_pb2_grpc.add_RunServiceServicer_to_server(servicer, server)
    bound = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, bound


@asynccontextmanager
async def serving(*servers: Server) -> AsyncIterator[list[int]]:
    """The ports on which the servers are served."""
    async with AsyncExitStack() as stack:
        ports = []
        for servicer in servers:
            server, port = await start(servicer)
            stack.push_async_callback(server.stop, None)
            ports.append(port)
        yield ports


@asynccontextmanager
async def client_of(world: World, retry: RetryPolicy | None = QUICK) -> AsyncIterator[Dragoman]:
    async with serving(Server(world)) as (port,), Dragoman(f"127.0.0.1:{port}", retry=retry) as client:
        yield client


def attached(world: World) -> list[int]:
    """After which events the run was attached to."""
    return [
        each.after_sequence for each in world.requests if isinstance(each, run_service_pb2.AttachRunRequest)
    ]


FAILURES: dict[str, Failure] = {
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
    "draining": DRAINING,
    "not-resumable": NOT_RESUMABLE,
    "cancelled": (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8"),
    "cut off": (grpc.StatusCode.CANCELLED, "CANCELLED"),
    "unknown": (grpc.StatusCode.UNKNOWN, "Stream removed"),
    "internal": (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    "over-limit": over_limit(0.01),
    "ok": "ok",
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
@pytest.mark.parametrize("after", range(len(WHOLE) + 1))
async def test_a_break_at_any_place_is_not_seen(after: int, failure: Failure) -> None:
    world = World(WHOLE, [Cut(after, failure)])
    async with client_of(world) as client, client.run("example", "hi") as run:
        assert [event async for event in run] == WHOLE
        assert (run.run_id, run.session_id, run.last_sequence) == (RUN_ID, SESSION_ID, 4)
        assert isinstance(run.result, event_pb2.RunCompleted)
    first, *more = world.requests
    assert first.request_id == run.request_id != ""
    if after == 0:
        assert more == [first]  # the very same request: its id makes that harmless
    elif after < len(WHOLE):
        assert attached(world) == [after]
    else:
        assert more == []  # all was said


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(0, 8),
    cuts=st.lists(
        st.builds(
            Cut,
            after=st.integers(0, 4),
            failure=st.sampled_from(list(FAILURES.values())),
            doubled=st.integers(0, 3),
        ),
        max_size=6,
    ),
)
def test_any_breaks_give_the_events_of_none(length: int, cuts: list[Cut]) -> None:
    whole = [STARTED, *(delta(2 + at) for at in range(length)), completed(2 + length)]
    policy = RetryPolicy(initial_backoff=0.001, max_backoff=0.002)

    async def follow() -> list[Event]:
        async with client_of(World(whole, list(cuts)), policy) as client:
            return [event async for event in client.run("example", "hi")]

    assert asyncio.run(follow()) == whole


async def test_what_comes_twice_is_dropped() -> None:
    world = World(WHOLE, [Cut(3), Cut(9, "ok", doubled=2)])
    async with client_of(world) as client:
        assert [event async for event in client.run("example", "hi")] == WHOLE


async def test_heartbeats_pass_and_count_for_nothing() -> None:
    world = World([HEARTBEAT, *WHOLE], [Cut(1), Cut(3)])
    async with client_of(world) as client:
        events = [event async for event in client.run("example", "hi")]
    assert [event for event in events if event.sequence] == WHOLE
    assert attached(world) == [2]


async def test_a_gap_before_the_last_event_is_the_servers_word() -> None:
    gone = Event(
        sequence=9000, run_cancelled=event_pb2.RunCancelled(reason=event_pb2.CANCEL_REASON_ABANDONED)
    )
    world = World([STARTED, delta(2), gone], [Cut(2)])
    async with client_of(world) as client, client.run("example", "hi") as run:
        assert [event.sequence async for event in run] == [1, 2, 9000]
        assert run.last_sequence == 9000


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (code_pb2.INVALID_ARGUMENT, "INVALID_INPUT", DragomanError),
        (code_pb2.NOT_FOUND, "RUN_NOT_FOUND", NotFound),
        (code_pb2.FAILED_PRECONDITION, "SESSION_BUSY", DragomanError),
        (code_pb2.ALREADY_EXISTS, "REQUEST_ID_REUSED", DragomanError),
        (code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_RUNS", DragomanError),
        (code_pb2.INTERNAL, "INTERNAL", DragomanError),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
async def test_what_the_server_says_of_the_call_is_told_at_once(
    after: int, code: int, reason: str, error: type[DragomanError]
) -> None:
    world = World(WHOLE, [Cut(after, status(code, reason))])
    async with client_of(world) as client:
        with pytest.raises(error) as caught:
            await client.run("example", "hi").text()
    assert caught.value.reason == reason
    assert not isinstance(caught.value, StreamLost)
    assert len(world.requests) == 1


async def test_events_that_are_no_longer_kept() -> None:
    trimmed = status(code_pb2.OUT_OF_RANGE, "EVENTS_TRIMMED", oldest_sequence="77")
    async with client_of(World(WHOLE, [Cut(0, trimmed)])) as client:
        with pytest.raises(EventsTrimmed) as caught:
            await client.attach(RUN_ID, after_sequence=3).text()
    assert caught.value.oldest_sequence == 77


async def test_patience_ends_with_where_the_run_can_be_taken_up() -> None:
    world = World(WHOLE, [Cut(2), *[Cut(0)] * 3])
    policy = RetryPolicy(attempts=4, initial_backoff=0.001)
    async with client_of(world, policy) as client:
        run = client.run("example", "hi", request_id="mine")
        with pytest.raises(StreamLost) as caught:
            await run.text()
        error = caught.value
        assert isinstance(error, Unavailable)
        assert (error.run_id, error.last_sequence, error.request_id) == (RUN_ID, 2, "mine")
        assert attached(world) == [2] * 3
        later = client.attach(error.run_id, after_sequence=error.last_sequence)
        assert [event async for event in later] == WHOLE[2:]


async def test_an_event_renews_patience() -> None:
    world = World(WHOLE, [Cut(1), Cut(0), Cut(1), Cut(0), Cut(1), Cut(0)])
    async with client_of(world, RetryPolicy(attempts=3, initial_backoff=0.001)) as client:
        assert [event async for event in client.run("example", "hi")] == WHOLE


async def test_time_bounds_patience() -> None:
    policy = RetryPolicy(start_patience=0.2, initial_backoff=0.01, max_backoff=0.02)
    async with Dragoman("127.0.0.1:1", retry=policy) as client:
        with pytest.raises(StreamLost) as caught:
            await client.run("example", "hi").text()
    assert (caught.value.run_id, caught.value.last_sequence) == ("", 0)


async def test_the_time_out_is_for_the_whole() -> None:
    world = World(WHOLE, [Cut(2)])
    server = Server(world)
    server.hold_after = 3
    async with serving(server) as (port,), Dragoman(f"127.0.0.1:{port}", retry=QUICK) as client:
        run = client.run("example", "hi", timeout=2)
        with pytest.raises(DeadlineExceeded):
            await run.text()
    assert run.last_sequence == 3


async def _rest(run: Any) -> list[Event]:
    return [event async for event in run]


def address_list(ports: Sequence[int]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


async def test_a_peer_of_the_list_takes_over_from_one_that_dies() -> None:
    world = World(WHOLE)
    one, two = Server(world), Server(world)
    one.hold_after = 2
    server, port = await start(one)
    async with serving(two) as (peer,), Dragoman(address_list([port, peer]), retry=QUICK) as client:
        run = client.run("example", "hi")
        assert [await anext(run), await anext(run)] == WHOLE[:2]
        await server.stop(None)
        assert await _rest(run) == WHOLE[2:]
    assert world.seen == [one, two]


async def test_a_peer_of_the_list_takes_over_from_one_that_drains() -> None:
    """Although that one still takes connections and answers."""
    world = World(WHOLE, [Cut(2, DRAINING)])
    one, two = Server(world), Server(world)
    async with serving(one, two) as ports, Dragoman(address_list(ports), retry=QUICK) as client:
        run = client.run("example", "hi")
        assert [await anext(run), await anext(run)] == WHOLE[:2]
        one.draining = True
        assert await _rest(run) == WHOLE[2:]
    assert world.seen == [one, two]
    assert attached(world) == [2]


async def test_another_run_on_the_old_connection_is_left_in_peace() -> None:
    world = World(WHOLE)
    one, two = Server(world), Server(world)
    one.hold_after = 2
    async with serving(one, two) as ports, Dragoman(address_list(ports), retry=QUICK) as client:
        held = client.run("example", "held here")
        assert [await anext(held), await anext(held)] == WHOLE[:2]
        one.draining = True
        assert [event async for event in client.run("example", "new")] == WHOLE
        reading = asyncio.create_task(_rest(held))
        done, _ = await asyncio.wait({reading}, timeout=0.2)
        assert not done  # its call was not cut
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert world.seen == [one, one, two]


async def test_a_load_balancer_gives_a_fresh_connection_to_a_peer() -> None:
    """One address, behind which each new connection goes to the next server."""
    world = World(WHOLE)
    one, two = Server(world), Server(world)
    one.draining = True
    async with (
        serving(one, two) as ports,
        Balancer(ports) as balancer,
        Dragoman(balancer.address, retry=QUICK) as client,
    ):
        assert [event async for event in client.run("example", "hi")] == WHOLE
    assert world.seen == [one, two]


async def test_servers_that_are_gone_for_a_while() -> None:
    world = World(WHOLE)
    one, two = Server(world), Server(world)
    one.hold_after = 2
    async with (
        serving(one, two) as ports,
        Balancer(ports) as balancer,
        Dragoman(balancer.address, retry=QUICK) as client,
        client.run("example", "hi") as run,
    ):
        assert [await anext(run), await anext(run)] == WHOLE[:2]
        balancer.go_down()
        rest = asyncio.create_task(_rest(run))
        while balancer.refused < 3:
            await asyncio.sleep(0.01)
        assert not rest.done()
        one.hold_after = None  # whose turn it is depends on connections that were given up on the way
        balancer.down = False
        assert await rest == WHOLE[2:]
    assert world.seen[0] is one
    assert attached(world) == [2]


class Balancer:
    """A TCP load balancer: its connections go to the ports in turn; while it is down, they are hung up."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.down = False
        self.refused = 0
        self.address = ""
        self._ports = itertools.cycle(ports)
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.go_down()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def go_down(self) -> None:
        """Hangs up all connections, and those to come."""
        self.down = True
        for pump in self._pumps:
            pump.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            self.refused += 1
            writer.close()
            return
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", next(self._ports))
        for source, sink in ((reader, to_writer), (to_reader, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either side may hang up as it likes
    finally:
        writer.close()


async def test_execute_is_made_again_by_the_same_request() -> None:
    world = World(cuts=[Cut(0), Cut(0, DRAINING)])
    async with client_of(world) as client:
        assert (await client.execute("example", "hi")).content == "answer"
    first, second, third = world.requests
    assert first.request_id
    assert first == second == third


async def test_attaching_after_the_last_event_tells_how_the_run_ended() -> None:
    done = event_pb2.RunCompleted(content="all of it")
    ended = run_service_pb2.Run(id=RUN_ID, session_id=SESSION_ID, last_sequence=4, completed=done)
    async with client_of(World(WHOLE, outcome=ended)) as client:
        run = client.attach(RUN_ID, after_sequence=4)
        assert [event async for event in run] == []
        assert (run.result, run.session_id) == (done, SESSION_ID)
        assert await client.attach(RUN_ID, after_sequence=4).text() == "all of it"


async def test_a_stream_that_ends_early_is_followed_while_the_run_goes_on() -> None:
    running = run_service_pb2.Run(id=RUN_ID, status=run_service_pb2.RUN_STATUS_RUNNING, last_sequence=2)
    world = World(WHOLE, [Cut(0, "ok"), Cut(1, "ok")], outcome=running)
    async with client_of(world) as client:
        assert [event async for event in client.attach(RUN_ID)] == WHOLE
    assert attached(world) == [0, 0, 1]


async def test_a_paused_run_is_gone_on_with() -> None:
    world = World([STARTED, paused(2)])
    async with client_of(world) as client:
        run = client.run("example", "hi")
        with pytest.raises(RunIsPaused) as caught:
            await run.text()
        assert [each.id for each in caught.value.requirements] == ["r1"]
        assert caught.value.run_id == run.run_id == RUN_ID
        assert run.paused is not None

        world.events = [continued(3), delta(4), completed(5)]
        world.cuts = [Cut(0), Cut(1)]
        requirement = run.paused.requirements[0]
        more = client.continue_run(run.run_id, [confirm(requirement)])
        assert [kind(event) async for event in more] == ["run_continued", "content_delta", "run_completed"]
        assert more.paused is None
    first, second, third = world.requests[1:]
    assert first == second  # nobody knows whether the first was done
    assert first.request_id == more.request_id != ""
    assert third == run_service_pb2.AttachRunRequest(
        run_id=RUN_ID, after_sequence=3, detail=run_service_pb2.EVENT_DETAIL_STANDARD
    )


async def test_a_pause_that_was_is_not_the_end() -> None:
    world = World([STARTED, paused(2), continued(3), completed(4)])
    async with client_of(world) as client, client.attach(RUN_ID) as run:
        seen = []
        async for event in run:
            seen.append((kind(event), run.paused is not None))
        assert seen == [
            ("run_started", False),
            ("run_paused", True),
            ("run_continued", False),
            ("run_completed", False),
        ]


async def test_a_queued_run_has_its_ids() -> None:
    queued = Event(
        sequence=1, run_queued=event_pb2.RunQueued(run_id=RUN_ID, session_id=SESSION_ID, position=2)
    )
    world = World([queued, delta(2), completed(3)], [Cut(1)])
    async with client_of(world) as client:
        run = client.run("example", "hi", session=SESSION_ID, conflict="queue")
        assert await anext(run) == queued
        assert (run.run_id, run.session_id) == (RUN_ID, SESSION_ID)
        assert await _rest(run) == [delta(2), completed(3)]
    assert world.requests[0].session_conflict == run_service_pb2.SESSION_CONFLICT_QUEUE


async def test_a_stream_can_cancel_its_run() -> None:
    world = World(WHOLE)
    async with client_of(world) as client, client.run("example", "hi") as run:
        with pytest.raises(RuntimeError, match="not known"):
            await run.cancel()
        await anext(run)
        assert (await run.cancel(note="enough")).id == RUN_ID
    assert world.requests[-1] == run_service_pb2.CancelRunRequest(run_id=RUN_ID, note="enough")


async def test_options_reach_the_server() -> None:
    world = World(WHOLE)
    async with client_of(world) as client:
        await client.run(
            "example",
            "hi",
            max_cost="1.25",
            max_total_tokens=1000,
            max_duration=timedelta(minutes=2),
            conflict="interrupt",
            on_disconnect="cancel",
            request_id="mine",
        ).text()
        await client.run("example", "hi", max_duration=0.5, max_cost=Decimal("0.000000001")).text()
        await client.run("example", "hi").text()
        with pytest.raises(ValueError, match="max_cost"):
            client.run("example", "hi", max_cost="much")
    request, small, plain = world.requests
    assert (request.limits.max_cost.units, request.limits.max_cost.nanos) == (1, 250_000_000)
    assert request.limits.max_total_tokens == 1000
    assert request.limits.max_duration.seconds == 120
    assert request.session_conflict == run_service_pb2.SESSION_CONFLICT_INTERRUPT
    assert request.disconnect_policy == run_service_pb2.DISCONNECT_POLICY_CANCEL
    assert request.request_id == "mine"
    assert (small.limits.max_cost.nanos, small.limits.max_duration.nanos) == (1, 500_000_000)
    assert not plain.HasField("limits")


NEED = event_pb2.Requirement(id="r1")


@pytest.mark.parametrize(
    ("resolution", "answer"),
    [
        (lambda: confirm(NEED), {"confirmation": run_service_pb2.Confirmation(confirmed=True)}),
        (lambda: reject(NEED, "too dear"), {"confirmation": run_service_pb2.Confirmation(note="too dear")}),
        (
            lambda: give_result("r1", "42"),
            {"external_execution": run_service_pb2.ExternalExecution(result="42")},
        ),
        (
            lambda: choose(NEED, {"Which?": "red", "Who?": ["you", "me"]}),
            {
                "user_feedback": run_service_pb2.UserFeedback(
                    choices=[
                        run_service_pb2.UserChoice(question="Which?", labels=["red"]),
                        run_service_pb2.UserChoice(question="Who?", labels=["you", "me"]),
                    ]
                )
            },
        ),
    ],
    ids=["confirm", "reject", "result", "choose"],
)
def test_resolutions(resolution: Callable[[], run_service_pb2.Resolution], answer: dict[str, Any]) -> None:
    assert resolution() == run_service_pb2.Resolution(requirement_id="r1", **answer)


def test_a_resolution_with_values() -> None:
    made = provide_input(NEED, {"days": 3, "city": "Paris"})
    assert dict(made.user_input.values.items()) == {"days": 3.0, "city": "Paris"}
    with pytest.raises(TypeError, match="JSON"):
        provide_input(NEED, {"days": object()})


async def test_who_is_over_a_limit_waits_as_long_as_it_was_told() -> None:
    world = World(WHOLE, [Cut(0, over_limit(0.3)), Cut(0, over_limit(0.2))])
    async with client_of(world) as client:
        began = asyncio.get_running_loop().time()
        assert await client.run("example", "hi").text() == "all of it"
        assert asyncio.get_running_loop().time() - began >= 0.5
    assert world.requests[0] == world.requests[1] == world.requests[2]  # its id makes that harmless


CALLS: dict[str, Callable[[Dragoman], Awaitable[object]]] = {
    "run": lambda client: client.run("example", "hi").text(),
    "execute": lambda client: client.execute("example", "hi"),
}


@pytest.mark.parametrize("retry", [QUICK, None], ids=["patient", "not"])
@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
async def test_a_wait_that_is_too_long_is_the_callers(
    call: Callable[[Dragoman], Awaitable[object]], retry: RetryPolicy | None
) -> None:
    """And nothing was lost: there is no run."""
    world = World(WHOLE, [Cut(0, over_limit(3600))])
    async with client_of(world, retry) as client:
        with pytest.raises(DragomanError) as refused:
            await call(client)
    assert not isinstance(refused.value, StreamLost)
    assert (refused.value.reason, refused.value.retry_after) == ("RATE_LIMITED", 3600)
    assert len(world.requests) == 1
