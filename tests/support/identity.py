"""An identity provider on loopback: it signs tokens, publishes its keys, answers about tokens, and misbehaves when it is told to."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://login.example.com/realm"
AUDIENCE = "dragoman"

_RSA = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
"""Made once: to make one takes a tenth of a second."""


class IdentityProvider:
    """Its keys are of RSA and named r0 and r1, one of an elliptic curve named e0; r1 is not published at first."""

    def __init__(self) -> None:
        self.private: dict[str, Any] = {
            "r0": _RSA[0],
            "r1": _RSA[1],
            "e0": ec.generate_private_key(ec.SECP256R1()),
        }
        self.published = ["r0", "e0"]
        self.good: dict[str, dict[str, Any]] = {}
        """Opaque tokens that count, and what is said of them."""
        self.manner = "well"
        """`well`; else what it does to whoever asks: see `_misbehave`."""
        self.asked: Counter[str] = Counter()
        """Requests by path."""
        self.seen: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._gates: set[asyncio.Task[None]] = set()

    def sign(self, key: str = "r0", algorithm: str = "RS256", headers: Any = None, **claims: Any) -> str:
        """A good token, changed by what is given; a claim that is None is left out."""
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "billing",
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            self.private[key],
            algorithm,
            headers={"kid": key, **(headers or {})},
        )

    def jwks(self) -> dict[str, Any]:
        """What is published."""
        found = []
        for name in self.published:
            private = self.private[name]
            maker: Any = jwt.algorithms.RSAAlgorithm if name[0] == "r" else jwt.algorithms.ECAlgorithm
            found.append({**maker.to_jwk(private.public_key(), as_dict=True), "kid": name, "use": "sig"})
        return {"keys": found}

    async def __aenter__(self) -> "IdentityProvider":
        await self.revive()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def revive(self) -> None:
        """Listens, where it has listened before."""
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def die(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.close()
            for task in self._gates:
                task.cancel()
            if self._gates:
                await asyncio.wait(self._gates)
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._gates.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._gates.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked[path] += 1
        self.seen.append((method, path, headers, body))
        if self.manner != "well":
            await self._misbehave(writer)
            return False
        status, answer = self._answer(path, headers, body)
        data = json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return True

    def _answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if path == "/jwks":
            return 200, self.jwks()
        if path == "/introspect":
            said = self.good.get(parse_qs(body.decode())["token"][0])
            return 200, {"active": False} if said is None else {"active": True, **said}
        kind = headers.get("content-type", "")
        if kind == "application/json":
            token = json.loads(body)["token"]
        elif kind == "application/x-www-form-urlencoded":
            token = parse_qs(body.decode())["token"][0]
        else:
            token = headers.get("authorization", "").removeprefix("Bearer ")
        said = self.good.get(token)
        return (401, None) if said is None else (200, said)

    async def _misbehave(self, writer: asyncio.StreamWriter) -> None:
        keys = json.dumps(self.jwks()).encode()
        if self.manner == "drip":
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(keys)}\r\n\r\n".encode())
            for byte in keys:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0.5)
        elif self.manner == "huge":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(4096):
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await writer.drain()
        else:
            writer.write(_ANSWERS[self.manner])
            await writer.drain()


_ANSWERS = {
    "error": b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 X\r\nlocation: /jwks\r\ncontent-length: 0\r\n\r\n",
    "garbage": b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\n{]]]",
    "no JSON object": b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n[]",
    "compressed": b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
    "hangs up": b"",
}
MANNERS = ("drip", "huge", *_ANSWERS)
"""All ways in which it may give no answer."""


@asynccontextmanager
async def identity_provider() -> AsyncIterator[IdentityProvider]:
    """One that listens."""
    async with IdentityProvider() as provider:
        yield provider
