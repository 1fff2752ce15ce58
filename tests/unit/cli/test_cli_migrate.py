"""`dragoman migrate` on SQLite; the databases themselves are tested with the storage."""

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'new.db'}"


def test_check_then_migrate_then_check(dragoman: Any, url: str) -> None:
    old = dragoman("migrate", "--check", "--database-url", url)
    assert (old.exit_code, old.stdout[:17]) == (1, "the schema is old")
    done = dragoman("migrate", "--database-url", url)
    assert done.exit_code == 0
    assert done.stdout.startswith("applied: 0001")
    assert dragoman("migrate", "--database-url", url).stdout == "the schema is up to date\n"
    new = dragoman("migrate", "--check", "--database-url", url)
    assert (new.exit_code, new.stdout[:24]) == (0, "the schema is up to date")


def test_nothing_to_generate(dragoman: Any, url: str) -> None:
    assert dragoman("migrate", "--generate", "x", "--database-url", url).exit_code == 1
    dragoman("migrate", "--database-url", url)
    result = dragoman("migrate", "--generate", "x", "--database-url", url)
    assert result.exit_code == 1
    assert "nothing to migrate" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--check", "--generate", "x"), 2, "do not go together"),
        (("--database-url", "postgresql://h/d"), 1, "error: "),
        (("--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:1/d"), 1, "the database cannot be used"),
        (("--check", "--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:1/d"), 1, "cannot be used"),
        (
            ("--generate", "x", "--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:1/d"),
            1,
            "cannot be used",
        ),
        (("--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:1/d?no=1"), 1, "cannot be used: Connection"),
        (("--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:port/d"), 1, "the database URL is not"),
        (("--database-url", "sqlite:////nowhere/at/all.db"), 1, "the database cannot be used"),
    ],
)
def test_failures(dragoman: Any, arguments: tuple[str, ...], code: int, told: str) -> None:
    result = dragoman("migrate", *arguments)
    assert result.exit_code == code
    assert told in result.stderr
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output


def test_a_driver_that_is_not_installed(dragoman: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    result = dragoman("migrate", "--database-url", "mysql+mysqldb://u:hunter2@127.0.0.1:1/d")
    assert result.exit_code == 1
    assert "the database cannot be used: " in result.stderr
    assert "MySQLdb" in result.stderr
