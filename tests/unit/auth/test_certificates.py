"""Whose a certificate is: names by their kind, patterns within their parts, and nothing that could be read in two ways."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.certificates import Authority

from dragoman.auth import (
    Authenticator,
    Certificate,
    CertificateRule,
    Credentials,
    Principal,
    read_certificate,
)
from dragoman.config import CertificateGrant
from dragoman.errors import Unauthenticated
from dragoman.patterns import matches
from dragoman.records import utcnow

BILLING = "spiffe://mesh/ns/*/sa/billing"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def der(*names: tuple[int, bytes]) -> bytes:
    """A subjectAltName of names with their tags, right or not. 0x86: URI, 0x82: DNS name, 0x81: mail address."""
    content = b"".join(_part(tag, name) for tag, name in names)
    return _part(0x30, content)


def _part(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        (BILLING, "spiffe://mesh/ns/shop/sa/billing", True),
        (BILLING, "spiffe://mesh/ns/x/y/sa/evil/sa/billing", False),
        (BILLING, "spiffe://mesh/ns/x/sa/evil/sa/billing", False),
        (BILLING, "spiffe://mesh/ns//sa/billing", False),
        (BILLING, "spiffe://mesh/ns/shop/sa/billing/", False),
        (BILLING, "spiffe://mesh/ns/shop/sa/Billing", False),
        (BILLING, "spiffe://mesh/ns/shop/sa/billing\n", False),
        (BILLING, "SPIFFE://mesh/ns/shop/sa/billing", False),
        (BILLING, "spiffe://mesh.evil/ns/shop/sa/billing", False),
        ("spiffe://mesh/*", "spiffe://mesh/ns/shop", False),
        ("spiffe://*/billing", "spiffe://a.b/billing", True),
        ("spiffe://mesh/ns/shop-*/sa/a*z", "spiffe://mesh/ns/shop-1/sa/abcz", True),
        ("spiffe://mesh/a?c", "spiffe://mesh/abc", False),
        ("spiffe://mesh/*?c", "spiffe://mesh/abc", False),
        ("https://x/[a]*", "https://x/ab", False),
        ("https://x/[a]*", "https://x/[a]b", True),
        ("reader.mesh", "Reader.MESH", True),
        ("Reader.mesh", "reader.mesh", True),
        ("*.mesh", "reader.mesh", True),
        ("*.mesh", "a.reader.mesh", False),
        ("*.mesh", ".mesh", False),
        ("*", "reader.mesh", False),
        ("*", "reader", True),
        ("*", "spiffe://mesh/a", False),
    ],
)
def test_patterns_stay_within_a_part(pattern: str, name: str, fits: bool) -> None:
    is_uri = "://" in name
    certificate = Certificate((name,), ()) if is_uri else Certificate((), (name.lower(),))
    assert CertificateRule(pattern, Principal("p")).fits(certificate) is fits


@given(st.from_regex(r"[a-z/.*?\[\]!-]{0,30}", fullmatch=True))
def test_a_star_is_one_part_whatever_is_in_it(middle: str) -> None:
    name = f"spiffe://mesh/ns/{middle}/sa/billing"
    expected = middle != "" and "/" not in middle
    assert CertificateRule(BILLING, Principal("p")).fits(Certificate((name,))) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("shop-*", "shop-a/b", True),
        ("shop-?", "shop-a", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("[!a]", "b", False),
        ("Shop", "shop", False),
    ],
)
def test_patterns_of_agents_have_no_brackets(pattern: str, name: str, fits: bool) -> None:
    assert matches(name, pattern) is fits
    assert Principal("p", agents=(pattern,)).may_use(name) is fits


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "spiffe://mesh/**",
        "a?b",
        "[ab].mesh",
        "a b",
        "a\n",
        "*://mesh/a",
        "spiffe:/mesh",
        "mesh/a",
        "a" * 513,
    ],
)
def test_identities_that_mean_something_else_are_refused_at_the_start(identity: str) -> None:
    with pytest.raises(ValidationError):
        CertificateGrant(identity=identity, principal="p")


def test_names_count_by_their_kind(authority: Authority) -> None:
    names = ["https://a.example/x,y", "urn://b", "Reader.Mesh", "*.mesh", "10.0.0.1"]
    found = read_certificate(authority.client(*names).certificate)
    assert found.uris == ("https://a.example/x,y", "urn://b")
    assert found.dns_names == ("reader.mesh",)
    assert found.expire_time is not None
    assert found.expire_time > utcnow()
    # A DNS name or mail address that looks like a URI is none, and the common name ("not looked at") is no name.
    odd = read_certificate(
        authority.client(san=der((0x82, b"spiffe://mesh/a"), (0x81, b"a@mesh"))).certificate
    )
    assert odd.uris == ()
    assert not CertificateRule("spiffe://mesh/a", Principal("p")).fits(odd)
    assert not CertificateRule("a@mesh", Principal("p")).fits(odd)
    assert read_certificate(authority.client().certificate).names == ()
    assert read_certificate(authority.client(san=der()).certificate).names == ()


def test_long_names_are_compared_whole(authority: Authority) -> None:
    name = "spiffe://mesh/" + "a" * 2000
    found = read_certificate(authority.client(name).certificate)
    assert CertificateRule(name, Principal("p")).fits(found)
    assert not CertificateRule(name[:-1], Principal("p")).fits(found)


@pytest.mark.parametrize(
    "names",
    [
        ["spiffe://mesh/a", "spiffe://mesh/b"],
        ["spiffe://mesh/a", "https://mesh/b"],
        ["SPIFFE://mesh/a"],
        ["spiffe://"],
        ["spiffe://Mesh/a"],
        ["spiffe://mesh:443/a"],
        ["spiffe://user@mesh/a"],
        ["spiffe://mesh/a/"],
        ["spiffe://mesh//a"],
        ["spiffe://mesh/a/../b"],
        ["spiffe://mesh/./b"],
        ["spiffe://mesh/a,b"],
        ["spiffe://mesh/a%2fb"],
        ["spiffe://mesh/a?b"],
        ["spiffe://mesh/a#b"],
        ["spiffe://mesh/" + "a" * 2048],
    ],
    ids=lambda names: " ".join(names)[:40],
)
def test_what_is_no_spiffe_id_or_not_the_only_one_is_refused(authority: Authority, names: list[str]) -> None:
    with pytest.raises(Unauthenticated):
        read_certificate(authority.client(*names).certificate)


@pytest.mark.parametrize(
    "san",
    [
        der((0x86, b"spiffe://mesh/a\x00.evil")),
        der((0x86, "spiffe://mesh/ä".encode())),
        der((0x86, b"spiffe://mesh/\xff")),
        der((0x82, b"reader.mesh\x00.evil")),
        der((0x82, "räder.mesh".encode())),
        der((0x82, b"reader.mesh\n")),
        b"\x30\x05\x82\x09abc",
        b"nonsense",
    ],
    ids=range(8),
)
def test_names_that_could_be_read_in_two_ways_are_refused(authority: Authority, san: bytes) -> None:
    with pytest.raises(Unauthenticated):
        read_certificate(authority.client(san=san).certificate)


def test_nonsense_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        read_certificate(b"nonsense")


@pytest.mark.parametrize("turned", [False, True])
async def test_of_several_rules_the_first_counts_whatever_the_order_of_names(turned: bool) -> None:
    rules = [
        CertificateRule("b.mesh", Principal("second-name")),
        CertificateRule("a.mesh", Principal("first-name")),
        CertificateRule("*.mesh", Principal("any")),
    ]
    names = ("b.mesh", "a.mesh") if turned else ("a.mesh", "b.mesh")
    for order, expected in ((rules, "second-name"), (rules[1:], "first-name"), (rules[::-1], "any")):
        caller, _ = await Authenticator(None, order).authenticate(
            Credentials(certificate=Certificate(dns_names=names))
        )
        assert caller.name == expected


@pytest.mark.parametrize(
    "certificate",
    [None, Certificate(), Certificate(dns_names=("a.mesh",), expire_time=utcnow() - timedelta(seconds=1))],
    ids=["none", "no names", "expired"],
)
async def test_without_a_name_or_after_its_time_nobody_is_let_in(certificate: Certificate | None) -> None:
    gatekeeper = Authenticator(None, [CertificateRule("*.mesh", Principal("any"))])
    with pytest.raises(Unauthenticated):
        await gatekeeper.authenticate(Credentials(certificate=certificate))
