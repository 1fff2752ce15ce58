"""A hundred clients on three servers that are killed, stopped and cut off at random: everybody gets the truth.

The seed decides what the clients ask for and what is done to the servers; `CHAOS_SEED=17 make test-chaos ARGS="-k chaos"`
does it again. How the two meet differs from time to time.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from support.fleet import Fleet, fleet
from support.following import assert_same, assert_whole, kind, text_of
from support.ledger import assert_booked, booked_calls
from support.mariadb import MariaDBServer
from support.processes import ServerProcess, note
from support.provider import KINDS, Part, Provider

from dragoman.client import Dragoman
from dragoman.records import TokenUsage
from dragoman.v1 import event_pb2, run_service_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(400)]

SEED = int(os.environ.get("CHAOS_SEED", "1"))
SERVERS, RUNS = 3, 100
SECONDS = 60.0
"""For so long clients come, and servers go."""

ABANDONED, DRAINED = event_pb2.CANCEL_REASON_ABANDONED, event_pb2.CANCEL_REASON_DRAINED


@dataclass
class Client:
    """Somebody who wants a run, and what he saw of it."""

    part: Part
    request_id: str
    start: float
    in_session: bool
    """Whether he makes a session first."""
    session_id: str = ""
    run_id: str = ""
    seen: list[event_pb2.RunEvent] = field(default_factory=list)

    @property
    def end(self) -> event_pb2.RunEvent:
        """The last event."""
        return self.seen[-1]

    async def live(self, address: str) -> None:
        """Comes, asks, and follows to the end, with the client as anybody has it."""
        await asyncio.sleep(self.start)
        async with Dragoman(address) as client:
            if self.in_session:
                self.session_id = (await client.create_session(self.part.agent)).id
            async with client.run(
                self.part.agent,
                self.part.message,
                session=self.session_id or None,
                metadata={"part": self.part.name},
                detail="all",
                request_id=self.request_id,
            ) as run:
                async for event in run:
                    if kind(event) != "heartbeat":
                        self.seen.append(event)
            self.session_id, self.run_id = run.session_id, run.run_id


def crowd(dice: random.Random) -> list[Client]:
    """Who comes, and when. Each tenth has a double, who asks for the same at the same time."""
    clients = []
    for number in range(RUNS):
        part = Part(f"r{number}", dice.choice(KINDS), dice.randrange(10, 160), 0.05)
        start, in_session = dice.uniform(0, SECONDS - 10), number % 2 == 0
        clients.append(Client(part, f"request {number}", start, in_session))
        if number % 10 == 1:  # without a session: theirs would not be the same
            clients.append(Client(part, f"request {number}", start, in_session))
    return clients


async def disturb(servers: Fleet, dice: random.Random) -> None:
    """Kills, stops and cuts off servers in turn, of which one at least always serves, and starts them again."""
    returning: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + SECONDS

    async def stop(server: ServerProcess, kill: bool) -> None:
        await (server.kill() if kill else server.terminate())
        await server.start()

    while loop.time() < until:
        for deed in dice.sample(("kill", "kill", "stop", "stop", "cut", "cut"), 6):
            await asyncio.sleep(dice.uniform(1.0, 3.0))
            for task in returning:
                if task.done():
                    task.result()  # a server that cannot start again ends the test now
            ready = [server for server in servers.servers if server.serving]
            if deed == "cut":
                server = dice.choice(ready)
                note(f"connections to server {server.name} are cut")
                servers.proxy.cut(servers.servers.index(server))
            elif len(ready) > 1:
                server = dice.choice(ready)
                server.serving = False
                returning.append(asyncio.create_task(stop(server, deed == "kill")))
    await asyncio.gather(*returning)


def assert_true_to_store(
    client: Client, stored: Sequence[event_pb2.RunEvent], run: run_service_pb2.Run
) -> None:
    """What a client saw is what is stored, and it is one of the ends that there may be."""
    seen, end = client.seen, client.end
    assert_whole(seen)
    assert_whole(stored)
    if kind(end) == "run_completed":
        assert text_of(seen) == end.run_completed.content == client.part.text
    else:
        assert end.run_cancelled.reason in (ABANDONED, DRAINED), end
        assert client.part.text.startswith(text_of(seen))
        assert end.run_cancelled.content == text_of(stored)
    if end.run_cancelled.reason == ABANDONED:
        # He may have seen what his server had not stored when it was killed.
        assert len(seen) >= len(stored)
        assert_same([*seen[: len(stored) - 1], end], stored)
    else:
        assert_same(seen, stored)
    outcome = run.WhichOneof("outcome") or ""
    assert_same([getattr(run, outcome)], [getattr(end, f"run_{outcome}")])


def assert_ledger(
    client: Client, run: run_service_pb2.Run, booked: Sequence[TokenUsage], model: Provider, servers: Fleet
) -> None:
    """It was executed once at most, and the ledger has what it was billed."""
    asked = model.of(client.part)
    steps = [each.step for each in asked]
    assert steps == list(range(len(steps)))
    if kind(client.end) == "run_completed":
        assert len(steps) == client.part.steps
    assert len(booked) <= len(asked)
    for number, each in enumerate(asked):
        assert_booked(each, booked[number] if number < len(booked) else TokenUsage(), servers.killed)
    total = sum(booked, TokenUsage())
    assert (run.usage.input_tokens, run.usage.output_tokens) == (total.input_tokens, total.output_tokens)
    assert run.usage.cache_read_tokens == total.cache_read_tokens
    assert run.model_calls == len(booked)
    if client.end.run_cancelled.reason == ABANDONED:
        assert all(each.process in servers.killed for each in asked[-1:]), "its server was alive"


async def next_turn(client: Client, door: Dragoman) -> None:
    """The session is free, and goes on."""
    assert (await door.get_session(client.session_id)).active_run_id == ""
    part = Part(f"next-{client.part.name}", client.part.kind, 5, 0.0)
    assert await door.run(part.agent, part.message, session=client.session_id).text() == part.text


async def test_everybody_gets_the_truth(mariadb: MariaDBServer, url: str, tmp_path: Path) -> None:
    note(f"the seed is {SEED}")
    dice = random.Random(SEED)
    clients = crowd(dice)
    async with fleet(url, tmp_path, SERVERS, drain_grace=2) as (servers, model):
        living = [asyncio.create_task(client.live(servers.address)) for client in clients]
        await disturb(servers, dice)
        await asyncio.gather(*living)
        note(f"ends: {dict(Counter(how(client.end) for client in clients))}")

        async with Dragoman(servers.address) as door:
            runs = {run.id: run async for run in door.list_runs(page_size=200)}
            names = Counter(run.metadata["part"] for run in runs.values())
            assert names == Counter({client.part.name: 1 for client in clients})
            booked = booked_calls(mariadb, url)
            for client in clients:
                stored = [event async for event in door.attach(client.run_id, detail="all")]
                assert_true_to_store(client, stored, runs[client.run_id])
                assert_ledger(
                    client, runs[client.run_id], booked.get(UUID(client.run_id), []), model, servers
                )
            usage = [group async for group in door.query_usage()]
            assert usage[0].model_calls == sum(map(len, booked.values()))
            everything = sum((call for calls in booked.values() for call in calls), TokenUsage())
            assert usage[0].usage.output_tokens == everything.output_tokens

            sessions = {client.session_id: client for client in clients}
            await asyncio.gather(*(next_turn(client, door) for client in sessions.values()))
            assert all(len(model.of(Part(f"next-{c.part.name}", "plain", 0, 0.0))) for c in sessions.values())


def how(event: event_pb2.RunEvent) -> str:
    """How a run ended, in a word."""
    if kind(event) == "run_cancelled":
        return event_pb2.CancelReason.Name(event.run_cancelled.reason)
    return kind(event)
