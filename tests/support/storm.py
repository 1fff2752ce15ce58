"""A server whose certificate is replaced at every handshake, and many who shake hands: python -m support.storm FOLDER SECONDS

In a process of its own, because what must not happen ends the process. Prints how many handshakes there were, and how many
certificates.
"""

import asyncio
import itertools
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from support.certificates import Authority

from dragoman.transport.tls import TlsFiles, TlsReloader

CALLERS = 8


class Restless(TlsReloader):
    """Whose files are new again and again."""

    replaced = 0

    def _stamp(self) -> Any:
        return next(_STAMPS)

    def _read(self, stamp: Any, *, in_time: bool = False) -> Any:
        self.replaced += 1
        pair = (self._files.key.read_bytes(), self._files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])


_STAMPS = itertools.count()


async def storm(folder: Path, seconds: float) -> None:
    """Raises OSError when a handshake fails."""
    authority = Authority()
    reloader = Restless(TlsFiles(*authority.server().write(folder, "server")))
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", reloader.credentials())
    await server.start()
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    until = time.monotonic() + seconds

    def connect() -> int:
        made = 0
        while time.monotonic() < until:
            with (
                socket.create_connection(("127.0.0.1", port), 60) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1"),
            ):
                made += 1
        return made

    made = await asyncio.gather(*(asyncio.to_thread(connect) for _ in range(CALLERS)))
    await server.stop(None)
    print(sum(made), reloader.replaced)


if __name__ == "__main__":
    asyncio.run(storm(Path(sys.argv[1]), float(sys.argv[2])))
