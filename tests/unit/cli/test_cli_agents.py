"""`dragoman agents` shows what would be served, and names the author's line when something is wrong."""

from pathlib import Path
from typing import Any

import pytest

GOOD = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

desk = Agent(name="desk", description="Answers at the desk.", model=OfflineModel())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_and_check(here: Path, dragoman: Any) -> None:
    (here / "good.py").write_text(GOOD)
    listed = dragoman("agents", "list", "good.py:desk")
    assert listed.exit_code == 0
    for text in ("desk", "agent", "offline-1", "Answers at the desk."):
        assert text in listed.stdout
    checked = dragoman("agents", "check", "good.py:desk")
    assert (checked.exit_code, checked.stdout) == (0, listed.stdout + "1 fit to be served: desk\n")


def test_agents_come_from_the_settings(here: Path, dragoman: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "good.py").write_text(GOOD)
    (here / "dragoman.toml").write_text('agents = ["good.py:desk"]\n')
    assert "desk" in dragoman("agents", "check").stdout


def test_problems_name_file_and_line(here: Path, dragoman: Any) -> None:
    (here / "bad.py").write_text("import nothing_of_this_name\n")
    (here / "worse.py").write_text("x = 1\ny = 2\nz = 1 / 0\n")
    result = dragoman("agents", "check", "bad.py:desk", "worse.py:desk")
    assert result.exit_code == 1
    assert f"{here / 'bad.py'}:1" in result.stderr
    assert f"{here / 'worse.py'}:3" in result.stderr
    assert "Traceback" not in result.output


def test_no_agents(here: Path, dragoman: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_ENTRY_POINTS", "false")
    result = dragoman("agents", "check")
    assert result.exit_code == 1
    assert "there are no agents" in result.stderr
