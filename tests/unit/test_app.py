"""The composition root: what can be wrong with a configuration is told in one sentence, and nothing is left open."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from dragoman.app import ServerInfo, StartError, running
from dragoman.config import Settings
from dragoman.process import serve
from dragoman.testing.offline import OfflineModel


def settings(tmp_path: Path, **changed: Any) -> Settings:
    given = {"port": 0, "database_url": f"sqlite:///{tmp_path / 'a.db'}", "entry_points": False, **changed}
    return Settings(**given)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"agents": ("no_such_module:agent",)}, "no_such_module"),
    ({"database_url": "postgresql://user:secret@host/name"}, "postgresql"),
    ({"database_url": "garbage"}, "not of the form"),
    ({"database_url": "mysql+mysqldb://user:secret@host/name"}, "MySQLdb"),
    ({"database_url": "sqlite:////no/such/folder/a.db"}, "database"),
    ({"prices_file": Path("/no/such/prices.toml")}, "prices.toml"),
    ({"rates_file": Path("/no/such/rates.toml")}, "rates.toml"),
    ({"currency": "XXX"}, "XXX"),
    ({"redis_url": "http://user:secret@host"}, "redis_url"),
    ({"redis_url": "redis://user:secret@host:port/0"}, "not a URL of Redis"),
]


@pytest.mark.parametrize(("changed", "told"), WRONG, ids=[told for _, told in WRONG])
async def test_what_is_wrong_is_told_in_a_sentence(
    changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    tasks = asyncio.all_tasks()
    with pytest.raises(StartError) as caught:
        async with running(settings(tmp_path, **changed)):
            pytest.fail("it started")
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    assert asyncio.all_tasks() == tasks


async def test_a_taken_port_is_told_and_the_rest_is_closed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=str(port)):
            async with running(settings(tmp_path, port=port)):
                pytest.fail("it started")


@pytest.mark.mariadb
async def test_an_old_schema_is_refused_until_it_is_migrated(mariadb: Any, tmp_path: Path) -> None:
    url = mariadb.fresh_database()
    with pytest.raises(StartError, match="--migrate"):
        async with running(settings(tmp_path, database_url=url)):
            pytest.fail("it started")
    async with running(settings(tmp_path, database_url=url), migrate=True) as server:
        assert "dragoman" not in server.info.database.split("@")[0].split(":")[1:]
    async with running(settings(tmp_path, database_url=url)) as server:
        assert server.info.agents == []


async def test_told_to_stop_while_it_starts_it_does(tmp_path: Path) -> None:
    """The database does not answer, which start-up bears for many seconds."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"mysql+pymysql://user:secret@127.0.0.1:{nobody.getsockname()[1]}/name"
        started: list[ServerInfo] = []
        serving = asyncio.create_task(serve(settings(tmp_path, database_url=url), started=started.append))
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60):
            await serving
    assert started == []


async def test_without_an_answer_from_redis_it_serves_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = asyncio.all_tasks()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{nobody.getsockname()[1]}/0"
        async with running(settings(tmp_path, redis_url=url)) as server, asyncio.timeout(30):
            assert server.info.address
            while not (told := [each for each in caplog.records if each.name.startswith("dragoman.signals")]):
                await asyncio.sleep(0.01)
    assert [each.levelname for each in told] == ["WARNING"]
    assert not any("secret" in str(vars(each)) for each in caplog.records)
    assert asyncio.all_tasks() == tasks


async def test_agents_at_hand_are_served_beside_those_that_are_named(tmp_path: Path) -> None:
    from agno.agent import Agent

    agent = Agent(name="at-hand", model=OfflineModel())
    named = settings(tmp_path, agents=("examples.agents:agents",))
    async with running(named, agents=[agent]) as server:
        assert server.info.agents == [
            "at-hand",
            "desk",
            "example",
            "gallery",
            "research",
            "toolbox",
            "vision",
        ]
        assert server.info.currency == "ZAR"
