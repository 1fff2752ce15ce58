"""AgentOS, the server that Agno ships, on uvicorn with its faster parts (uvloop, httptools). Nothing is stored."""

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from agno.agent import Agent
from agno.os import AgentOS

from bench.agents import agno_agent


def serve(_directory: Path, ready: Callable[[str], None]) -> None:
    """Without a database: a run lives as long as its request, and leaves nothing."""
    serve_agent(agno_agent(), ready)


def serve_agent(agent: Agent, ready: Callable[[str], None]) -> None:
    """Serves one agent. Logs no accesses, as `AgentOS.serve` does."""
    app = AgentOS(agents=[agent], telemetry=False).get_app()
    config = uvicorn.Config(app, access_log=False, loop="uvloop", http="httptools")
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        ready(f"127.0.0.1:{listener.getsockname()[1]}")  # calls wait in the backlog until it accepts
        uvicorn.Server(config).run(sockets=[listener])
