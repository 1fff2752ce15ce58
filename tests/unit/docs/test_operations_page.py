"""docs/operations.md: its backups give back every byte, its links lead somewhere, and what it says of SQL is so."""

import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.mariadb import MariaDBServer

from docs import generate
from dragoman.client import Dragoman, image
from dragoman.config import Settings
from dragoman.storage.tables import metadata
from dragoman.testing.serving import serving
from examples.agents import agents
from examples.pictures import OZYMANDIAS

FOLDER = generate.ROOT / "docs"
PAGE = (FOLDER / "operations.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


def command(program: str) -> str:
    """The one command of the page that runs a program."""
    found: list[str] = [each for each in COMMANDS if each.split()[0] == program]
    assert len(found) == 1
    return found[0]


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, by their keys."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {
            table.name: [
                tuple(row)
                for row in connection.exec_driver_sql(
                    f"SELECT * FROM {table.name} ORDER BY {', '.join(column.name for column in table.primary_key)}"
                )
            ]
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


async def converse(address: str) -> None:
    """Two turns, with a picture and words beyond ASCII."""
    async with Dragoman(address) as client:
        picture = [image(OZYMANDIAS)]
        await client.run("gallery", "Which word stands in the picture? Ünïcode: 龍 🐉", media=picture).text()
        sessions = [each async for each in client.list_sessions(agent="gallery")]
        await client.run("gallery", "Good morning!", session=sessions[0]).text()


async def test_a_backup_of_sqlite_gives_every_byte_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/dragoman.db"
    [statement] = re.findall(r'^sqlite3 dragoman.db "(.*)"$', command("sqlite3"))
    async with serving(*agents, database_url=url) as server:
        await converse(server.address)
        connection = sqlite3.connect(tmp_path / "dragoman.db")
        connection.execute(statement.replace("backup.db", f"{tmp_path}/backup.db"))
        connection.close()
    original = contents(url)
    assert original["chat_events"]
    assert original["media"]
    assert contents(f"sqlite:///{tmp_path}/backup.db") == original
    async with serving(*agents, database_url=f"sqlite:///{tmp_path}/backup.db") as server:
        await converse(server.address)


@pytest.mark.mariadb
async def test_a_backup_of_mariadb_gives_every_byte_back(mariadb: MariaDBServer, tmp_path: Path) -> None:
    url, restored = mariadb.fresh_database(), mariadb.fresh_database()
    async with serving(*agents, database_url=url) as server:
        await converse(server.address)
        run(mariadb, command("mariadb-dump"), url, tmp_path)
    run(mariadb, command("mariadb"), restored, tmp_path)
    original = contents(url)
    assert original["chat_events"]
    assert original["media"]
    assert contents(restored) == original
    async with serving(*agents, database_url=restored) as server:
        await converse(server.address)


def run(mariadb: MariaDBServer, text: str, url: str, folder: Path) -> None:
    """A command of the page, for a database of the private server."""
    program, *options = text.replace(" dragoman ", f" {url.rpartition('/')[2]} ").split()
    direction, file = options[-2:]
    arguments = [
        shutil.which(program) or program,
        "--no-defaults",
        *("--host=127.0.0.1", f"--port={mariadb.port}", "--user=dragoman", "--password=dragoman"),
        *options[:-2],
    ]
    with (folder / file).open("wb" if direction == ">" else "rb") as stream:
        where = {"stdout": stream} if direction == ">" else {"stdin": stream}
        done = subprocess.run(arguments, stderr=subprocess.PIPE, check=False, timeout=100, **where)  # type: ignore[call-overload]  # either
    assert done.returncode == 0, done.stderr


def test_what_it_says_of_sql_is_so() -> None:
    assert all(len(table.primary_key) > 0 for table in metadata.sorted_tables)
    for table in metadata.sorted_tables:
        assert table.name == "dragoman_version" or table.dialect_options["mysql"]["engine"] == "InnoDB"
        assert table.autoincrement_column is None
        for column in table.columns:
            assert column.computed is None
            assert not isinstance(column.type, sa.JSON)
    source = "".join(path.read_text() for path in (generate.ROOT / "server/dragoman/storage").glob("*.py"))
    for unused in ("skip_locked", "on_duplicate", "on_conflict", "begin_nested"):
        assert unused not in source


def test_defaults_that_it_names_are_those_of_the_settings() -> None:
    named = re.findall(r"`(\w+)` \((\d+)(?: s)?\)", PAGE)
    assert len(named) >= 5
    for name, default in named:
        assert Settings.model_fields[name].default == float(default), name


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = link.partition("#")
        page = (FOLDER / path if path else FOLDER / "operations.md").resolve()
        assert page.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in anchors, link
