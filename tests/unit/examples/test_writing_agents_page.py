"""docs/writing-agents.md: its files are loaded, run, and refuse what the page says they refuse."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agno.models.anthropic import Claude
from agno.run.base import RunStatus

from dragoman.agents import BaseAgent, MediaKind
from dragoman.agents.base import Served
from dragoman.catalog import Catalog, load
from dragoman.engine.ports import RunDraft, RunOrder
from dragoman.errors import InvalidInput
from dragoman.ids import new_id
from dragoman.records import Owner, Session, utcnow

PAGE = (Path(__file__).parents[3] / "docs" / "writing-agents.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
REFUSALS = re.findall(r"^\| `(\{.*\})` \| (.*) \|$", PAGE, re.MULTILINE)
SETTINGS = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", PAGE, re.MULTILINE)
OWNER = Owner("service")


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """Every file of the page in the working directory, and all of its agents."""
    for name, source in FILES.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load(["everything:agents", "offline.py:agent", "careful.py:agent"], entry_points=False)
    for name in {Path(name).stem for name in FILES}:
        sys.modules.pop(name, None)


def test_every_block_is_a_file() -> None:
    assert sorted(FILES) == [
        "careful.py",
        "everything.py",
        "frugal.py",
        "newsroom.py",
        "offline.py",
        "plain.py",
        "poet.py",
        "waiter.py",
    ]
    assert PAGE.count("```python") == len(FILES)


def test_all_agents_of_the_page_are_served(catalog: Catalog) -> None:
    served = {entry.name: entry for entry in catalog.entries}
    assert sorted(served) == [
        "adder",
        "careful",
        "frugal",
        "harsh-critic",
        "kind-critic",
        "newsroom",
        "offline-adder",
        "poet",
        "waiter",
    ]
    assert [member.name for member in served["newsroom"].proto.members] == ["Reporter", "Checker"]
    assert [entry.name for entry in catalog.entries if entry.needs_database] == ["waiter"]
    assert catalog.limits("frugal").max_total_tokens == 20_000
    assert [tool.name for tool in served["adder"].proto.tools] == ["add"]
    assert catalog.history_runs("adder") == 20
    assert catalog.history_runs("poet") == 10
    assert isinstance(served["poet"].agent.build().model, Claude)


@pytest.mark.parametrize(("given", "told"), REFUSALS, ids=[given for given, _ in REFUSALS])
async def test_the_page_tells_what_a_caller_is_told(catalog: Catalog, given: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_run(RunDraft(OWNER, "poet", None, "Write.", (), json.loads(given)))
    assert [f"`{one.field}`: {one.description}" for one in caught.value.violations] == told.split("; ")


def test_the_page_shows_refusals() -> None:
    assert len(REFUSALS) == 4


async def test_the_poet_is_prepared(catalog: Catalog) -> None:
    now = utcnow()
    inputs = await catalog.accept_run(RunDraft(OWNER, "poet", None, "Write.", (), {"topics": ["the sea"]}))
    session = Session(new_id(), OWNER, "poet", "", {}, {"language": "German"}, now, now)
    agent = catalog.build("poet", RunOrder(new_id(), OWNER, session, "poet", "Write.", (), inputs, {}))
    assert agent.instructions == ["Write 4 lines in German.", "Mention the sea."]
    with pytest.raises(InvalidInput, match=r"inputs\.private: a private notebook needs a user"):
        await catalog.accept_session("poet", {"private": True}, OWNER)


async def test_the_newsroom_is_prepared(catalog: Catalog) -> None:
    now = utcnow()
    session = Session(new_id(), OWNER, "newsroom", "", {}, {}, now, now)
    team = catalog.build(
        "newsroom", RunOrder(new_id(), OWNER, session, "newsroom", "Write.", (), {"words": 90}, {})
    )
    assert team.instructions == ["Write at most 90 words."]


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        ("delete /notes", "needs_confirmation"),
        ("send Greetings", "needs_user_input"),
        ("screenshot the desk", "needs_external_execution"),
    ],
)
async def test_the_careful_agent_waits_for_a_person(catalog: Catalog, message: str, needed: str) -> None:
    now = utcnow()
    session = Session(new_id(), OWNER, "careful", "", {}, {}, now, now)
    agent = catalog.build("careful", RunOrder(new_id(), OWNER, session, "careful", message, (), {}, {}))
    agent.telemetry = False
    output = await agent.arun(message)
    assert output.status == RunStatus.paused
    (requirement,) = output.requirements or []
    assert getattr(requirement, needed)


async def test_the_offline_agent_runs(catalog: Catalog) -> None:
    now = utcnow()
    session = Session(new_id(), OWNER, "offline-adder", "", {}, {}, now, now)
    order = RunOrder(new_id(), OWNER, session, "offline-adder", "Add 2 and 3", (), {}, {})
    agent = catalog.build("offline-adder", order)
    agent.telemetry = False
    output = await agent.arun(order.message)
    assert output.content == "add gave 5."


def test_the_table_of_settings_is_that_of_base_agent() -> None:
    defaults = dict(SETTINGS)
    assert sorted(defaults) == sorted(name for name in Served.__annotations__ if not name.startswith("_"))
    assert BaseAgent.history_runs == int(defaults["history_runs"])
    assert BaseAgent.description == defaults["description"].strip('`"')
    assert set(BaseAgent.accepted_media) == {MediaKind.IMAGE, MediaKind.FILE}
    assert defaults["accepted_media"] == "images and files"
