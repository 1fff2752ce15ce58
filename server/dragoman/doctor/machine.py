"""What the machine gives: ports, open files, memory; and whether traces can leave it."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from dragoman.config import Settings
from dragoman.doctor.findings import Finding, failed, good, warning

FEW_FILES, OTHER_FILES = 256, 256
"""Open files without which there are hardly any connections; and those that are none."""

BASE_MEMORY = 256 * 1024 * 1024
"""Bytes that a process takes before its first run, with room: 160 MiB were measured (bench/README.md)."""

CONNECT_TIMEOUT = 5.0

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether they can be listened on."""
    wanted = [(settings.host, settings.port, "port")]
    if settings.metrics_port:
        wanted += [
            (settings.metrics_host, settings.metrics_port + worker, "metrics_port")
            for worker in range(settings.workers)
        ]
    for host, port, name in wanted:
        if port:
            yield _port(host, port, name)


def _port(host: str, port: int, name: str) -> Finding:
    try:
        [family, kind, _, _, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return failed(f"there is no address {host}", "see host, and the machine's names")
    except PermissionError:
        return failed(f"{host}:{port} may not be listened on", f"choose a {name} above 1023")
    except OSError as error:
        if error.errno == 98:  # EADDRINUSE
            return warning(
                f"somebody listens on {host}:{port}",
                f"if that is not this server already, stop it or choose another {name}",
            )
        return failed(
            f"{host}:{port} cannot be listened on: {error.strerror}", "see host: it must be this machine's"
        )
    return good(f"{host}:{port} is free")


def limits(settings: Settings) -> Iterator[Finding]:
    """Open files and memory."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{files:,} files may be open, each connection is one"
    mend = (
        f"raise it above max_connections, {settings.max_connections:,} (ulimit -n, LimitNOFILE=), or lower that; "
        f"{most:,} is the most that is allowed here"
    )
    unlimited = files == resource.RLIM_INFINITY
    if not unlimited and files < FEW_FILES:
        yield failed(told, mend)
    elif not unlimited and files < settings.max_connections + OTHER_FILES:
        yield warning(told, mend)
    else:
        yield good("files may be open without a limit" if unlimited else told)
    memory = available_memory()
    wanted = BASE_MEMORY * settings.workers
    told = f"{memory // 2**20:,} MiB of memory for {settings.workers} process{'es' * (settings.workers > 1)}"
    if memory < wanted:
        yield warning(told, f"give {wanted // 2**20:,} MiB or more, or have fewer workers")
    else:
        yield good(told)


def available_memory() -> int:
    """Bytes that all processes of ours may take together: of the machine, or of the container where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUPS:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            memory = min(memory, int(text))
    return memory


def traces(settings: Settings) -> Iterator[Finding]:
    """Whether the collector can be reached."""
    if settings.otlp_endpoint is None:
        return
    parts = urlsplit(settings.otlp_endpoint)
    if reaches(parts.hostname or "", parts.port or 4317):
        yield good(f"{settings.otlp_endpoint} can be reached")
    else:
        yield warning(
            f"{settings.otlp_endpoint} cannot be reached: traces are lost",
            "see otlp_endpoint, and whether the collector runs there",
        )


def reaches(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True
