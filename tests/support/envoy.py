"""A private Envoy with the configuration of deploy/, moved to this machine: other ports, other certificates, nothing else.

async with Envoy.start(tmp_path, authority, [port, other]) as envoy:
    envoy.address                       # what callers are given
    await envoy.until(envoy.healthy(port) == False)
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from support.certificates import Authority
from support.deployment import DEPLOY, tool

START_TIMEOUT = 60.0
NAME = "dragoman.dragoman.svc.cluster.local"


def moved(folder: Path, authority: Authority, servers: Sequence[int]) -> dict[str, Any]:
    """The configuration, with free ports of its own, in front of servers on these ports of 127.0.0.1."""
    (folder / "ca.crt").write_bytes(authority.certificate)
    pem = authority.server()
    (folder / "tls.crt").write_bytes(pem.certificate)
    (folder / "tls.key").write_bytes(pem.key)
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text()
    for there in ("/etc/envoy/tls/", "/etc/envoy/upstream/"):
        text = text.replace(there, f"{folder}/")
    # Servers here have a certificate for this machine.
    config: dict[str, Any] = yaml.safe_load(text.replace(NAME, "localhost"))
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    (cluster,) = config["static_resources"]["clusters"]
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in servers
    ]
    (check,) = cluster["health_checks"]
    check.update(interval="0.1s", no_traffic_interval="0.1s")
    return config


class Envoy:
    """A running one."""

    def __init__(self, admin: str, address: str) -> None:
        self._admin = admin
        self.address = address

    @classmethod
    @asynccontextmanager
    async def start(
        cls, folder: Path, authority: Authority, servers: Sequence[int]
    ) -> AsyncIterator["Envoy"]:
        """Starts one and stops it."""
        (folder / "envoy.yaml").write_text(yaml.safe_dump(moved(folder, authority, servers)))
        log = folder / "envoy.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                tool("envoy"),
                *("--config-path", str(folder / "envoy.yaml"), "--admin-address-path", str(folder / "admin")),
                *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                envoy = await cls._ready(folder / "admin", process, log)
            yield envoy
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @classmethod
    async def _ready(cls, admin: Path, process: asyncio.subprocess.Process, log: Path) -> "Envoy":
        while True:
            assert process.returncode is None, log.read_text(errors="replace")[-4000:]
            try:
                where = admin.read_text().strip()
                found = json.loads(await _get(f"http://{where}/listeners?format=json"))
                (listener,) = found["listener_statuses"]
            except (OSError, ValueError):
                await asyncio.sleep(0.02)
                continue
            return cls(where, f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}")

    async def hosts(self) -> dict[int, bool]:
        """The servers by their ports, and whether they are given calls."""
        found = json.loads(await _get(f"http://{self._admin}/clusters?format=json"))
        return {
            host["address"]["socket_address"]["port_value"]: host["health_status"].keys()
            <= {"eds_health_status"}
            for cluster in found["cluster_statuses"]
            for host in cluster.get("host_statuses", [])
        }

    async def until(self, expected: dict[int, bool]) -> None:
        """Returns when it sees the servers so. Raises TimeoutError."""
        deadline = time.monotonic() + START_TIMEOUT
        while (found := await self.hosts()) != expected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Envoy sees {found}, not {expected}")
            await asyncio.sleep(0.02)


async def _get(url: str) -> bytes:
    def read() -> bytes:
        with urllib.request.urlopen(url, timeout=START_TIMEOUT) as answer:
            body: bytes = answer.read()
            return body

    return await asyncio.to_thread(read)
