"""Clients that do not speak gRPC as they should, on a server in a process of its own: it lives, forgets them, serves others.

After each attack the process is the same, has no more open files than before, and not much more memory. What "not much" is
depends on the attack: one may fill what a connection and its streams are allowed, and the allocator keeps some of it.
"""

import asyncio
import contextlib
import gzip
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from hpack import Encoder
from support.processes import ServerProcess
from support.target import judge
from support.wire import (
    CONTINUATION,
    HEADERS,
    LIST_AGENTS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Wire,
    frame,
    message,
)

from dragoman.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
)

pytestmark = pytest.mark.timeout(300)

MB = 1024 * 1024
PIECES, SIZE = 30, 40_000
"""What the agent says: see hostile_agents.py."""

FEW = 8
"""Files that a server opens when it first needs them: connections of its database."""

PATIENCE = 60.0
"""Seconds for what takes one or two."""

GROWTH = 150 * MB
"""What a server may need for an attack, with room for what the allocator keeps. The attacks send, or claim, far more."""

HANDSHAKE = 2.0
"""Seconds, so that the test need not wait long."""

RECEIVED = 1 * MB
"""Bytes of a request at most."""


class Victim:
    """The server, and how much it has."""

    def __init__(self, process: ServerProcess) -> None:
        self.port = int(process.address.rpartition(":")[2])
        self.process = process

    @property
    def files(self) -> int:
        """How many the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def serves(self) -> None:
        """A well-behaved client is served. It may be told to come again, as long as it is told so in our words."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=own) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await stub.ListAgents(agent_service_pb2.ListAgentsRequest(), timeout=PATIENCE)
                    except grpc.aio.AioRpcError as error:
                        if judge(error) != "RATE_LIMITED":
                            raise
                        await asyncio.sleep(0.1)
                    else:
                        return


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("victim")
    agents = Path(__file__).with_name("hostile_agents.py")
    settings = {"handshake_timeout": HANDSHAKE, "max_receive_bytes": RECEIVED}
    flags = [flag for name, value in settings.items() for flag in ("--set", f"{name}={value}")]
    url = f"sqlite:///{folder / 'victim.db'}"
    arguments = ["--agents", f"{agents}:agents", "--no-entry-points", "--database-url", url, *flags]
    started = ServerProcess("victim", arguments, folder, {})
    try:
        asyncio.run(started.start())
        asyncio.run(Victim(started).serves())
        yield started
    finally:
        asyncio.run(started.close())


@pytest.fixture
async def victim(process: ServerProcess) -> AsyncIterator[Victim]:
    """The server, which must be as it was when the attack is over."""
    made = Victim(process)
    await made.serves()
    pid, files, memory = process.pid, made.files, process.resident()
    yield made
    await made.serves()
    async with asyncio.timeout(PATIENCE):
        while made.files > files + FEW:
            await asyncio.sleep(0.05)
    assert process.running
    assert process.pid == pid
    grown = process.resident() - memory
    assert grown < GROWTH, f"{grown // MB} MB more"
    log = process.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert "by a defect" not in log


# Requests that are wrong: what the caller is told.

ASK = "/dragoman.v1.AgentService/GetAgent"
GZIP = [("grpc-encoding", "gzip")]
BOMB = gzip.compress(bytes(12 * MB), 9)

WRONG: dict[str, tuple[str, list[tuple[str, str]], bytes, str]] = {
    # gRPC's own codes: 3 INVALID_ARGUMENT, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED, 13 INTERNAL
    "a message of 4 GB, it says": (ASK, [], message(b"x", length=2**32 - 1), "8"),
    "compressed, it says": (ASK, [], message(b"x" * 10, compressed=True), "13"),
    "compressed garbage": (ASK, GZIP, message(b"x" * 10, compressed=True), "12"),
    "a bomb": (ASK, GZIP, message(BOMB, compressed=True), "12"),
    "an unknown compression": (ASK, [("grpc-encoding", "snappy")], message(b""), "13"),
    "no such method": ("/dragoman.v1.AgentService/Nothing", [], message(b""), "12"),
    "no such service": ("/../../etc/passwd", [], message(b""), "12"),
    "a message that is none": (ASK, [], message(b"\xff" * 20), "3"),
    "two messages": (ASK, [], message(b"") * 2, "*"),
    "metadata of 40 KB": (ASK, [("x-much", "v" * 40_000)], message(b""), "*"),
    "metadata of 3000 names": (ASK, [(f"x-{each}", "v" * 20) for each in range(3000)], message(b""), "*"),
    "metadata that is no text": (ASK, [("x-odd", "caf\xe9\x01")], message(b""), "*"),
    "binary metadata that is no base64": (ASK, [("x-odd-bin", "!!!")], message(b""), "*"),
    "two keys": (ASK, [("x-api-key", "a"), ("x-api-key", "b")], message(b""), "*"),
    "a name in capitals": (ASK, [("X-Api-Key", "a")], message(b""), "*"),
    "a pseudo-header of no meaning": (ASK, [(":evil", "x")], message(b""), "*"),
    "a second path": (ASK, [(":path", LIST_AGENTS)], message(b""), "*"),
    "a time-out that is none": (ASK, [("grpc-timeout", "-5x")], message(b""), "*"),
    "a time-out of ages": (ASK, [("grpc-timeout", "99999999H")], message(b""), "*"),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_wrong_requests_are_answered(kind: str, victim: Victim) -> None:
    path, extra, body, code = WRONG[kind]
    async with asyncio.timeout(PATIENCE), await Wire.connect(victim.port) as wire:
        answer = await wire.ask(wire.headers(path, extra), body)
        if code == "*":
            # In whatever way, but in some.
            assert wire.ended or wire.closed
            assert answer.get("grpc-status") != "2", answer
        else:
            assert answer.get("grpc-status") == code, answer


# Whole connections.


async def not_http2(victim: Victim) -> None:
    """HTTP/1.1, TLS and noise where HTTP/2 is spoken."""
    for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + bytes(300), bytes(range(256)) * 40):
        wire = await Wire.connect(victim.port)
        with contextlib.suppress(ConnectionError):
            await wire.send(words)
        await wire.gone()
        wire.writer.close()


async def say_too_little(victim: Victim) -> None:
    """Connections that say nothing, a part of the preface, or the preface and no more, are closed."""
    wires = [await Wire.connect(victim.port) for _ in range(150)]
    for number, wire in enumerate(wires):
        await wire.send((b"", PREFACE[:7], PREFACE)[number % 3])
    await victim.serves()
    await asyncio.gather(*(wire.gone() for wire in wires))
    for wire in wires:
        wire.writer.close()


async def acknowledge_nothing(victim: Victim) -> None:
    """A client that never acknowledges the settings is closed."""
    wire = await Wire.connect(victim.port)
    await wire.send(PREFACE + frame(SETTINGS, 0, 0))
    await wire.gone()
    wire.writer.close()


async def open_streams(victim: Victim, then: Callable[[int], bytes]) -> None:
    """Ten thousand on one connection, as fast as they can be written; `then`: what follows the headers of each."""
    async with await Wire.connect(victim.port) as wire:
        block = Encoder().encode(wire.headers(), huffman=False)
        with contextlib.suppress(ConnectionError):
            for first in range(1, 20_000, 200):
                streams = range(first, first + 200, 2)
                await wire.send(b"".join(frame(HEADERS, 4, each, block) + then(each) for each in streams))
        await victim.serves()


async def reset_rapidly(victim: Victim) -> None:
    """Streams that are opened and reset at once, as fast as they can be written."""
    await open_streams(victim, lambda stream: frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))


async def leave_streams_open(victim: Victim) -> None:
    """Streams that begin and never say more."""
    await open_streams(victim, lambda _: b"")


async def never_end_headers(victim: Victim) -> None:
    """20 MB of names and values in one call, which never comes to its end."""
    async with await Wire.connect(victim.port) as wire:
        encoder = Encoder()
        with contextlib.suppress(ConnectionError):
            await wire.send(frame(HEADERS, 0, 1, encoder.encode(wire.headers())))
            for each in range(1500):
                more = encoder.encode([(f"x-{each}", "v" * 14_000)], huffman=False)
                await wire.send(frame(CONTINUATION, 0, 1, more))
        await victim.serves()


async def ping_without_end(victim: Victim) -> None:
    """More pings than any keepalive: the connection is closed."""
    async with await Wire.connect(victim.port) as wire:
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                await wire.send(frame(PING, 0, 0, b"12345678") * 500)
        await wire.gone()


async def set_without_end(victim: Victim) -> None:
    """Settings, again and again."""
    async with await Wire.connect(victim.port) as wire:
        with contextlib.suppress(ConnectionError):
            for each in range(100):
                await wire.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535 + each % 2)) * 500)
        await victim.serves()


async def send_no_message(victim: Victim) -> None:
    """Calls that end without their message, or in the middle of it: gRPC leaves them open, and they go with the connection."""
    async with await Wire.connect(victim.port) as wire:
        for number in range(500):
            stream = wire.open(wire.headers(), end=number % 2 == 0)
            if number % 2:
                wire.h2.send_data(stream, message(b"xx", length=9), end_stream=True)
            await wire.flush()
        await victim.serves()


async def drip(victim: Victim) -> None:
    """A call a byte at a time: it is a call all the same."""
    async with await Wire.connect(victim.port) as wire:
        stream = wire.open(wire.headers())
        wire.h2.send_data(stream, message(b""), end_stream=True)
        for byte in wire.h2.data_to_send():
            await wire.send(bytes([byte]))
        await wire.until(lambda: stream in wire.ended)
        assert wire.answers[stream]["grpc-status"] == "0"


async def leave_in_the_middle(victim: Victim) -> None:
    """Calls whose connection is reset while they are sent or answered."""
    for _ in range(100):
        async with await Wire.connect(victim.port) as wire:
            stream = wire.open(wire.headers())
            wire.h2.send_data(stream, message(b"", length=1000))
            await wire.flush()


async def read_nothing(victim: Victim) -> None:
    """Answers of 1.2 MB, to windows of 64 KB, that nobody takes: other callers have theirs."""
    body = message(run_service_pb2.RunRequest(agent_name="talker", message="talk").SerializeToString())
    run = "/dragoman.v1.RunService/Run"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            wire = await stack.enter_async_context(await Wire.connect(victim.port))
            stream = wire.open(wire.headers(run))
            wire.h2.send_data(stream, body, end_stream=True)
            await wire.flush()
        await victim.serves()
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{victim.port}", options=own) as channel:
            request = run_service_pb2.RunRequest(agent_name="talker", message="talk")
            stub = run_service_pb2_grpc.RunServiceStub(channel)
            events = [event async for event in stub.Run(request, timeout=PATIENCE)]
        assert sum(len(event.content_delta.text) for event in events) == PIECES * SIZE
        assert events[-1].WhichOneof("event") == "run_completed"


ATTACKS: list[Callable[[Victim], Awaitable[None]]] = [
    not_http2,
    say_too_little,
    acknowledge_nothing,
    reset_rapidly,
    leave_streams_open,
    never_end_headers,
    ping_without_end,
    set_without_end,
    send_no_message,
    drip,
    leave_in_the_middle,
    read_nothing,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_the_server_outlives(attack: Callable[[Victim], Awaitable[None]], victim: Victim) -> None:
    async with asyncio.timeout(PATIENCE):
        await attack(victim)
