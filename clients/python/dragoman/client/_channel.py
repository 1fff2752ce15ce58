"""How a channel is set up: sizes, signs of life, and which calls are made again when nobody answered.

A call is made again only when it changes nothing: a second Run would be a second run. gRPC itself still repeats calls
that provably never reached the server.
"""

import json
from ipaddress import ip_address
from typing import Final

import grpc

MAX_RECEIVE: Final = 64 * 1024 * 1024
"""Bytes of the largest response message."""

PING_INTERVAL: Final = 30.0
"""Seconds of silence after which the server is pinged. Servers allow one ping in 5 s by default."""

PING_TIMEOUT: Final = 10.0
"""Seconds that the server has to answer a ping before the connection counts as lost."""

READS: Final = {
    "dragoman.v1.AgentService": ("ListAgents", "GetAgent"),
    "dragoman.v1.SessionService": ("GetSession", "ListSessions", "ListMessages"),
    "dragoman.v1.RunService": ("GetRun", "ListRuns"),
    "dragoman.v1.UsageService": ("QueryUsage",),
}
"""The calls that change nothing."""


def open_channel(target: str) -> grpc.aio.Channel:
    """A plaintext channel to `target` (`host:port`). Needs a running event loop; connects at the first call."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_RECEIVE),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(PING_INTERVAL * 1000)),
        ("grpc.keepalive_timeout_ms", int(PING_TIMEOUT * 1000)),
        ("grpc.http2.max_pings_without_data", 0),  # a run may be silent for long
        ("grpc.service_config", service_config()),
    ]
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy's loopback is another machine's
    return grpc.aio.insecure_channel(target, options=options)


def service_config() -> str:
    """gRPC's service config (JSON): reads are made up to four times within about two seconds."""
    names = [
        {"service": service, "method": method} for service, methods in READS.items() for method in methods
    ]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


def is_loopback(target: str) -> bool:
    """Whether `target` is on this machine by its spelling: a loopback address, `localhost` or a Unix socket."""
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
