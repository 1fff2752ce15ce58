"""Certificates and authorities are replaced while everybody calls, in every way that deployments know: no call fails."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support.certificates import Authority, Pem
from support.e2e import Stubs
from support.processes import ServerProcess, note

from dragoman.v1 import agent_service_pb2, run_service_pb2

pytestmark = pytest.mark.timeout(240)

PATIENCE = 120.0
CALLERS = 3
BILLING = "spiffe://mesh.example/ns/shop/sa/billing"
GRANTS = [{"identity": "spiffe://mesh.example/ns/*/sa/billing", "principal": "billing"}]

AGENTS = """
from agno.agent import Agent
from dragoman.records import TokenUsage
from dragoman.testing.scripted import Pause, ScriptedModel


def talk(request):
    return [*(["word ", Pause(0.05)] * 10_000), TokenUsage(input_tokens=1, output_tokens=1)]


agents = [Agent(name="desk", model=ScriptedModel(respond=talk), telemetry=False)]
"""


class Mounted:
    """A folder as Kubernetes mounts a secret: files are links through `..data`, which is swapped for all of them at once."""

    def __init__(self, folder: Path, **content: bytes) -> None:
        self.folder = folder
        self._content = content
        self._generation = 0
        folder.mkdir()
        self.swap()
        for name in content:
            (folder / name).symlink_to(Path("..data", name))

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def swap(self, **content: bytes) -> None:
        """Replaces some files, all at once."""
        self._content |= content
        self._generation += 1
        made = self.folder / f"..{self._generation}"
        made.mkdir()
        for name, data in self._content.items():
            (made / name).write_bytes(data)
        link = self.folder / "..new"
        link.symlink_to(made.name)
        os.replace(link, self.folder / "..data")

    def write(self, name: str, data: bytes) -> None:
        """Writes one file in place."""
        self._content[name] = data
        self[name].write_bytes(data)

    def rename(self, name: str, data: bytes) -> None:
        """Puts another file in the place of one."""
        part = self.folder / "part"
        part.write_bytes(data)
        os.replace(part, self[name])


class Load:
    """Callers that connect anew with every other call, one that stays, and a stream that stays open."""

    def __init__(self, address: str, roots: bytes, mine: Pem) -> None:
        self.address, self.roots, self.mine = address, roots, mine
        self.calls = 0
        self.events = 0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        work = [*(self._come_and_go() for _ in range(CALLERS)), self._stay(), self._follow()]
        self._tasks = [asyncio.create_task(each) for each in work]
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self, calls: int = 30) -> None:
        """Returns when so many more calls were answered, and the stream has told more. Raises what any caller met with."""
        calls, events = self.calls + calls, self.events + 2
        async with asyncio.timeout(PATIENCE):
            while self.calls < calls or self.events < events:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def connected(self, mine: Pem | None = None) -> AsyncIterator[Stubs]:
        """Stubs on a connection of their own."""
        mine = mine or self.mine
        proof = grpc.ssl_channel_credentials(self.roots, mine.key, mine.certificate)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        async with grpc.aio.secure_channel(self.address, proof, options) as channel:
            yield Stubs(channel)

    async def _call(self, stub: Stubs) -> None:
        await stub.agents.ListAgents(agent_service_pb2.ListAgentsRequest(), timeout=PATIENCE)
        self.calls += 1

    async def _come_and_go(self) -> None:
        while not self._stop.is_set():
            async with self.connected() as stub:
                await self._call(stub)
                await self._call(stub)

    async def _stay(self) -> None:
        async with self.connected() as stub:
            while not self._stop.is_set():
                await self._call(stub)
                await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        request = run_service_pb2.RunRequest(
            agent_name="desk",
            message="Talk.",
            disconnect_policy=run_service_pb2.DISCONNECT_POLICY_CANCEL,
        )
        async with self.connected() as stub:
            stream = stub.runs.Run(request)
            while not self._stop.is_set():
                assert await stream.read() is not grpc.aio.EOF
                self.events += 1
            stream.cancel()

    async def serial(self) -> int:
        """Of the server's certificate, as a new connection sees it."""
        context = ssl.create_default_context(cadata=self.roots.decode())
        context.set_alpn_protocols(["h2"])
        host, _, port = self.address.rpartition(":")
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            with suppress(OSError):  # the server may be quicker: it wants a certificate of us
                await writer.wait_closed()
        return x509.load_der_x509_certificate(found).serial_number


def serial(pem: Pem) -> int:
    return x509.load_pem_x509_certificate(pem.certificate).serial_number


@asynccontextmanager
async def loaded(folder: Path, files: Mounted, roots: bytes, mine: Pem) -> AsyncIterator[tuple[Load, Path]]:
    """A server process and its callers; and the server's log."""
    agents = folder / "agents.py"
    agents.write_text(AGENTS)
    environment = {
        "DRAGOMAN_AUTH": "certificates",
        "DRAGOMAN_CERTIFICATES": json.dumps(GRANTS),
        "DRAGOMAN_TLS_CERT": str(files["crt"]),
        "DRAGOMAN_TLS_KEY": str(files["key"]),
        "DRAGOMAN_TLS_CLIENT_CA": str(files["ca"]),
        "DRAGOMAN_DRAIN_GRACE": "1",
    }
    url = f"sqlite:///{folder / 'served.db'}"
    arguments = ["--agents", f"{agents}:agents", "--no-entry-points", "--database-url", url]
    async with AsyncExitStack() as stack:
        server = ServerProcess("a", arguments, folder, environment)
        stack.push_async_callback(server.close)
        await server.start()
        yield await stack.enter_async_context(Load(server.address, roots, mine)), server.log


def refusals(log: Path, why: str) -> int:
    """How often it was logged that new files cannot be used for a reason."""
    lines = log.read_text().splitlines()
    return sum("a new certificate cannot be used" in line and why in line for line in lines)


MISMATCH = "key values mismatch"


async def test_certificate_and_key_are_replaced_in_every_way(tmp_path: Path) -> None:
    authority = Authority()
    old = authority.server()
    files = Mounted(tmp_path / "tls", crt=old.certificate, key=old.key, ca=authority.certificate)
    async with loaded(tmp_path, files, authority.certificate, authority.client(BILLING)) as (load, log):
        assert await load.serial() == serial(old)
        for _ in range(3):
            new = authority.server()
            files.swap(crt=new.certificate, key=new.key)
            assert await load.serial() == serial(new)
            await load.more()
        for number, order in enumerate((("crt", "key"), ("key", "crt")), start=1):
            old, new = new, authority.server()
            content = {"crt": new.certificate, "key": new.key}
            files.write(order[0], content[order[0]])
            await load.more()  # all of these look at the files, and one tells of them
            assert await load.serial() == serial(old)
            assert refusals(log, MISMATCH) == number
            files.write(order[1], content[order[1]])
            assert await load.serial() == serial(new)
            await load.more()
        # Half of a certificate, nothing at all, and one that has ended.
        old = new
        ended = authority.client("localhost", "127.0.0.1", end=timedelta(minutes=-1))
        for broken in (old.certificate[: len(old.certificate) // 2], b"", ended.certificate):
            files.write("crt", broken)
            files.write("key", ended.key if broken == ended.certificate else old.key)
            await load.more()
            assert await load.serial() == serial(old)
        assert refusals(log, "UTC only") == 1
        files.swap(crt=old.certificate, key=old.key)
        await load.more()
        for order in (("crt", "key"), ("key", "crt")):
            old, new = new, authority.server()
            content = {"crt": new.certificate, "key": new.key}
            files.rename(order[0], content[order[0]])
            await load.more(10)
            assert await load.serial() == serial(old)
            files.rename(order[1], content[order[1]])
            assert await load.serial() == serial(new)
            await load.more(10)
        note(f"{load.calls} calls and {load.events} events of the stream, none failed")


async def test_the_authority_is_replaced_with_an_overlap(tmp_path: Path) -> None:
    first, second = Authority(), Authority()
    both = first.certificate + second.certificate
    served, mine, renewed = first.server(), first.client(BILLING), second.client(BILLING)
    files = Mounted(tmp_path / "tls", crt=served.certificate, key=served.key, ca=first.certificate)
    async with loaded(tmp_path, files, both, mine) as (load, log):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with load.connected(renewed) as early:
                await load._call(early)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        # Half of it: the old one goes on.
        files.write("ca", first.certificate[: len(first.certificate) // 2])
        await load.more()
        assert refusals(log, str(files["ca"])) >= 1
        files.swap(ca=both)
        await load.more()
        async with load.connected(mine) as open_before:
            await load._call(open_before)
            load.mine = renewed
            await load.more()
            new = second.server()
            files.swap(crt=new.certificate, key=new.key)
            assert await load.serial() == serial(new)
            await load.more()
            # Those who come and go have had their turns by now, and come with the new one alone.
            files.swap(ca=second.certificate)
            await load.more()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async with load.connected(mine) as late:
                    await load._call(late)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            await load._call(open_before)  # what is open goes on, as docs/access.md says
        note(f"{load.calls} calls and {load.events} events of the stream, none failed")
