"""`dragoman serve` as a process: it says what it serves, stops cleanly, and tells in a sentence why it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragoman.cli._server_process import ServerFailed, server_process
from dragoman.client import Dragoman

AGENTS = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

desk = Agent(name="desk", description="Answers at the desk.", model=OfflineModel())
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """How a server with one agent is started in an empty directory."""
    agents, database = tmp_path / "agents.py", tmp_path / "served.db"
    agents.write_text(AGENTS)
    return [
        *("--agents", f"{agents}:desk", "--no-entry-points", "--port", "0"),
        *("--database-url", f"sqlite:///{database}", "--currency", "EUR"),
    ]


async def test_serves_until_told_to_stop(arguments: list[str], tmp_path: Path) -> None:
    """By Ctrl-C; the demo's server is stopped by SIGTERM."""
    with server_process([*arguments, "--log-format", "json"], tmp_path) as server:
        async with Dragoman(server.address) as client:
            assert [agent.name for agent in await client.list_agents()] == ["desk"]
            assert "desk" in await client.run("desk", "Say desk.").text()
        said = [line for line in server.log.read_text().splitlines() if line[0] != "{"]
        os.kill(server.pid, signal.SIGINT)
    # Leaving the block checks that it ended with 0.
    assert said == [
        f"Dragoman is listening on {server.address}",
        "  agents    desk",
        f"  database  SQLite {tmp_path / 'served.db'}",
        "  currency  EUR",
        "  access    this machine only: callers prove nothing",
    ]
    logged = [json.loads(line)["event"] for line in server.log.read_text().splitlines() if line[0] == "{"]
    assert logged[-1] == "stopped"


def test_a_process_that_does_not_get_ready(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="ended with 2") as caught,
        server_process(["--port", "99999"], tmp_path),
    ):
        pytest.fail("it started")
    assert "port: " in caught.value.log


def test_a_port_that_is_taken(arguments: list[str], dragoman: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = dragoman("serve", *arguments, "--port", port)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert port in result.stderr
    assert result.stdout == ""


def test_an_agent_that_cannot_be_served(arguments: list[str], dragoman: Any, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("desk = 1 / 0\n")
    result = dragoman("serve", *arguments)
    assert result.exit_code == 1
    assert f"{tmp_path / 'agents.py'}:1" in result.stderr
    assert "Traceback" not in result.output


def test_the_module_and_the_script_are_the_same() -> None:
    shown = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (
            [sys.executable, "-m", "dragoman.cli", "--version"],
            [sys.executable, "-c", "from dragoman.entry import main; main()", "--version"],
        )
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith("dragoman ")


def test_every_flag_of_serve_is_a_setting(
    dragoman: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is given on the command line is what the server is started with."""
    from dragoman import process
    from dragoman.app import ServerInfo
    from dragoman.config import Settings

    seen: list[tuple[Settings, bool]] = []

    def run(settings: Settings, *, migrate: bool, started: Any) -> None:
        seen.append((settings, migrate))
        started(ServerInfo("127.0.0.1:1", ["a", "b"], "SQLite x", "USD", "nobody"))

    monkeypatch.setattr(process, "run", run)
    result = dragoman(
        *("serve", "-a", "m:one", "-a", "m:two", "--no-entry-points", "--host", "::", "--port", "6000"),
        *("--auth", "keys", "--insecure"),
        *("--database-url", "sqlite:///x.db", "--migrate", "--currency", "USD", "--set", "max_runs=7"),
        *(
            "--prices-file",
            "p.toml",
            "--rates-file",
            "r.toml",
            "--log-level",
            "ERROR",
            "--log-format",
            "text",
        ),
        *("--set", "heartbeat_interval=5", "--set", "drain_grace=1", "--ready-file", str(tmp_path / "ready")),
    )
    assert result.exit_code == 0
    [(settings, migrate)] = seen
    assert migrate
    assert settings.model_dump(exclude_defaults=True) == {
        "agents": ("m:one", "m:two"),
        "entry_points": False,
        "host": "::",
        "port": 6000,
        "auth": ("keys",),
        "insecure": True,
        "database_url": "sqlite:///x.db",
        "currency": "USD",
        "max_runs": 7,
        "prices_file": Path("p.toml"),
        "rates_file": Path("r.toml"),
        "log_level": "ERROR",
        "log_format": "text",
        "heartbeat_interval": 5.0,
        "drain_grace": 1.0,
    }
    assert (tmp_path / "ready").read_text() == "127.0.0.1:1\n"
    assert "a, b" in result.stdout
