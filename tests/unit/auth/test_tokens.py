"""Bearer tokens: which count, what their claims mean, and where the keys come from."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from support.identity import AUDIENCE, ISSUER, MANNERS, IdentityProvider

from dragoman import gate
from dragoman.auth import (
    Authenticator,
    Bearers,
    Certificate,
    CertificateRule,
    Credentials,
    Principal,
    Scope,
    bearers,
    jwks,
)
from dragoman.auth.asking import Answer, Asker
from dragoman.config import Settings
from dragoman.errors import DragomanError, IdentityUnavailable, PermissionDenied, Unauthenticated
from dragoman.records import Owner

CHECKED_HERE = {"issuer": ISSUER, "audience": [AUDIENCE]}


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as found:
        yield found


class Opened:
    """Makes Bearers of settings, and closes them."""

    def __init__(self) -> None:
        self.made: list[Bearers] = []

    async def __call__(self, *tokens: dict[str, Any]) -> Bearers:
        made = await asyncio.to_thread(gate.bearers, Settings(auth=("tokens",), tokens=list(tokens)))
        assert made is not None
        self.made.append(made)
        await made.open()
        return made


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    found = Opened()
    yield found
    for each in found.made:
        await each.close()


def pem(provider: IdentityProvider, key: str = "r0") -> bytes:
    return bytes(
        provider.private[key]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


Bad = Callable[[IdentityProvider], str]
NOW = int(time.time())
"""When the tests were collected; they may run many minutes later."""
LATELY = -3
"""Stands for three seconds ago, when the test runs."""
BAD: dict[str, Bad] = {
    "expired": lambda p: p.sign(exp=NOW - 3600),
    "no end": lambda p: p.sign(exp=None),
    "an end that is no number": lambda p: p.sign(exp="soon"),
    "not yet": lambda p: p.sign(nbf=NOW + 86_400),
    "made in the future": lambda p: p.sign(iat=NOW + 86_400),
    "for others": lambda p: p.sign(aud="elsewhere"),
    "for nobody": lambda p: p.sign(aud=None),
    "for an empty list": lambda p: p.sign(aud=[]),
    "of another issuer": lambda p: p.sign(iss="https://evil.example.com"),
    "of no issuer": lambda p: p.sign(iss=None),
    "nobody's": lambda p: p.sign(sub=None),
    "of an odd name": lambda p: p.sign(sub="a b"),
    "of an empty name": lambda p: p.sign(sub=""),
    "of a long name": lambda p: p.sign(sub="x" * 129),
    "of a name that is a list": lambda p: p.sign(sub=["billing"]),
    "of another key than it names": lambda p: p.sign("r1", headers={"kid": "r0"}),
    "of an unknown key": lambda p: p.sign("r1"),
    "by an algorithm that is not allowed": lambda p: p.sign(algorithm="RS512"),
    "of a key of another type": lambda p: p.sign("e0", "ES256", headers={"kid": "r0"}),
    "unsigned": lambda p: unsigned(
        {"alg": "none", "kid": "r0"}, jwt.decode(p.sign(), options={"verify_signature": False})
    ),
    "with its public key as a shared secret": lambda p: unsigned(
        {"alg": "HS256", "kid": "r0"},
        jwt.decode(p.sign(), options={"verify_signature": False}),
        pem(p)[:32],
    ),
    "with extensions": lambda p: p.sign(headers={"crit": ["b64"], "b64": True}),
    "for signing out": lambda p: p.sign(headers={"typ": "logout+jwt"}),
    "changed": lambda p: p.sign()[:-6] + "AAAAAA",
    "cut": lambda p: p.sign().rpartition(".")[0],
    "huge": lambda p: p.sign(more="x" * 9000),
    "no token": lambda p: "abc",
    "dots": lambda p: "..",
    "a header that is no object": lambda p: "W10." + p.sign().partition(".")[2],
    "not ASCII": lambda p: p.sign() + "é",
    "empty": lambda p: "",
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_does_not_count(kind: str, provider: IdentityProvider, opened: Opened) -> None:
    """All are refused alike; what is wrong is nobody's business."""
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks"})
    with pytest.raises(Unauthenticated) as caught:
        await tokens.identify(BAD[kind](provider))
    assert caught.value.message == Unauthenticated().message


@pytest.mark.parametrize(
    ("key", "algorithm", "claims", "headers"),
    [
        ("r0", "RS256", {}, {}),
        ("e0", "ES256", {}, {}),
        ("r0", "RS256", {"aud": ["other", AUDIENCE]}, {"typ": "at+jwt"}),
        ("r0", "RS256", {"exp": LATELY}, {}),
    ],
    ids=["RSA", "elliptic", "one of several audiences", "within the leeway"],
)
async def test_what_counts(
    key: str, algorithm: str, claims: dict[str, Any], headers: Any, provider: IdentityProvider, opened: Opened
) -> None:
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "leeway": 60})
    if claims.get("exp") == LATELY:
        claims = {"exp": int(time.time()) + LATELY}
    principal, user = await tokens.identify(provider.sign(key, algorithm, headers, **claims))
    assert (principal.name, principal.scopes, user) == ("billing", frozenset((Scope.RUN,)), "")
    assert principal.credential.startswith("token/")


@given(st.text(), st.text(max_size=20))
async def test_any_text_is_refused_or_counts(text: str, issuer: str) -> None:
    """Nothing else than the typed refusal comes out, whatever comes in."""
    tokens = Bearers([])
    for token in (text, f"{text}.{text}.{issuer}", unsigned({"alg": text}, {"iss": issuer, "exp": text})):
        with pytest.raises(Unauthenticated):
            await tokens.identify(token)


CLAIMS: list[tuple[str, dict[str, Any], dict[str, Any], Principal, str]] = [
    (
        "Keycloak",
        {
            "principal_claim": "azp",
            "principal_prefix": "kc/",
            "user_claim": "sub",
            "scope_claim": "resource_access.dragoman.roles",
            "scope_names": {"runner": "run"},
        },
        {"azp": "web", "sub": "u1", "resource_access": {"dragoman": {"roles": ["runner", "other", 7]}}},
        Principal("kc/web", frozenset((Scope.RUN,))),
        "u1",
    ),
    (
        "words in a text",
        {"scope_claim": "scp", "agents_claim": "agents"},
        {"scp": "read unknown", "agents": "shop-* desk"},
        Principal("billing", frozenset((Scope.READ,)), ("shop-*", "desk")),
        "",
    ),
    (
        "a fixed name, whose user may be named",
        {"principal": "mesh", "scopes": ["admin"], "agents": ["a"], "acts_for_users": True},
        {"sub": None},
        Principal("mesh", frozenset((Scope.ADMIN,)), ("a",), acts_for_users=True),
        "",
    ),
    (
        "claims that are missing allow nothing",
        {"scope_claim": "scope", "agents_claim": "agents"},
        {},
        Principal("billing", frozenset(), ()),
        "",
    ),
    (
        "a claim whose name has dots, and a number",
        {"principal_claim": "https://example.com/id"},
        {"https://example.com/id": 42},
        Principal("42", frozenset((Scope.RUN,))),
        "",
    ),
]


@pytest.mark.parametrize(
    ("settings", "claims", "expected", "user"),
    [case[1:] for case in CLAIMS],
    ids=[case[0] for case in CLAIMS],
)
async def test_what_claims_mean(
    settings: Any, claims: Any, expected: Principal, user: str, provider: IdentityProvider, opened: Opened
) -> None:
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", **settings})
    principal, named = await tokens.identify(provider.sign(**claims))
    got = (principal.name, principal.scopes, principal.agents, principal.acts_for_users)
    assert got == (expected.name, expected.scopes, expected.agents, expected.acts_for_users)
    assert named == user


# Where keys come from


async def test_a_new_key_is_looked_for_at_once_and_an_unknown_one_not_again_and_again(
    provider: IdentityProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.2)
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks"})
    await tokens.identify(provider.sign())
    assert provider.asked["/jwks"] == 1
    provider.published = ["r0", "r1"]
    found = await asyncio.gather(*(tokens.identify(provider.sign("r1")) for _ in range(50)))
    assert {principal.name for principal, _ in found} == {"billing"}
    assert provider.asked["/jwks"] == 2
    provider.published = ["r1"]
    results = await asyncio.gather(
        *(tokens.identify(provider.sign("e0", "ES256", {"kid": f"x{n}"})) for n in range(50)),
        return_exceptions=True,
    )
    assert {type(result) for result in results} == {Unauthenticated}
    assert provider.asked["/jwks"] == 3
    # The fetch for others' keys has shown that this one is gone.
    with pytest.raises(Unauthenticated):
        await tokens.identify(provider.sign())


async def test_while_its_keys_cannot_be_fetched_known_ones_serve_on(
    provider: IdentityProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.05)
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "jwks_refresh": 1})
    await tokens.identify(provider.sign())
    await provider.die()
    end = time.monotonic() + 3  # longer than the keys are fresh
    while time.monotonic() < end:
        await tokens.identify(provider.sign())
        await asyncio.sleep(0.05)
    with pytest.raises(IdentityUnavailable) as caught:
        await tokens.identify(provider.sign("r1"))
    assert caught.value.retry_after
    provider.published = ["r0", "r1"]
    await provider.revive()
    async with asyncio.timeout(20):
        while True:
            try:
                await tokens.identify(provider.sign("r1"))
                break
            except IdentityUnavailable:
                await asyncio.sleep(0.05)


async def test_keys_serve_for_their_greatest_age_and_no_longer(
    provider: IdentityProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.05)
    tokens = await opened(
        {**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "jwks_refresh": 1, "jwks_max_age": 1}
    )
    await tokens.identify(provider.sign())
    await provider.die()
    await _until_refused(tokens, provider.sign(), IdentityUnavailable)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("way", ["jwks_url", "introspection_url", "validation_url"])
async def test_an_issuer_that_misbehaves_gives_no_answer(
    way: str, manner: str, provider: IdentityProvider, opened: Opened
) -> None:
    provider.manner = manner
    path = {"jwks_url": "jwks", "introspection_url": "introspect", "validation_url": "validate"}[way]
    tokens = await opened({**CHECKED_HERE, way: f"{provider.url}/{path}", "timeout": 1})
    with pytest.raises(IdentityUnavailable):
        await asyncio.wait_for(tokens.identify(provider.sign()), 30)


@pytest.mark.parametrize("form", ["JWKS", "PEM"])
async def test_keys_in_a_file_that_is_replaced(
    form: str, provider: IdentityProvider, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FILE_REFRESH", 0.0)
    file = tmp_path / "keys"

    def write(key: str) -> None:
        provider.published = [key]
        new = tmp_path / "new"
        new.write_bytes(json.dumps(provider.jwks()).encode() if form == "JWKS" else pem(provider, key))
        new.rename(file)

    write("r0")
    tokens = await opened({**CHECKED_HERE, "keys_file": file})
    await tokens.identify(provider.sign("r0"))
    write("r1")
    await tokens.identify(provider.sign("r1"))
    with pytest.raises(Unauthenticated):
        await tokens.identify(provider.sign("r0"))
    file.write_bytes(b"half")
    await tokens.identify(provider.sign("r1"))
    file.unlink()
    await tokens.identify(provider.sign("r1"))


async def test_a_token_without_the_id_of_its_key(provider: IdentityProvider, opened: Opened) -> None:
    """Counts where only one key can be meant."""
    tokens = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks"})
    claims = jwt.decode(provider.sign(), options={"verify_signature": False})
    token = jwt.encode(claims, provider.private["r0"], "RS256")
    assert "kid" not in jwt.get_unverified_header(token)
    await tokens.identify(token)
    provider.published = ["r0", "r1"]
    other = await opened({**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks"})
    with pytest.raises(Unauthenticated):
        await other.identify(token)


# Providers that are asked


@pytest.mark.parametrize("send", ["bearer", "form", "json", "introspection"])
async def test_a_provider_decides(
    send: str, provider: IdentityProvider, opened: Opened, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s:é+ \n")
    ways: dict[str, Any] = {
        "introspection": {
            "introspection_url": f"{provider.url}/introspect",
            "client_id": "dragoman",
            "client_secret_file": tmp_path / "secret",
        }
    }
    way = ways.get(
        send,
        {"validation_url": f"{provider.url}/me", "validation_send": send, "validation_method": "POST"},
    )
    tokens = await opened({**way, "principal_claim": "user.id", "cache": 0.3})
    provider.good["opaque"] = {"user": {"id": "u7"}}
    found = await asyncio.gather(*(tokens.identify("opaque") for _ in range(20)))
    assert {principal.name for principal, _ in found} == {"u7"}
    assert sum(provider.asked.values()) == 1, "once for all who bring it"
    with pytest.raises(Unauthenticated):
        await tokens.identify("other")
    if send == "introspection":
        credentials = base64.b64decode(provider.seen[0][2]["authorization"].removeprefix("Basic ")).decode()
        assert credentials == "dragoman:s%3A%C3%A9%2B"
    del provider.good["opaque"]
    await _until_refused(tokens, "opaque", Unauthenticated)
    await provider.die()
    await _until_refused(tokens, "opaque", IdentityUnavailable)


async def _until_refused(tokens: Bearers, token: str, kind: type[DragomanError]) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await tokens.identify(token)
            except kind:
                return
            except Unauthenticated:  # as it was said before
                pass
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({}, True),
        ({"exp": NOW - 3600}, False),
        ({"exp": NOW + 86_400, "nbf": NOW - 60}, True),
        ({"nbf": NOW + 86_400}, False),
        ({"iss": "https://evil.example.com"}, False),
        ({"aud": "elsewhere"}, False),
        ({"aud": ["elsewhere", AUDIENCE]}, True),
        ({"aud": None}, False),
    ],
    ids=["good", "expired", "times", "not yet", "other issuer", "other audience", "audiences", "no audience"],
)
async def test_what_introspection_says_is_checked(
    said: dict[str, Any], counts: bool, provider: IdentityProvider, opened: Opened
) -> None:
    tokens = await opened({**CHECKED_HERE, "introspection_url": f"{provider.url}/introspect"})
    provider.good["t"] = {"sub": "a", "aud": AUDIENCE, **said}
    if counts:
        assert (await tokens.identify("t"))[0].name == "a"
    else:
        with pytest.raises(Unauthenticated):
            await tokens.identify("t")


async def test_several_issuers(provider: IdentityProvider, opened: Opened) -> None:
    """One that is named checks its own; all others are asked in turn."""
    async with IdentityProvider() as second:
        tokens = await opened(
            {**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "principal_prefix": "first/"},
            {"introspection_url": f"{second.url}/introspect", "principal_prefix": "second/"},
        )
        second.good["opaque"] = {"sub": "x"}
        assert (await tokens.identify(provider.sign()))[0].name == "first/billing"
        assert (await tokens.identify("opaque"))[0].name == "second/x"
        assert second.asked["/introspect"] == 1
        # What the first issuer signs is not the second's to judge, good or bad.
        with pytest.raises(Unauthenticated):
            await tokens.identify(provider.sign(exp=NOW - 3600))
        assert second.asked["/introspect"] == 1


# Tokens in use


async def test_who_holds_a_stream_open_is_told_when_the_token_ends(
    provider: IdentityProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bearers, "SWEEP", 0.05)
    tokens = await opened(
        {**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "leeway": 0},
        {"introspection_url": f"{provider.url}/introspect", "cache": 0.05},
    )
    told: asyncio.Queue[set[str]] = asyncio.Queue()
    tokens.listen(lambda ended: told.put_nowait(set(ended)))
    provider.good.update(good={"sub": "a"}, bad={"sub": "a"})
    lasting = await tokens.hold(provider.sign())
    short = await tokens.hold(provider.sign(exp=int(time.time()) + 2))
    good, bad = await tokens.hold("good"), await tokens.hold("bad")
    del provider.good["bad"]
    assert await asyncio.wait_for(told.get(), 30) == {bad}
    tokens.release(bad)
    while (ended := await asyncio.wait_for(told.get(), 30)) != {short}:
        assert ended == {bad}, "told again until it was released"
    tokens.release(short)
    for each in (lasting, good):
        tokens.release(each)
    while not told.empty():
        assert told.get_nowait() == {short}


# Several proofs


@pytest.mark.parametrize(("name", "ok"), [("billing", True), ("other", False)], ids=["same", "another"])
async def test_a_token_and_a_certificate(
    name: str, ok: bool, provider: IdentityProvider, opened: Opened
) -> None:
    """Both must be the same principal's, who may do what both allow."""
    tokens = await opened(
        {**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "scopes": ["admin"], "agents": ["shop-*"]}
    )
    granted = Principal(name, agents=("*-a", "desk"), acts_for_users=True)
    gatekeeper = Authenticator(None, [CertificateRule("cn", granted)], tokens)
    both = Credentials(bearer=provider.sign(), certificate=Certificate(dns_names=("cn",)))
    if not ok:
        with pytest.raises(Unauthenticated):
            await gatekeeper.authenticate(both)
        return
    caller, owner = await gatekeeper.authenticate(both)
    assert owner == Owner("billing")
    assert (caller.may(Scope.RUN), caller.may(Scope.ADMIN)) == (True, False)
    assert [caller.may_use(name) for name in ("shop-a", "shop-b", "desk")] == [True, False, False]
    assert len(caller.credentials) == 1
    with pytest.raises(PermissionDenied):
        await gatekeeper.authenticate(
            Credentials(bearer=both.bearer, certificate=Certificate(dns_names=("cn",)), user="u")
        )
    # A bad token is not made good by a good certificate.
    with pytest.raises(Unauthenticated):
        await gatekeeper.authenticate(Credentials(bearer="bad", certificate=Certificate(dns_names=("cn",))))


@pytest.mark.parametrize(
    ("user", "outcome"), [("", "u1"), ("u1", "u1"), ("u2", PermissionDenied)], ids=["none", "same", "another"]
)
async def test_the_user_of_a_token(
    user: str, outcome: Any, provider: IdentityProvider, opened: Opened
) -> None:
    tokens = await opened(
        {**CHECKED_HERE, "jwks_url": f"{provider.url}/jwks", "user_claim": "uid", "acts_for_users": True}
    )
    credentials = Credentials(bearer=provider.sign(uid="u1"), user=user)
    if outcome is PermissionDenied:
        with pytest.raises(PermissionDenied):
            await Authenticator(bearers=tokens).authenticate(credentials)
    else:
        _, owner = await Authenticator(bearers=tokens).authenticate(credentials)
        assert owner == Owner("billing", outcome)


async def test_who_comes_just_when_the_keys_have_been_fetched(provider: IdentityProvider) -> None:
    """A fetch that is done is none to wait for: a new one is begun, and nobody spins."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    class Slow(Asker):
        async def ask(self, *_: object, **__: object) -> Answer:
            return await asyncio.shield(answered) if not answered.done() else answered.result()

    keys = jwks.FetchedKeys(ISSUER, "", Slow(timeout=1), refresh=60, max_age=60)
    first = asyncio.create_task(keys.find("r0", "RS256"))
    await asyncio.sleep(0.01)
    assert keys._fetching.under_way
    fetching = keys._fetching.begin()
    late: list[asyncio.Task[Any]] = []
    fetching.add_done_callback(lambda _: late.append(asyncio.create_task(keys.find("x", "RS256"))))
    answered.set_result(Answer(200, provider.jwks()))
    assert (await first).id == "r0"
    with pytest.raises(Unauthenticated):
        await late[0]
    await keys.close()
