"""A bench on which the adapter's runner runs agents: sessions in memory, real prices, nothing else faked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.team import Team

from dragoman import ids
from dragoman.adapter import AgnoMessageView, AgnoRun, AgnoRunner
from dragoman.engine.ports import InputMedia, Outcome, RunOrder
from dragoman.pricing import Pricer
from dragoman.records import Media, Message, ModelCall, Owner, Session, TokenUsage, utcnow
from dragoman.testing.anthropic import FakeAnthropic
from dragoman.v1 import event_pb2, message_pb2

OWNER = Owner("tester")
PRICER = Pricer.load(currency="ZAR")
HAIKU = "claude-haiku-4-5"


@dataclass
class Ran:
    """What came of a run, and what was seen of it."""

    run: AgnoRun
    events: list[event_pb2.RunEvent] = field(default_factory=list)
    shown: list[message_pb2.Message] = field(default_factory=list)
    """What callers see of the session's messages after it, where a test has asked."""

    @property
    def run_id(self) -> UUID:
        return self.run._order.run_id

    @property
    def outcome(self) -> Outcome:
        return self.run.outcome()

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.WhichOneof("event") or "" for event in self.events]

    def of(self, kind: str) -> list[object]:
        """The events of one kind."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]


class FreeMeter:
    """Lets every call pass until it is `closed`; keeps what it is told when it is `recording`."""

    def __init__(self) -> None:
        self.closed = False
        self.recording = False
        self.asked = 0
        self.noted: list[tuple[ModelCall, bool]] = []
        self.refused = asyncio.Event()

    def may_call(self) -> bool:
        self.asked += 1
        if self.closed:
            self.refused.set()
        return not self.closed

    def note(self, call: ModelCall, *, under_way: bool) -> None:
        if self.recording:
            self.noted.append((call, under_way))


class Bench:
    """Runs turns of one session, and keeps what they leave, as the engine and the store do."""

    def __init__(self, build: Callable[[], Agent | Team], *, timeout: float, retries: int) -> None:
        self.build_agent = build
        self.meter = FreeMeter()
        self.runs: int | None = None
        self.messages: list[Message] = []
        self.media: dict[bytes, Media] = {}
        self.reminded = 0
        """How often members' earlier messages were asked for."""
        now = utcnow()
        self.session = Session(ids.new_id(), OWNER, "agent", "", {}, {}, now, now)
        self.runner = AgnoRunner(self, self, PRICER, model_timeout=timeout, model_retries=retries)

    def build(self, name: str, order: RunOrder) -> Agent | Team:
        return self.build_agent()

    def history_runs(self, name: str) -> int | None:
        return self.runs

    async def load_history(self, owner: Owner, session_id: UUID, runs: int | None) -> list[Message]:
        own = [message for message in self.messages if message.parent_run_id is None]
        kept = list(dict.fromkeys(message.run_id for message in own))
        kept = kept if runs is None else kept[-runs:]
        return [message for message in own if message.run_id in kept]

    async def load_member_history(
        self, owner: Owner, session_id: UUID, names: Sequence[str], each: int, last: int
    ) -> list[Message]:
        self.reminded += 1
        roots = {message.run_id for message in self.messages if message.parent_run_id is None}
        said = [m for m in self.messages if m.agent_name in names and m.parent_run_id in roots]
        kept: set[UUID] = set()
        for name in names:
            kept.update(list(dict.fromkeys(m.run_id for m in said if m.agent_name == name))[-each:])
        return [message for message in said if message.run_id in kept]

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        return {sha256: self.media[sha256] for sha256 in hashes if sha256 in self.media}

    def begin(self, message: str, media: Sequence[InputMedia] = ()) -> AgnoRun:
        order = RunOrder(ids.new_id(), OWNER, self.session, "agent", message, tuple(media), {}, {})
        return self.runner.begin(order, self.meter)

    async def turn(self, message: str, media: Sequence[InputMedia] = ()) -> Ran:
        """A whole run, its messages kept."""
        ran = Ran(self.begin(message, media))
        async with aclosing(ran.run.events()) as events:
            async for event in events:
                ran.events.append(event)
        self.keep(ran.outcome)
        return ran

    def keep(self, outcome: Outcome) -> None:
        """Stores what a run has left."""
        self.messages.extend(outcome.messages)
        self.media.update((medium.sha256, medium) for medium in outcome.media)


@asynccontextmanager
async def bench(
    build: Callable[[], Agent | Team], *, timeout: float = 20.0, retries: int = 0
) -> AsyncIterator[Bench]:
    """A bench whose runner is closed at the end."""
    made = Bench(build, timeout=timeout, retries=retries)
    try:
        yield made
    finally:
        await made.runner.close()


def claude(fake: FakeAnthropic, model: str = HAIKU, **settings: object) -> Claude:
    """Agno's Claude, pointed at the fake."""
    return Claude(id=model, api_key="key", client_params={"base_url": fake.url}, **settings)  # type: ignore[arg-type]  # settings are Claude's own fields


def spent(calls: Sequence[ModelCall]) -> TokenUsage:
    """The tokens of all calls."""
    return sum((call.usage for call in calls), TokenUsage())


def shown(bench: Bench) -> list[message_pb2.Message]:
    """What callers see of the messages that are kept."""
    view = AgnoMessageView()
    return [view.show(message, {}) for message in bench.messages]
