"""docs/data-model.md names every table and column, and its queries run as they stand, on SQLite and on MariaDB."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from docs import generate
from dragoman.client import Dragoman, image
from dragoman.storage.tables import metadata
from dragoman.testing._png import encode_grey
from dragoman.testing.serving import serving
from examples.agents import agents
from examples.pictures import OZYMANDIAS

PAGE = generate.DATA_MODEL.read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^([^\n]+):\n\n```sql\n(.*?);\n```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_picture_has_every_table_and_column() -> None:
    drawn = {
        name: [line.split()[1] for line in body.strip().splitlines()]
        for name, body in re.findall(r"^    (\w+) \{\n(.*?)^    \}$", PAGE, re.MULTILINE | re.DOTALL)
    }
    assert drawn == {table.name: table.columns.keys() for table in metadata.sorted_tables}
    assert generate.data_model() == PAGE, "run make docs"


def test_every_table_is_told() -> None:
    rows = re.findall(r"^\| (`.*?`) \| .+ \|$", PAGE.split("## What is in")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(metadata.tables)


async def rows(database_url: str) -> dict[str, list[dict[str, Any]]]:
    """What each query of the page gives after a run of a team with a picture, and one of an agent."""
    async with (
        serving(*agents, database_url=database_url) as server,
        Dragoman(server.address) as client,
    ):
        message = "Which word stands in the picture? Then count the letters of it."
        await client.run("gallery", message, media=[image(OZYMANDIAS), image(big())]).text()
        await client.execute("toolbox", "Calculate 6 * 7.")
        sessions = [each async for each in client.list_sessions(agent="gallery")]
        await client.run("gallery", "Good morning!", session=sessions[0]).text()
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        found = {
            about: [dict(row) for row in connection.exec_driver_sql(query).mappings()]
            for about, query in QUERIES.items()
        }
    engine.dispose()
    return found


def big() -> bytes:
    """A picture that is too large to stand in the message, too."""
    return encode_grey([bytes((x * y * 7 + x * x) % 256 for x in range(300)) for y in range(300)])


async def test_its_queries_tell_what_they_say(database_url: str) -> None:
    conversation, texts, members, days, media, wrong = (await rows(database_url)).values()
    assert {row["agent"] for row in conversation} == {"gallery", "Reader", "Speller"}
    assert [row["sequence"] for row in conversation] == list(range(1, len(conversation) + 1))
    assert all((row["parent"] in (None, "")) == (row["agent"] == "gallery") for row in conversation)
    assert any("Ozymandias" in row["message"] for row in texts)
    assert {"gallery", "Reader", "Speller", "toolbox"} == {row["agent"] for row in members}
    assert all(row["amount"] > 0 and row["input"] > 0 for row in members)
    assert {tuple(row[name] for name in ("provider", "model", "currency", "unpriced")) for row in days} == {
        ("offline", "offline-1", "ZAR", 0)
    }
    assert sum(row["amount"] for row in members) == sum(row["amount"] for row in days)
    assert sorted(row["size"] for row in media) == sorted([OZYMANDIAS.stat().st_size, len(big())])
    assert {row["mime_type"] for row in media} == {"image/png"}
    assert all(row["refs"] == row["messages"] > 0 for row in media)
    assert wrong == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", PAGE))))
def test_links_lead_to_files(link: str) -> None:
    assert Path(generate.DATA_MODEL.parent, link).is_file()
