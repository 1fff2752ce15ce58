"""How a channel is set up: sizes, signs of life, and which of several servers it talks to.

A target is `host:port`, or several addresses (`ipv4:10.0.0.1:50051,10.0.0.2:50051`). A channel talks to the first that
answers. A client that was let down opens a fresh channel: to the next address of the list, to another server behind a
load balancer, to another address of a name. Connections are therefore never shared between channels, as gRPC would.
"""

import json
from dataclasses import dataclass, field
from ipaddress import ip_address
from os import PathLike
from pathlib import Path
from typing import Final, Self

import grpc

MAX_RECEIVE: Final = 64 * 1024 * 1024
"""Bytes of the largest response message."""

PING_INTERVAL: Final = 30.0
"""Seconds of silence after which the server is pinged. Servers allow one ping in 5 s by default."""

PING_TIMEOUT: Final = 10.0
"""Seconds that the server has to answer a ping before the connection counts as lost."""

RECONNECT: Final = 2.0
"""Seconds between attempts to connect at most: gRPC itself would come to wait two minutes."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that an address has to take a connection."""


@dataclass(frozen=True, slots=True)
class Tls:
    """A connection by TLS. All are PEM.

    `authorities`: whose certificate the server must have; None: one of those that the machine trusts. `certificate` (with its
    chain) and `key`: by which this client proves who it is, where the server asks for it. `server_name`: the name that the
    server's certificate must have, when it is not that of the target.
    """

    authorities: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    server_name: str = ""

    @classmethod
    def from_files(
        cls,
        authorities: str | PathLike[str] | None = None,
        certificate: str | PathLike[str] | None = None,
        key: str | PathLike[str] | None = None,
        *,
        server_name: str = "",
    ) -> Self:
        """From files. Raises OSError."""

        def content(path: str | PathLike[str] | None) -> bytes | None:
            return None if path is None else Path(path).read_bytes()

        return cls(content(authorities), content(certificate), content(key), server_name)


def open_channel(target: str, turn: int = 0, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to `target`, plaintext without `tls`. Needs a running event loop; connects at the first call.

    `turn` counts the channels of a client: with each, the list of addresses begins at the next.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_RECEIVE),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(PING_INTERVAL * 1000)),
        ("grpc.keepalive_timeout_ms", int(PING_TIMEOUT * 1000)),
        ("grpc.http2.max_pings_without_data", 0),  # a run may be silent for long
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT * 1000)),  # how long one attempt may take
        ("grpc.max_reconnect_backoff_ms", int(RECONNECT * 1000)),
        ("grpc.use_local_subchannel_pool", 1),  # else a fresh channel gets the old connection
        ("grpc.service_config", service_config(target)),
    ]
    if all(is_loopback(address) for address in addresses(target)):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy's loopback is another machine's
    if tls is None:
        return grpc.aio.insecure_channel(rotated(target, turn), options=options)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    made = grpc.ssl_channel_credentials(tls.authorities, tls.key, tls.certificate)
    return grpc.aio.secure_channel(rotated(target, turn), made, options=options)


def service_config(target: str) -> str:
    """gRPC's service config (JSON): one server at a time; of a name's addresses, any one first."""
    shuffle = len(addresses(target)) == 1  # a list has its own turns
    return json.dumps({"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": shuffle}}]})


def addresses(target: str) -> list[str]:
    """The addresses in a target, without its scheme; a target that is no list is one."""
    scheme, _, rest = target.partition(":")
    return rest.split(",") if scheme in ("ipv4", "ipv6") else [target]


def rotated(target: str, turn: int) -> str:
    """The target with its list of addresses begun at the `turn`-th."""
    found = addresses(target)
    if len(found) == 1:
        return target
    first = turn % len(found)
    return f"{target.partition(':')[0]}:{','.join(found[first:] + found[:first])}"


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
