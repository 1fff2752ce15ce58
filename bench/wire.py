"""Bytes on the wire, counted by the kernel: what TCP has brought to this process from one port.

The kernel keeps the count per socket; nothing stands between client and server, and every library's sockets are seen.
Linux only.
"""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, suppress

_BYTES_RECEIVED = 128
"""Offset of `tcpi_bytes_received`, an unsigned 64-bit integer, in `struct tcp_info`."""


class Received:
    """Counts from the moment it is made."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._before = dict(_counts(port))

    def total(self) -> int:
        """Bytes of TCP payload since then, over all connections that are still open."""
        return sum(count - self._before.get(inode, 0) for inode, count in _counts(self._port))


def _counts(port: int) -> Iterator[tuple[int, int]]:
    """(inode, bytes received) of each connection of this process to `port`."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, or not connected
            file = os.stat(int(name))
            if not stat.S_ISSOCK(file.st_mode):
                continue
            with closing(socket.socket(fileno=os.dup(int(name)))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getpeername()[1] == port:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
                    yield file.st_ino, struct.unpack_from("Q", info, _BYTES_RECEIVED)[0]
