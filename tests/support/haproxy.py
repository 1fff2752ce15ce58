"""A private haproxy for tests: plain TCP in front of servers that come and go, as an operator would have it.

    with HAProxy.start(slots=3) as proxy:
        proxy.connect(0, server.address)     # from now on connections are handed to it, while it says SERVING
        proxy.address                        # what clients are given
        proxy.cut(0)                         # breaks the connections that go there
        proxy.disconnect(0)

Whether a server is given new connections is found out by asking it, over gRPC, whether it is SERVING: haproxy sends the bytes
of such a call and looks for the answer. Connections that a server has it keeps until one side closes.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support.debian import find_or_install

PACKAGE = "haproxy"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

_CONFIG = """\
global
    stats socket {folder}/admin mode 600 level admin
    nbthread 1

defaults
    mode tcp
    timeout connect 2s
    timeout client 10m
    timeout server 10m
    timeout check 1s
    retries 3
    option redispatch 1

frontend clients
    bind fd@{listener}
    default_backend servers

backend servers
    balance roundrobin
    option tcp-check
    tcp-check connect
    tcp-check send-binary {question}
    tcp-check expect binary {answer}
    default-server check inter 100ms fastinter 100ms downinter 100ms fall 1 rise 1
{servers}
"""


class HAProxy:
    """A running haproxy with so many places for servers, all of them empty. Use it with `with`."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", address: str, slots: int) -> None:
        self._folder = folder
        self._process = process
        self.address = address
        self.slots = slots

    @classmethod
    def start(cls, slots: int) -> "HAProxy":
        """Starts one on a free port of 127.0.0.1. Raises PackageMissing."""
        program = find_or_install(PACKAGE, "haproxy")
        folder = Path(tempfile.mkdtemp(prefix="dragoman-haproxy-"))
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            config = folder / "config"
            config.write_text(
                _CONFIG.format(
                    folder=folder,
                    listener=listener.fileno(),
                    question=_health_question().hex(),
                    answer=_SERVING.hex(),
                    servers="\n".join(f"    server s{slot} 127.0.0.1:1 disabled" for slot in range(slots)),
                )
            )
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [program, "-db", "-f", config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(listener.fileno(),),
                )
            host, port = listener.getsockname()
        proxy = cls(folder, process, f"{host}:{port}", slots)
        try:
            proxy._wait()
        except BaseException:
            proxy.stop()
            raise
        return proxy

    def connect(self, slot: int, address: str) -> None:
        """Puts a server into a place."""
        host, _, port = address.rpartition(":")
        self._admin(f"set server servers/s{slot} addr {host} port {port}")
        self._admin(f"set server servers/s{slot} state ready")

    def disconnect(self, slot: int) -> None:
        """Empties a place. Connections that are open stay."""
        self._admin(f"set server servers/s{slot} state maint")

    def cut(self, slot: int) -> None:
        """Breaks all connections to a server."""
        self._admin(f"shutdown sessions server servers/s{slot}")

    def serving(self, slot: int) -> bool:
        """Whether the server there is given connections."""
        for line in self._admin("show stat").splitlines():
            columns = line.split(",")
            if columns[:2] == ["servers", f"s{slot}"]:
                return columns[17].startswith("UP")
        raise AssertionError(f"haproxy has no place {slot}")

    def wait_serving(self, *slots: int) -> None:
        """Returns when the servers there are given connections."""
        deadline = time.monotonic() + START_TIMEOUT
        while not all(self.serving(slot) for slot in slots):
            if time.monotonic() > deadline:
                raise TimeoutError(f"haproxy gives no connections to {slots}:\n{self._admin('show stat')}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it and removes its files."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _admin(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_TIMEOUT)
            connection.connect(str(self._folder / "admin"))
            connection.sendall(command.encode() + b"\n")
            answer = b""
            while part := connection.recv(65536):
                answer += part
        text = answer.decode()
        if "No such" in text or "Unknown" in text or "Require" in text:
            raise AssertionError(f"haproxy: {command}: {text}")
        return text

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._admin("show info")
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"haproxy did not start ({error}):\n{log[-4000:]}") from error
                time.sleep(0.02)
            else:
                return


# A gRPC message: not compressed, two bytes: field 1 (status) is 1 (SERVING).
_SERVING = bytes.fromhex("00 00000002 0801")


def _health_question() -> bytes:
    """What a client sends to ask grpc.health.v1.Health/Check about the whole server, HTTP/2 included."""
    headers = b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text("/grpc.health.v1.Health/Check"),
            b"\x01" + _text("health"),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(4, 0, 0, b""),  # SETTINGS
            _frame(1, 4, 1, headers),  # HEADERS, END_HEADERS
            _frame(0, 1, 1, bytes(5)),  # DATA, END_STREAM: an empty message
        )
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()
