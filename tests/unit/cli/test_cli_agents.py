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


TEAM = """\
from agno.agent import Agent
from agno.team import Team
from dragoman.testing.offline import OfflineModel

MODEL = OfflineModel()
desk = Team(name="desk", model=MODEL, members=[Agent(name="Porter", role="Opens doors")])
house = Team(name="house", model=MODEL, members=[Team(name="Kitchen", members=[Agent(name="Cook")])])
teams = [desk, house]
"""


def test_members_stand_below_their_teams(here: Path, dragoman: Any) -> None:
    (here / "teams.py").write_text(TEAM)
    listed = dragoman("agents", "list", "teams.py:teams")
    assert listed.exit_code == 0
    rows = [line.lstrip("│┃|") for line in listed.stdout.splitlines() if "offline-1" in line]
    names = ["desk", "  Porter", "house", "  Kitchen", "    Cook"]
    assert len(rows) == len(names)
    indents = [len(row) - len(row.lstrip()) for row in rows]
    assert [row.split()[0] for row in rows] == [name.strip() for name in names]
    assert [indent - indents[0] for indent in indents] == [0, 2, 0, 2, 4]
    assert "Opens doors" in rows[1]


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
