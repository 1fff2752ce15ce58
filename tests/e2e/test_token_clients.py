"""Clients with bearer tokens at a server process: a command, and a run that outlives the tokens it is followed by."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.identity import IdentityProvider
from support.processes import ServerProcess

from dragoman.client import Dragoman, kind

AGENTS = """\
import asyncio
from pathlib import Path

from agno.agent import Agent

from dragoman.testing.offline import OfflineModel

GATE = Path(__file__).with_name("gate")


async def wait() -> str:
    '''Waits until the gate is open.'''
    while not GATE.exists():
        await asyncio.sleep(0.05)
    return "done"


waiter = Agent(name="waiter", model=OfflineModel(delay=0), tools=[wait])
"""

CONFIG = """\
auth = ["tokens"]
heartbeat_interval = 0.2

[[tokens]]
introspection_url = "{url}/introspect"
cache = 0.1
timeout = 30
"""


@asynccontextmanager
async def asking(provider: IdentityProvider, folder: Path) -> AsyncIterator[ServerProcess]:
    """A server that asks the provider about each token."""
    agents, config = folder / "agents.py", folder / "dragoman.toml"
    agents.write_text(AGENTS)
    config.write_text(CONFIG.format(url=provider.url))
    arguments = ("--agents", f"{agents}:waiter", "--no-entry-points")
    database = f"sqlite:///{folder / 'runs.db'}"
    server = ServerProcess(
        "asking",
        (*arguments, "--database-url", database),
        folder,
        {"DRAGOMAN_CONFIG": str(config)},
    )
    try:
        await server.start()
        yield server
    finally:
        await server.close()


async def command(*arguments: str, server: ServerProcess, token: str) -> tuple[int, str]:
    """The exit code of `dragoman ...` with this token, and all that it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "dragoman.cli", *arguments, "--server", server.address],
        env={**os.environ, "DRAGOMAN_TOKEN": token},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_run_outlives_the_tokens_it_is_followed_by_and_a_command_finds_it(tmp_path: Path) -> None:
    given: list[str] = []

    async with IdentityProvider() as provider, asking(provider, tmp_path) as server:

        async def fresh() -> str:
            """Gives the next token whenever the last one counts no more."""
            if not given or given[-1] not in provider.good:
                given.append(f"token-{len(given) + 1}")
                provider.good[given[-1]] = {"sub": "billing"}
            return given[-1]

        async with Dragoman(server.address, token=fresh) as client, client.run("waiter", "wait") as run:
            events, waits = [], False
            async for event in run:
                events.append(event)
                waits = waits or kind(event) == "tool_call_started"
                if len(given) == 3:
                    (tmp_path / "gate").touch()
                elif waits:  # something has come by this token
                    provider.good.pop(given[-1], None)
            assert kind(events[-1]) == "run_completed"
            sequences = [event.sequence for event in events if event.sequence]
            assert sequences == sorted(set(sequences))
            assert given == ["token-1", "token-2", "token-3"]
            # As if nothing had been: whoever attaches now sees the same.
            again = [event async for event in client.attach(run.run_id) if event.sequence]
            assert again == [event for event in events if event.sequence]

        code, said = await command("runs", "list", server=server, token="token-3")
        assert (code, run.run_id in said) == (0, True), said
        code, said = await command("runs", "list", server=server, token="token-1")
        assert (code, "UNAUTHENTICATED" in said, "token-1" in said) == (1, True, False), said
        log = server.log.read_text()
    assert "token-" not in log
