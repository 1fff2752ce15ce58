"""How hosts of media are written in the settings."""

import pytest
from pydantic import ValidationError

from dragoman.config import Settings
from dragoman.fetch import Hosts
from dragoman.fetch.targets import read


def test_nothing_is_fetched_by_default() -> None:
    settings = Settings()
    assert (settings.media_hosts, settings.media_private_hosts) == ((), ())


def test_hosts_come_from_the_environment_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_MEDIA_HOSTS", "images.example.com, *.cdn.test:8443,[2606:4700::1]:81 ,*")
    monkeypatch.setenv("DRAGOMAN_MEDIA_PRIVATE_HOSTS", "minio.internal:9000,10.0.0.7")
    settings = Settings()
    assert settings.media_hosts == ("images.example.com", "*.cdn.test:8443", "[2606:4700::1]:81", "*")
    assert settings.media_private_hosts == ("minio.internal:9000", "10.0.0.7")
    hosts = Hosts(settings.media_hosts[:3], settings.media_private_hosts)
    for uri in ("https://a.cdn.test:8443/", "http://[2606:4700::1]:81/", "http://minio.internal:9000/"):
        hosts.check(read(uri))


@pytest.mark.parametrize(
    "host",
    [
        "https://images.example.com",
        "images.example.com/cats",
        "images.example.com:0",
        "images.example.com:65536",
        "user@images.example.com",
        "images.*.com",
        "*images.example.com",
        "**.example.com",
        "a b",
        "[::1",
        "[1.2.3.4]",
        "[:::]",
        ".example.com",
    ],
)
@pytest.mark.parametrize("setting", ["media_hosts", "media_private_hosts"])
def test_what_is_no_host_is_refused(setting: str, host: str) -> None:
    with pytest.raises(ValidationError):
        Settings(**{setting: (host,)})  # type: ignore[arg-type]  # a setting by its name


@pytest.mark.parametrize("host", ["*", "*.internal", "*.internal:9000"])
def test_private_hosts_are_named_in_full(host: str) -> None:
    Settings(media_hosts=(host,))
    with pytest.raises(ValidationError, match="named in full"):
        Settings(media_private_hosts=(host,))
