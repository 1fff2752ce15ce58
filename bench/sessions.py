"""Does a long conversation cost more than a short one? Dragoman alone, with sessions that were filled before it started.

A turn reads the messages of the agent's last runs (20 unless it says otherwise) and claims the session; neither may depend on
how much lies before them. The sessions get turns in blocks, in turn, forwards in one round and backwards in the next, as the
peers do; a short session gets one turn only, for two turns later it would be another session. Then the long one is
read page by page from both ends.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import repeat
from pathlib import Path
from uuid import UUID

import grpc
from agno.metrics import MessageMetrics
from agno.models.message import Message as AgnoMessage
from rich.table import Table

from bench.agents import NAME
from bench.measure import SETTLE, TextLost
from bench.processes import Process, processes
from bench.workload import Workload
from dragoman import ids
from dragoman.adapter.messages import encode
from dragoman.client import Dragoman
from dragoman.records import (
    EventChunk,
    Message,
    Owner,
    Run,
    RunEnd,
    RunStatus,
    Session,
    TokenUsage,
    Totals,
    utcnow,
)
from dragoman.storage import SqlStore, open_store
from dragoman.v1 import session_service_pb2, session_service_pb2_grpc

OWNER = Owner("local")
"""Whoever calls a server that asks for no proof."""

WORK = Workload(20)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """How much."""

    rounds: int = 5
    turns: int = 20
    """Of each length in each round."""
    lengths: tuple[int, ...] = (10, 40, 10_000)
    """Messages that a session has before its turn; the others are compared with the first."""
    page: int = 100
    """Messages of a page, when the longest is read."""


DEFAULT = SessionPlan()
QUICK = SessionPlan(rounds=2, turns=5, lengths=(10, 40, 2000))


@dataclass(frozen=True, slots=True)
class TurnSample:
    """A block of turns. Seconds; the medians of its turns but for CPU."""

    cpu_per_run: float
    started: float
    """From the call to its first event: the run is in the database, its session claimed."""
    first: float
    """From the call to the first text: the history has been read and given to the model."""


@dataclass(slots=True)
class SessionResults:
    """What was measured."""

    turns: dict[int, list[TurnSample]] = field(default_factory=dict)
    """By length, in the order of rounds."""
    pages: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each page of the longest session, by the end at which the reading began."""


async def measure_sessions(
    plan: SessionPlan, progress: Callable[[str], None] = lambda _: None
) -> SessionResults:
    """Fills, serves and measures. Raises ServerFailed, TextLost."""
    results = SessionResults()
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as folder:
        (Path(folder) / "dragoman").mkdir()
        progress("filling sessions")
        sessions = await _fill(Path(folder) / "dragoman" / "dragoman.db", plan)
        progress("starting the server")
        with processes(["dragoman"], Path(folder)) as servers:
            process = servers["dragoman"]
            async with Dragoman(process.address) as client:
                await _turns(client, process, [next(each) for each in sessions.values()])  # not counted
                for number in range(plan.rounds):
                    order = plan.lengths if number % 2 == 0 else plan.lengths[::-1]
                    for length in order:
                        progress(f"round {number + 1} of {plan.rounds}: turns after {length:,} messages")
                        chosen = [next(sessions[length]) for _ in range(plan.turns)]
                        results.turns.setdefault(length, []).append(await _turns(client, process, chosen))
            longest = next(sessions[max(plan.lengths)])
            for order_name, message_order in (
                ("oldest", session_service_pb2.MESSAGE_ORDER_OLDEST_FIRST),
                ("newest", session_service_pb2.MESSAGE_ORDER_NEWEST_FIRST),
            ):
                progress(f"pages, {order_name} first")
                results.pages[order_name] = await _pages(process, longest, message_order, plan)
    return results


async def _turns(client: Dragoman, process: Process, sessions: Sequence[UUID]) -> TurnSample:
    started, first = [], []
    before = process.read().cpu
    for session in sessions:
        begun = time.perf_counter()
        text: list[str] = []
        async with client.run(NAME, WORK.prompt, session=str(session)) as stream:
            async for event in stream:
                if event.HasField("run_started"):
                    started.append(time.perf_counter() - begun)
                elif event.HasField("content_delta"):
                    if not text:
                        first.append(time.perf_counter() - begun)
                    text.append(event.content_delta.text)
        if "".join(text) != WORK.text:
            raise TextLost(f"a turn of session {session} lost text")
    time.sleep(SETTLE)  # noqa: ASYNC251 - nothing else is to run meanwhile
    cpu = process.read().cpu - before
    return TurnSample(cpu / len(sessions), statistics.median(started), statistics.median(first))


async def _pages(
    process: Process, session: UUID, order: session_service_pb2.MessageOrder.ValueType, plan: SessionPlan
) -> list[float]:
    took: list[float] = []
    seen = 0
    async with grpc.aio.insecure_channel(process.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        request = session_service_pb2.ListMessagesRequest(
            session_id=str(session), order=order, page_size=plan.page
        )
        await stub.ListMessages(_page_at(request, ""))  # opens the connection
        token: str | None = ""
        while token is not None:
            begun = time.perf_counter()
            response = await stub.ListMessages(_page_at(request, token))
            took.append(time.perf_counter() - begun)
            seen += len(response.messages)
            token = response.next_page_token or None
    if seen < max(plan.lengths):
        raise TextLost(f"{seen} of {max(plan.lengths)} messages were listed")
    return took


def _page_at(
    request: session_service_pb2.ListMessagesRequest, token: str
) -> session_service_pb2.ListMessagesRequest:
    """The same request for the page that begins there."""
    other = session_service_pb2.ListMessagesRequest()
    other.CopyFrom(request)
    other.page_token = token
    return other


async def _fill(file: Path, plan: SessionPlan) -> dict[int, Iterator[UUID]]:
    """Makes a database with sessions of each length. Returns the one to use next, by length."""
    store = open_store(f"sqlite:///{file}", sqlite_synchronous="NORMAL")
    await store.open(migrate=True)
    pickers: dict[int, Iterator[UUID]] = {}
    try:
        for length in plan.lengths:
            # A session whose history is not full yet is another one after each turn; a full one stays alike.
            needed = plan.rounds * plan.turns + 1 if length < FULL else 1
            made = [await _session(store, length) for _ in range(needed)]
            pickers[length] = iter(made) if length < FULL else repeat(made[0])
    finally:
        await store.close()
    return pickers


FULL = 40
"""Messages from which on a turn reads no more: the 20 runs that agents read by default, with two messages each."""


async def _session(store: SqlStore, length: int) -> UUID:
    now = utcnow() - timedelta(days=1)
    session = Session(ids.new_id(), OWNER, NAME, "", {}, {}, now, now)
    for number in range(length // 2):
        at = now + timedelta(seconds=number)
        run = Run(
            id=ids.new_id(),
            session_id=session.id,
            owner=OWNER,
            agent_name=NAME,
            model="claude-haiku-4-5",
            provider="Anthropic",
            status=RunStatus.RUNNING,
            metadata={},
            create_time=at,
            update_time=at,
            totals=Totals(currency="ZAR"),
        )
        await store.start_run(run, session if number == 0 else None)
        usage = TokenUsage(12, WORK.deltas)
        said = AgnoMessage(role="user", content=WORK.prompt, created_at=int(at.timestamp()))
        metrics = MessageMetrics(input_tokens=12, output_tokens=WORK.deltas, total_tokens=12 + WORK.deltas)
        answer = AgnoMessage(
            role="assistant", content=WORK.text, metrics=metrics, created_at=int(at.timestamp())
        )
        await store.end_run(
            RunEnd(
                run_id=run.id,
                session_id=session.id,
                owner=OWNER,
                status=RunStatus.COMPLETED,
                end_time=at,
                chunk=EventChunk(run.id, 1, 1, (b"",)),
                totals=Totals(usage, currency="ZAR"),
                messages=(_row(run, said, None), _row(run, answer, usage)),
            )
        )
    return session.id


def _row(run: Run, message: AgnoMessage, usage: TokenUsage | None) -> Message:
    row = Message(
        id=ids.new_id(),
        run_id=run.id,
        parent_run_id=None,
        agent_name=run.agent_name,
        role=message.role,
        provider="",
        model="",
        parts=encode(message).parts,
        create_time=run.create_time,
    )
    return row if usage is None else replace(row, provider=run.provider, model=run.model, usage=usage)


FIGURES: dict[str, Callable[[TurnSample], float]] = {
    "CPU/run": lambda sample: sample.cpu_per_run,
    "started": lambda sample: sample.started,
    "first text": lambda sample: sample.first,
}


def ratios(results: SessionResults, length: int, figure: str) -> list[float]:
    """A figure beside that of the shortest session, round by round."""
    base = results.turns[min(results.turns)]
    read = FIGURES[figure]
    return [read(one) / read(other) for one, other in zip(results.turns[length], base, strict=True)]


def session_tables(plan: SessionPlan, results: SessionResults) -> list[Table]:
    """One of turns, one of pages. Medians over the rounds, with the lowest and the highest; milliseconds."""
    turns = Table(
        title=f"sessions: {plan.turns} turns of {WORK.deltas} deltas after so many messages",
        title_justify="left",
        title_style="bold",
    )
    turns.add_column("messages", justify="right", no_wrap=True)
    for name in FIGURES:
        turns.add_column(f"{name}\nms", justify="right", no_wrap=True)
        turns.add_column("ratio", justify="right", no_wrap=True)
    for length in sorted(results.turns):
        cells = []
        for name, read in FIGURES.items():
            cells.append(_cell([read(sample) * 1e3 for sample in results.turns[length]]))
            cells.append(_cell(ratios(results, length, name)))
        turns.add_row(f"{length:,}", *cells)
    pages = Table(
        title=f"pages of {plan.page} of {max(plan.lengths):,} messages",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("first", "pages", "median\nms", "99 %\nms", "slowest\nms"):
        pages.add_column(heading, justify="left" if heading == "first" else "right", no_wrap=True)
    for order, took in results.pages.items():
        slow = sorted(took)
        high = slow[min(len(slow) - 1, round(len(slow) * 0.99))]
        figures = (statistics.median(took), high, slow[-1])
        pages.add_row(order, str(len(took)), *(f"{each * 1e3:.1f}" for each in figures))
    return [turns, pages]


def _cell(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.2f}" if low == high else f"{middle:.2f}\n[dim]{low:.2f}-{high:.2f}[/dim]"
