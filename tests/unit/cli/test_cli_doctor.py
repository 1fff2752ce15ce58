"""`dragoman doctor` on settings and machines that are in order, and on such as are not."""

import asyncio
import importlib
import json
import resource
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority
from support.mariadb import MariaDBServer
from support.redis_server import RedisServer

from dragoman.doctor import examine, failed, good, machine
from dragoman.storage import migrate
from dragoman.testing.anthropic import FakeAnthropic, HttpError, Turn

SECRET = "hunter2-is-secret"

CLAUDE = """
from agno.agent import Agent
from agno.models.anthropic import Claude

desk = Agent(name="desk", model=Claude(id="claude-haiku-4-5"))
"""

Found = dict[tuple[str, str], list[tuple[str, str]]]
"""What was found and how to mend it, by check and level."""


@pytest.fixture
def doctor(dragoman: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """`dragoman doctor --json` with settings, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAGOMAN_PORT", "0")
    monkeypatch.setenv("DRAGOMAN_ENTRY_POINTS", "false")

    def run(*arguments: str, **settings: object) -> Found:
        with monkeypatch.context() as within:
            for name, value in settings.items():
                within.setenv(f"DRAGOMAN_{name.upper()}", str(value))
            result = dragoman("doctor", "--json", *arguments)
        answer = json.loads(result.stdout)
        assert SECRET not in result.output
        assert "Traceback" not in result.output
        assert result.exit_code == (0 if answer["ok"] else 1)
        found: Found = {}
        for each in answer["findings"]:
            assert bool(each["mend"]) == (each["level"] != "ok"), each
            found.setdefault((each["check"], each["level"]), []).append((each["what"], each["mend"]))
        return found

    return run


def told(found: Found, check: str, level: str) -> str:
    """All that a check has found of a level."""
    return "\n".join(f"{what} -> {mend}" for what, mend in found.get((check, level), []))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_new_machine_is_in_order_and_stays_as_it_is(dragoman: Any, doctor: Any, tmp_path: Path) -> None:
    found = doctor()
    assert not [check for check, level in found if level == "failed"]
    assert "will be brought to" in told(found, "database", "ok")
    assert list(tmp_path.iterdir()) == []
    text = dragoman("doctor")
    assert text.exit_code == 0
    assert "✓ settings     the settings are valid" in text.stdout
    assert "→ set budgets, or max_run_cost for each run" in text.stdout
    assert text.stdout.splitlines()[-1].endswith("0 failed")


def test_settings_that_are_not_valid(doctor: Any) -> None:
    found = doctor(prot=1)
    assert "did you mean DRAGOMAN_PORT?" in told(found, "settings", "failed")
    found = doctor(port="many", host="0.0.0.0", database_url=f"mysql://u:{SECRET}@h/d")
    assert "port: " in told(found, "settings", "failed")


@pytest.mark.parametrize(
    ("settings", "check", "level", "expected"),
    [
        ({"host": "0.0.0.0", "insecure": "true"}, "access", "warning", "callers prove nothing"),
        ({"host": "0.0.0.0", "auth": "keys"}, "access", "warning", "not encrypted"),
        ({"workers": 2}, "access", "warning", "one SQLite file"),
        ({"database_url": "sqlite://"}, "access", "warning", "lives in memory"),
        ({"media_hosts": "*"}, "access", "warning", "any public host"),
        ({"log_level": "DEBUG"}, "access", "warning", "may quote"),
        ({"auth": "keys"}, "API keys", "warning", "run `dragoman migrate`"),
        ({"host": "203.0.113.7", "port": 50051, "insecure": "true"}, "port", "failed", "cannot be listened"),
        ({"database_url": "postgresql://h/d"}, "database", "failed", "not supported"),
        ({"database_url": "sqlite:////nowhere/at/all.db"}, "database", "failed", "cannot be written to"),
        ({"redis_url": f"http://:{SECRET}@h"}, "redis", "failed", "not a URL of Redis"),
        ({"media_store": "ftp://h"}, "media store", "failed", "media_store is"),
        ({"agents": "no_such_module:agent"}, "agents", "failed", "no_such_module"),
        ({"currency": "XTS"}, "prices", "failed", "rates.XTS"),
        ({}, "spending", "warning", "nothing limits"),
        ({"max_run_cost": "5"}, "spending", "ok", "limited"),
    ],
)
def test_what_settings_alone_can_get_wrong(
    doctor: Any, settings: dict[str, object], check: str, level: str, expected: str
) -> None:
    assert expected in told(doctor(**settings), check, level)


@pytest.mark.parametrize("driver", ["mysql", "mysql+mysqldb"])
def test_a_database_that_is_not_there(doctor: Any, closed: int, driver: str) -> None:
    url = f"{driver}://u:{SECRET}@127.0.0.1:{closed}/d"
    found = doctor(database_url=url, auth="keys")
    assert "cannot be used" in told(found, "database", "failed")
    assert "without the database" in told(found, "API keys", "failed")


def test_a_file_that_is_no_database(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "dragoman.db").write_bytes(b"this is a letter" * 100)
    assert "not a database" in told(doctor(), "database", "failed")
    (tmp_path / "dragoman.db").unlink()
    migrate("sqlite:///dragoman.db")
    found = doctor()
    assert "as needed" in told(found, "database", "ok")
    assert "can be written to" in told(found, "database", "ok")


def test_a_file_that_can_only_be_read(doctor: Any, tmp_path: Path) -> None:
    migrate("sqlite:///dragoman.db")
    found = doctor(database_url=f"sqlite:///file:{tmp_path}/dragoman.db?mode=ro&uri=true")
    assert "readonly" in told(found, "database", "failed")


@pytest.mark.mariadb
def test_a_database_server_in_order(doctor: Any, mariadb: MariaDBServer) -> None:
    empty = mariadb.fresh_database()
    assert "run `dragoman migrate`" in told(doctor(database_url=empty), "database", "failed")
    with mariadb.migrated_database() as url:
        found = doctor(database_url=url)
        ok = told(found, "database", "ok")
        assert "MariaDB 127.0.0.1" in ok
        assert "as needed" in ok
        assert "can be written to" in ok
        assert "agree" in ok
        assert told(found, "database", "warning") == told(found, "database", "failed") == ""
        name = url.rpartition("/")[2]
        assert mariadb.execute(f"SELECT COUNT(*) FROM {name}.sessions") == [(0,)]


@pytest.mark.mariadb
def test_a_database_of_a_later_release(doctor: Any, mariadb: MariaDBServer) -> None:
    url = mariadb.fresh_database()
    migrate(url)
    mariadb.execute(f"UPDATE {url.rpartition('/')[2]}.dragoman_version SET version_num = '9999'")
    assert "of a later release" in told(doctor(database_url=url), "database", "warning")


@pytest.mark.mariadb
@pytest.mark.parametrize(
    ("variable", "value", "settings", "expected"),
    [
        ("max_allowed_packet", 2**20, {}, "max_allowed_packet is 1 MiB"),
        ("innodb_flush_log_at_trx_commit", 0, {}, "loses up to a second"),
        ("read_only", 1, {}, "this is a replica"),
        ("max_connections", 100, {"workers": 2, "database_connections": 64}, "wants 128 connections"),
    ],
)
def test_what_is_set_in_a_database_server(
    doctor: Any,
    mariadb: MariaDBServer,
    variable: str,
    value: int,
    settings: dict[str, object],
    expected: str,
) -> None:
    [(usual,)] = mariadb.execute(f"SELECT @@global.{variable}")
    with mariadb.migrated_database() as url:
        mariadb.execute(f"SET GLOBAL {variable} = {value}")
        try:
            found = doctor(database_url=url, **settings)
        finally:
            mariadb.execute(f"SET GLOBAL {variable} = {usual}")
    assert expected in told(found, "database", "warning")


@pytest.mark.mariadb
def test_an_account_that_may_not_write_and_a_clock_that_is_wrong(doctor: Any, mariadb: MariaDBServer) -> None:
    mariadb.execute(f"CREATE USER IF NOT EXISTS 'reader'@'%' IDENTIFIED BY '{SECRET}'")
    mariadb.execute(
        "SET GLOBAL init_connect = 'SET timestamp = 1700000000'"
    )  # for all who are not privileged
    try:
        with mariadb.migrated_database() as url:
            mariadb.execute(f"GRANT SELECT ON {url.rpartition('/')[2]}.* TO 'reader'@'%'")
            bad = told(
                doctor(database_url=url.replace("dragoman:dragoman", f"reader:{SECRET}")),
                "database",
                "failed",
            )
            wrong = doctor(database_url=url.replace("dragoman:dragoman", f"reader:{SECRET}-not"))
    finally:
        mariadb.execute("SET GLOBAL init_connect = ''")
        mariadb.execute("DROP USER 'reader'@'%'")
    assert "cannot be written to" in bad
    assert "give the account SELECT, INSERT" in bad
    assert "s apart -> synchronise both" in bad
    assert "Access denied" in told(wrong, "database", "failed")


def test_ports_that_are_taken(doctor: Any, taken: int) -> None:
    assert f"somebody listens on 127.0.0.1:{taken}" in told(doctor(port=taken), "port", "warning")
    assert "another metrics_port" in told(doctor(metrics_port=taken), "port", "warning")


def test_limits_of_the_machine(doctor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = tmp_path / "memory.max"
    memory.write_text("104857600\n")
    monkeypatch.setattr(machine, "_CGROUPS", (str(memory),))
    for files, level in ((128, "failed"), (1024, "warning"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, resource.RLIM_INFINITY))
        found = doctor()
        assert "files" in told(found, "limits", level)
        assert "100 MiB of memory for 1 process" in told(found, "limits", "warning")
    memory.write_text("max\n")
    assert "of memory" in told(doctor(), "limits", "ok")


@pytest.mark.parametrize(("free", "level"), [(2**20, "failed"), (500 * 2**20, "warning"), (2**40, "ok")])
def test_room_on_the_disk(doctor: Any, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = type("usage", (), {"free": free})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "are free for the database" in told(doctor(), "database", level)


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("begins", "ends", "level", "expected"),
    [
        (-2 * HOUR, 1000 * HOUR, "ok", "holds until"),
        (-2 * HOUR, 24 * HOUR, "warning", "expires at"),
        (-2 * HOUR, -HOUR, "failed", "has expired"),
        (HOUR, 1000 * HOUR, "failed", "does not hold yet"),
    ],
)
def test_when_certificates_hold(
    doctor: Any, tmp_path: Path, begins: timedelta, ends: timedelta, level: str, expected: str
) -> None:
    now = datetime.now(UTC)
    certificate, key = Authority().server(now + begins, now + ends).write(tmp_path, "server")
    key.chmod(0o600)
    found = doctor(tls_cert=certificate, tls_key=key)
    assert expected in told(found, "TLS", level)
    assert {level for check, level in found if check == "TLS"} == {level}


def test_files_of_tls_that_do_not_do(doctor: Any, tmp_path: Path) -> None:
    authority, nonsense = Authority(), tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    certificate, key = authority.server().write(tmp_path, "one")
    _, other = authority.server().write(tmp_path, "other")
    for settings in (
        {"tls_cert": certificate, "tls_key": other},
        {"tls_cert": nonsense, "tls_key": key},
        {"tls_cert": certificate, "tls_key": key, "tls_client_ca": nonsense},
    ):
        assert "cannot be used" in told(doctor(**settings), "TLS", "failed"), settings
    found = doctor(tls_cert=certificate, tls_key=tmp_path / "missing.key")
    assert "missing.key: No such file" in told(found, "TLS", "failed")
    key.chmod(0o644)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    found = doctor(tls_cert=certificate, tls_key=key, tls_client_ca=tmp_path / "ca.pem")
    assert "chmod o-r" in told(found, "TLS", "warning")
    assert "an authority of clients" in told(found, "TLS", "ok")


def test_api_keys(dragoman: Any, doctor: Any) -> None:
    migrate("sqlite:///dragoman.db")
    assert "run `dragoman keys create PRINCIPAL`" in told(doctor(auth="keys"), "API keys", "warning")
    assert dragoman("keys", "create", "billing").exit_code == 0
    assert "1 API key can be used" in told(doctor(auth="keys"), "API keys", "ok")


def test_issuers_of_tokens(doctor: Any, taken: int, closed: int, tmp_path: Path) -> None:
    signed = {"issuer": "https://login.example", "audience": ["dragoman"]}
    issuers = [
        {**signed, "jwks_url": f"http://127.0.0.1:{taken}/keys"},
        {**signed, "issuer": "https://other.example", "jwks_url": f"http://127.0.0.1:{closed}/keys"},
        {**signed, "issuer": "https://third.example", "keys_file": str(tmp_path / "missing.json")},
    ]
    found = doctor(auth="tokens", tokens=json.dumps(issuers))
    assert f"https://login.example: 127.0.0.1:{taken} can be reached" in told(found, "tokens", "ok")
    bad = told(found, "tokens", "failed")
    assert f"https://other.example: 127.0.0.1:{closed} cannot be reached" in bad
    assert "https://third.example: " in bad


def test_a_media_store(doctor: Any, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    found = doctor(media_store=f"file://{folder}")
    assert "can be written, read and deleted from" in told(found, "media store", "ok")
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    (tmp_path / "file").write_text("not a folder")
    found = doctor(media_store=f"file://{tmp_path}/file/media")
    assert told(found, "media store", "failed")


def test_redis(doctor: Any, closed: int) -> None:
    found = doctor(redis_url=f"redis://:{SECRET}@127.0.0.1:{closed}/0")
    assert "does not answer" in told(found, "redis", "warning")
    with RedisServer.start() as redis:
        assert told(doctor(redis_url=redis.url), "redis", "ok").startswith("redis answers")


def test_a_collector_of_traces(doctor: Any, taken: int, closed: int) -> None:
    headers = f"authorization={SECRET}"
    there = doctor(otlp_endpoint=f"http://127.0.0.1:{taken}", otlp_headers=headers)
    assert "can be reached" in told(there, "traces", "ok")
    gone = doctor(otlp_endpoint=f"http://127.0.0.1:{closed}", otlp_headers=headers)
    assert "traces are lost" in told(gone, "traces", "warning")


def test_agents_their_prices_and_their_key(
    doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = tmp_path / "desks.py"
    agents.write_text(CLAUDE)
    found = doctor(agents=f"{agents}:desk")
    assert "1 can be served: desk" in told(found, "agents", "ok")
    assert "ANTHROPIC_API_KEY is not set, and claude-haiku-4-5 may want it" in told(
        found, "models", "warning"
    )
    assert "all models of the agents have a price" in told(found, "prices", "ok")
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    (own := tmp_path / "own.py").write_text(CLAUDE.replace("claude-haiku-4-5", "claude-of-my-own"))
    found = doctor(agents=f"{own}:desk")
    assert "ANTHROPIC_API_KEY is set" in told(found, "models", "ok")
    assert "without a cost: claude-of-my-own" in told(found, "prices", "warning")
    (bad := tmp_path / "bad.py").write_text(f"{CLAUDE}\nraise RuntimeError('no')")
    broken = doctor(agents=f"{bad}:desk")
    assert f"{bad}:7: " in told(broken, "agents", "failed")


def test_exchange_rates(doctor: Any, tmp_path: Path) -> None:
    rates = tmp_path / "rates.toml"
    today = datetime.now(UTC).date()
    rates.write_text(f'[rates.ZAR]\n{today - timedelta(days=90)} = "17.2"\n')
    assert "the newest exchange rate" in told(doctor(rates_file=rates), "prices", "warning")
    assert "the newest exchange rate" in told(doctor(rates_file=rates, max_rate_age_days=100), "prices", "ok")
    rates.write_text(f'[rates.ZAR]\n{today + timedelta(days=9)} = "17.2"\n')
    assert "nothing has a cost" in told(doctor(rates_file=rates), "prices", "failed")
    rates.write_text("[rates")
    assert "dragoman prices check" in told(doctor(rates_file=rates), "prices", "failed")


@pytest.mark.parametrize(
    ("answer", "level", "expected"),
    [
        (Turn("yes"), "ok", "claude-haiku-4-5 answers"),
        (HttpError(401), "failed", "claude-haiku-4-5 is refused to this key"),
        (HttpError(404), "failed", "claude-haiku-4-5 is not known to the provider"),
        (HttpError(429), "failed", "too many requests"),
        (HttpError(529), "failed", "HTTP status 529"),
    ],
)
async def test_the_model_is_called(
    doctor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Turn | HttpError,
    level: str,
    expected: str,
) -> None:
    (tmp_path / "desks.py").write_text(CLAUDE)
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    async with FakeAnthropic() as fake:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", fake.url)
        fake.script(answer)
        found = await asyncio.to_thread(doctor, "--call-model", "--agents", f"{tmp_path}/desks.py:desk")
        assert len(fake.requests) == 1
    assert expected in told(found, "models", level)


async def test_one_check_takes_nothing_from_the_others() -> None:
    let_go = threading.Event()

    def hang() -> Iterator[Any]:
        let_go.wait(60)
        yield good("late")

    def break_down() -> Iterator[Any]:
        yield good("never told")
        raise RuntimeError(SECRET)

    def find() -> Iterator[Any]:
        yield failed(f"the password is {SECRET}", "mend")

    checks = [("hangs", hang), ("breaks", break_down), ("finds", find)]
    try:
        found = [each async for each in examine(checks, [SECRET], patience=0.5)]
    finally:
        let_go.set()
    assert [(each.check, each.what) for each in found] == [
        ("hangs", "took longer than 0.5 s"),
        ("breaks", "could not be looked at (RuntimeError)"),
        ("finds", "the password is ***"),
    ]


async def test_checks_may_import_modules_that_need_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that did so at a time would each wait for what the other holds: Python ends that with an error."""
    for name, other in (("needs_right", "needs_left"), ("needs_left", "needs_right")):
        (tmp_path / f"{name}.py").write_text(
            f"import importlib, time\ntime.sleep(0.2)\nimportlib.import_module('{other}')\n"
        )
    monkeypatch.syspath_prepend(tmp_path)

    def check(name: str) -> Iterator[Any]:
        importlib.import_module(name)
        yield good(f"has {name}")

    checks = [(name, partial(check, name)) for name in ("needs_right", "needs_left")]
    found = [each async for each in examine(checks)]
    assert [each.what for each in found] == ["has needs_right", "has needs_left"]
