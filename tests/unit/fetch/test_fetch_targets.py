"""How URLs are read, and which hosts are allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.fetch.targets import Hosts, Refused, Target, follow, read

READ = {
    "http://images.example.com": Target("http", "images.example.com", 80, "/"),
    "https://Images.Example.COM./a/b.png?x=1&y=%20#top": Target(
        "https", "images.example.com", 443, "/a/b.png?x=1&y=%20"
    ),
    "https://a.test:8443/?": Target("https", "a.test", 8443, "/"),
    "http://127.0.0.1/x": Target("http", "127.0.0.1", 80, "/x"),
    "http://[::0001]:80/": Target("http", "::1", 80, "/"),
    "http://xn--bcher-kva.example/": Target("http", "xn--bcher-kva.example", 80, "/"),
    "http://a.test?q": Target("http", "a.test", 80, "/?q"),
}

REFUSED = {
    "": "printable",
    "cat.png": "http or https",
    "//a.test/x": "http or https",
    "ftp://a.test/": "http or https",
    "file:///etc/passwd": "http or https",
    "gopher://a.test/": "http or https",
    "data:image/png;base64,AAAA": "http or https",
    "http://": "name a host",
    "http:///x": "name a host",
    "http://user@a.test/": "user or a password",
    "http://user:pass@a.test/": "user or a password",
    "http://a.test@127.0.0.1/": "user or a password",
    "http://a.test\\@127.0.0.1/": "backslashes",
    "http://a.test/\r\nX: y": "printable",
    "http://a.test/ x": "printable",
    "http://bücher.example/": "printable",
    "http://a.test\t/": "printable",
    "http://2130706433/": "four decimal",
    "http://0x7f000001/": "four decimal",
    "http://0177.0.0.1/": "four decimal",
    "http://127.1/": "four decimal",
    "http://0x7f.0.0.0x1/": "four decimal",
    "http://a.test.08/": "four decimal",
    "http://[::1/": "is not a URL",
    "http://[::1%25eth0]/": "not a URL|name a host",
    "http://[v1.x]/": "not a URL|name a host",
    "http://[127.0.0.1]/": "not a URL|name a host",
    "http://a..test/": "name a host",
    "http://-a.test/": "name a host",
    "http://a%2etest/": "name a host",
    "http://a.test:/": "name a host",
    "http://a.test:0/": "port",
    "http://a.test:65536/": "port",
    "http://a.test:80:80/": "name a host",
    "http://a.test/" + "x" * 2048: "2048",
}


@pytest.mark.parametrize("uri", READ)
def test_what_a_url_asks_for(uri: str) -> None:
    assert read(uri) == READ[uri]


@pytest.mark.parametrize("uri", REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_is_refused_by_its_looks(uri: str) -> None:
    with pytest.raises(Refused, match=REFUSED[uri]):
        read(uri)


@given(
    st.text(max_size=80) | st.text("htps:/@[]?#.%\\ 0127x", max_size=60).map(lambda rest: f"http://{rest}")
)
def test_what_is_read_once_is_read_alike_again(uri: str) -> None:
    try:
        target = read(uri)
    except Refused:
        return
    assert read(target.uri) == target
    assert "@" not in target.host
    assert target.path.startswith("/")


LED = {
    "/b": "https://a.test/b",
    "b?c#d": "https://a.test/x/b?c",
    "//other.test/": "https://other.test/",
    "https://other.test:444/": "https://other.test:444/",
}


@pytest.mark.parametrize("location", LED)
def test_where_a_redirect_leads(location: str) -> None:
    assert follow(read("https://a.test/x/y"), location).uri == LED[location]


@pytest.mark.parametrize(
    "location", ["http://a.test/", "ftp://a.test/", "https://u@a.test/", "https://[", "file:///etc/passwd"]
)
def test_where_no_redirect_leads(location: str) -> None:
    with pytest.raises(Refused):
        follow(read("https://a.test/x/y"), location)


ALLOWED = ("images.example.com", "*.cdn.test", "files.test:8443", "[2606:4700::1]", "localhost:9000")


@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("https://images.example.com/a", True),
        ("http://IMAGES.example.com/a", True),
        ("http://images.example.com:443/a", True),
        ("http://images.example.com:8080/a", False),
        ("http://evil-images.example.com/", False),
        ("http://images.example.com.evil.test/", False),
        ("http://a.cdn.test/", True),
        ("http://a.b.cdn.test/", True),
        ("http://cdn.test/", False),
        ("http://evilcdn.test/", False),
        ("https://files.test:8443/", True),
        ("https://files.test/", False),
        ("http://[2606:4700:0::1]/", True),
        ("http://localhost:9000/", True),
        ("http://localhost/", False),
    ],
)
def test_which_hosts_are_allowed(uri: str, allowed: bool) -> None:
    hosts = Hosts(ALLOWED, ())
    if allowed:
        hosts.check(read(uri))
    else:
        with pytest.raises(Refused, match="not of a host"):
            hosts.check(read(uri))


def test_private_hosts_are_allowed_as_they_are_named() -> None:
    hosts = Hosts(["*"], ["minio.internal:9000"])
    hosts.check(read("http://minio.internal:9000/"))
    assert hosts.is_private("minio.internal", 9000)
    assert not hosts.is_private("minio.internal", 80)
    assert not hosts.is_private("other.internal", 9000)


def test_without_hosts_nothing_is_fetched() -> None:
    with pytest.raises(Refused, match="fetches no media"):
        Hosts((), ()).check(read("http://a.test/"))
