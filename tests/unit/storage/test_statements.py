"""Statements are compiled once: however many runs one names, it is the same. Each kept one is many objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import CacheStats
from support import make

from dragoman import ids
from dragoman.records import Run, SessionConflict
from dragoman.storage import ends, engines, events, messages, migrate, runs, turns

LIMIT = 1024


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[sa.Engine, dict[Any, Any]]]:
    """An engine on a new database, and the statements that it has compiled so far."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    migrate(url)
    engine = engines.sqlite_writer(engines.parse(url), "NORMAL")
    compiled: dict[Any, Any] = {}
    yield engine.execution_options(compiled_cache=compiled), compiled
    engine.dispose()


def whole_runs(writer: sa.Engine, number: int) -> list[Run]:
    """Runs from their beginning to their end, all at the same time, with events of any length."""
    begun = []
    with writer.begin() as connection:
        for _ in range(number):
            session = make.session()
            begun.append(make.run(session))
            turns.start(connection, turns.Start(begun[-1], session, SessionConflict.REJECT, 0, None))
        for first in (1, 2):
            chunks = [make.chunk(run, first, bytes(place * 100)) for place, run in enumerate(begun)]
            events.append(connection, chunks, [], LIMIT)
        runs.renew(connection, ids.new_id(), [run.id for run in begun])
        for place, run in enumerate(begun):
            said = [make.message(run, parts=b"{}") for _ in range(place)]
            calls = [make.call(run)] * (place % 2)
            end = make.end(run, first=3, messages=said, calls=calls)
            ends.write(connection, ends.prepare(end, LIMIT))
            assert len(messages.history(connection, make.ALICE, run.session_id, place + 1)) == place
            names = [f"member {number}" for number in range(place % 3)]
            assert messages.member_history(connection, make.ALICE, run.session_id, names, place + 1, 9) == []
            assert len(events.read(connection, make.ALICE, run.id, place % 3, 2**20)) == 3 - place % 3
    return begun


def test_the_number_of_runs_makes_no_new_statements(writer: tuple[sa.Engine, dict[Any, Any]]) -> None:
    engine, compiled = writer
    whole_runs(engine, 3)
    before = len(compiled)
    assert 0 < before < 30
    for number in (1, 2, 7, 17, 40):
        assert len(whole_runs(engine, number)) == number
        assert len(compiled) == before


def test_every_statement_is_compiled_once(writer: tuple[sa.Engine, dict[Any, Any]]) -> None:
    """One that cannot be kept is compiled every time, which takes longer than to run it."""
    engine, _ = writer
    whole_runs(engine, 3)
    compiled: list[str] = []

    def note(
        _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
    ) -> None:
        if context.cache_hit is not CacheStats.CACHE_HIT:
            compiled.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    whole_runs(engine, 3)
    assert compiled == []
