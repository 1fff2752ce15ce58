"""What may be served, how it is named, and that each mistake names the author's own line."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman.catalog import CatalogError, Problem, load

Writer = Callable[[str, str], Path]

POET = """\
class Poet(BaseAgent):
    name = "poet"

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)
"""


@pytest.mark.parametrize(
    ("source", "attribute", "served"),
    [
        (POET, "Poet", [("poet", 6)]),
        (POET + "poet = Poet()", "poet", [("poet", 6)]),
        ('plain = Agent(name="plain", model=MODEL)', "plain", [("plain", 6)]),
        ('plain: Agent = Agent(name="plain", model=MODEL)', "plain", [("plain", 6)]),
        (POET + 'both = [Poet, Agent(name="plain", model=MODEL)]', "both", [("plain", 11), ("poet", 6)]),
        (POET + 'both = (Poet(), Agent(name="plain", model=MODEL))', "both", [("plain", 11), ("poet", 6)]),
        ('def make():\n    return Agent(name="made", model=MODEL)', "make", [("made", 6)]),
        ('def make(name="made"):\n    return Agent(name=name, model=MODEL)', "make", [("made", 6)]),
        (POET + "def make():\n    return [Poet]", "make", [("poet", 6)]),
        (POET + "def make():\n    return Poet", "make", [("poet", 6)]),
        ('class Here:\n    agent = Agent(name="nested", model=MODEL)', "Here.agent", [("nested", 6)]),
        (
            POET + "def rename(name):\n    agent = Poet()\n    agent.name = name\n    return agent\n"
            'many = [rename("a"), rename("b")]',
            "many",
            [("a", 6), ("b", 6)],
        ),
    ],
)
@pytest.mark.parametrize("spec", ["things:{}", "things.py:{}", "{path}:{}"], ids=["module", "file", "path"])
def test_what_may_be_served(
    write: Writer, spec: str, source: str, attribute: str, served: list[tuple[str, int]]
) -> None:
    path = write("things.py", source)
    catalog = load([spec.format(attribute, path=path)], entry_points=False)
    assert [(entry.name, entry.location and entry.location.line) for entry in catalog.entries] == served
    assert {entry.location and entry.location.file for entry in catalog.entries} == {str(path)}
    asked = spec.format(attribute, path=path)
    places = {asked} if len(served) == 1 else {f"{asked}[{index}]" for index in range(len(served))}
    assert {entry.origin for entry in catalog.entries} == places


MISTAKES = [
    ("things", "", "a spec is written module:attribute or path/to/file.py:attribute", None),
    (":agent", "", "a spec is written module:attribute", None),
    ("things:", "", "a spec is written module:attribute", None),
    ("thinks:agent", "", "there is no module thinks; it is neither installed nor in {cwd}", None),
    ("things.more:agent", "", "there is no module more in things", None),
    ("other.py:agent", "", "there is no file {cwd}/other.py", None),
    ("things:agnet", "agent = 1", "the module has no agnet; did you mean agent or Agent?", 1),
    ("things:agent.nmae", 'agent = Agent(name="x", model=MODEL)', "agent has no nmae; did you mean name", 1),
    ("things:agent", "import nothing_of_the_sort", "imports nothing_of_the_sort, which is not installed", 6),
    ("things:agent", "import json.nothing", "imports json.nothing, which is not installed", 6),
    ("things:agent", "def f():\n    return 1 / 0\nf()", "raised ZeroDivisionError: division by zero", 7),
    ("things:agent", "raise SystemExit(3)", "importing it raised SystemExit: 3", 6),
    ("things:agent", "agent = (", "SyntaxError: '(' was never closed", 6),
    ("things:agent", "agent = Agent(unknown=1)", "TypeError: Agent.__init__() got an unexpected keyword", 6),
    (
        "things:agent",
        "agent = 3",
        "agent is of type int; expected a BaseAgent or BaseTeam, an Agno Agent or Team, a list of them, or a",
        6,
    ),
    ("things:Agent", "", "Agent is the class Agent; expected a BaseAgent", 1),
    ("things:agent", "agent = []", "agent is empty", 6),
    ("things:agent", "agent = [MODEL]", "agent[0] is of type OfflineModel; expected a BaseAgent", 6),
    (
        "things:agent",
        "from agno.team import Team\nagent = Team(members=[], name='t', model=MODEL)",
        "team t has no members",
        7,
    ),
    (
        "things:f",
        "def f(x):\n    return 1",
        "f must be callable without arguments: missing a required argument",
        6,
    ),
    (
        "things:f",
        "async def f():\n    return 1",
        "f is an async function; a factory must be an ordinary one",
        6,
    ),
    ("things:f", "def f():\n\n    raise KeyError('x')", "f() raised KeyError: 'x'", 8),
    ("things:f", "def f():\n    return None", "f() is of type NoneType; expected a BaseAgent", 6),
    ("things:agent", "agent = Agent(model=MODEL)", "the Agent has no name", 6),
    ("things:agent", "agent = Agent(name='a b', model=MODEL)", "'a b' is not a name: 1 to 128 letters", 6),
    ("things:agent", "agent = Agent(name='ä', model=MODEL)", "'ä' is not a name", 6),
    ("things:agent", f"agent = Agent(name={'x' * 129!r}, model=MODEL)", "is not a name", 6),
    ("things:agent", "agent = Agent(name='a\\n', model=MODEL)", "is not a name", 6),
    ("things:agent", "agent = Agent(name='a')", "agent a has no model", 6),
    ("things:A", "class A(BaseAgent):\n    name = 'a'", "A does not define build_agent", 6),
    (
        "things:A",
        "class A(BaseAgent):\n    def build_agent(self):\n        return Agent(model=MODEL)",
        "A has no name",
        6,
    ),
]

BROKEN = [
    ("def __init__(self, x): ...", "A() raised TypeError: A.__init__() missing 1 required positional", 6),
    ("def __init__(self):\n        raise OSError('no')", "A() raised OSError: no", 11),
    ("build_agent = lambda self: 1 / 0", "A.build_agent() raised ZeroDivisionError: division by zero", 10),
    (
        "build_agent = lambda self: None",
        "A.build_agent() returned a value of type NoneType, not an Agno Agent",
        6,
    ),
    (
        "agent = Agent(model=MODEL)\n    build_agent = lambda self: self.agent",
        "must return a new Agent at",
        6,
    ),
    ("build_agent = lambda self: Agent(model=OfflineModel())", "makes a new model at every call", 6),
    ("history_runs = -1", "A.history_runs is -1: it must be 0 or more, or None for all", 6),
    ("history_runs = 2.5", "A.history_runs is 2.5: it must be 0 or more", 6),
    ("history_runs = True", "A.history_runs is True: it must be 0 or more", 6),
    (
        "accepted_media = 'image'",
        "A.accepted_media must be a collection of MediaKind (IMAGE, FILE, AUDIO, VIDEO)",
        6,
    ),
    ("accepted_media = ['smell']", "A.accepted_media must be a collection of MediaKind", 6),
    ("accepted_media = None", "A.accepted_media must be a collection of MediaKind", 6),
    (
        "RequestModel = dict",
        "A.RequestModel is <class 'dict'>: it must be a class derived from pydantic.BaseModel",
        6,
    ),
    (
        "CreateSessionModel = 3",
        "A.CreateSessionModel is 3: it must be a class derived from pydantic.BaseModel",
        6,
    ),
    (
        "class RequestModel(BaseModel):\n        f: type[int] | object = object()\n        g: 'Missing'",
        "describing A.RequestModel as JSON Schema raised",
        10,
    ),
    ("def validate_run(self, run): ...", "A.validate_run must be an async function", 6),
    (
        "def validate_create_session(self, i, c): ...",
        "A.validate_create_session must be an async function",
        6,
    ),
]

WHOLE = """
class A(BaseAgent):
    name = "a"
    def build_agent(self):
        return Agent(model=MODEL)
    {}
"""


@pytest.mark.parametrize(("spec", "source", "message", "line"), MISTAKES)
def test_a_mistake_names_its_line(
    write: Writer, spec: str, source: str, message: str, line: int | None
) -> None:
    path = write("things.py", source + "\n")
    problem = _only_problem(spec)
    assert message.format(cwd=path.parent) in problem.message
    assert problem.origin == spec
    assert (problem.location and (problem.location.file, problem.location.line)) == (
        line and (str(path), line)
    )


@pytest.mark.parametrize(("body", "message", "line"), BROKEN)
def test_an_agent_that_would_fail_later_fails_at_once(
    write: Writer, body: str, message: str, line: int
) -> None:
    path = write("things.py", WHOLE.format(body))
    problem = _only_problem("things:A")
    assert message in problem.message
    assert problem.location is not None
    assert (problem.location.file, problem.location.line) == (str(path), line)


def test_a_fault_in_a_module_that_the_agents_import_names_that_module(write: Writer) -> None:
    write("things.py", "from helpers.numbers import agent\n")
    culprit = write("helpers/numbers.py", "agent = undefined_name\n")
    write("helpers/__init__.py", "")
    problem = _only_problem("things:agent")
    assert problem.message == "importing it raised NameError: name 'undefined_name' is not defined"
    assert str(problem.location) == f"{culprit}:6"


def test_a_file_sees_its_neighbours(write: Writer) -> None:
    write("deep/things.py", "from neighbour import agent\n")
    write("deep/neighbour.py", 'agent = Agent(name="near", model=MODEL)\n')
    catalog = load(["deep/things.py:agent"], entry_points=False)
    assert [entry.name for entry in catalog.entries] == ["near"]


def test_two_specs_of_one_file_run_it_once(write: Writer) -> None:
    write("things.py", 'a = Agent(name="a", model=MODEL)\nb = Agent(name="b", model=MODEL)\n')
    catalog = load(["things.py:a", "./things.py:b"], entry_points=False)
    built = [entry.agent.build() for entry in catalog.entries]
    assert built[0].model is built[1].model


def test_all_problems_are_told_at_once(write: Writer) -> None:
    path = write("things.py", "agents = [3, Agent(name='a', model=MODEL), Agent(name='', model=MODEL)]\n")
    with pytest.raises(CatalogError) as caught:
        load(["things:agents", "nowhere:agent"], entry_points=False)
    assert [problem.message for problem in caught.value.problems] == [
        "agents[0] is of type int; expected a BaseAgent or BaseTeam, an Agno Agent or Team, a list of them, or a "
        "function without arguments that returns them",
        "the Agent has no name",
        f"there is no module nowhere; it is neither installed nor in {path.parent}",
    ]
    assert (
        str(caught.value).splitlines()[0].startswith(f"things:agents[0]: {path}:6: agents[0] is of type int")
    )


def test_a_name_twice_is_an_error_that_names_both(write: Writer) -> None:
    path = write(
        "things.py", 'one = Agent(name="same", model=MODEL)\ntwo = Agent(name="same", model=MODEL)\n'
    )
    with pytest.raises(CatalogError) as caught:
        load(["things:one", "things:two"], entry_points=False)
    assert str(caught.value) == (
        f"things:two: {path}:7: there are two agents called same: the other one is from things:one at {path}:6"
    )


def test_a_name_twice_in_a_list_tells_both_places(write: Writer) -> None:
    path = write(
        "things.py", 'both = [Agent(name="other", model=MODEL)] + [Agent(name="same", model=MODEL)] * 2\n'
    )
    with pytest.raises(CatalogError) as caught:
        load(["things:both"], entry_points=False)
    assert str(caught.value) == (
        f"things:both[2]: {path}:6: there are two agents called same: "
        f"the other one is from things:both[1] at {path}:6"
    )


def _install(directory: Path, entry_points: str) -> None:
    """A package as it lies in site-packages: only its metadata matter."""
    info = directory / "poets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: poets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dragoman.agents]\n{entry_points}\n")


def test_installed_packages_are_served_when_asked_for(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write("poets.py", POET)
    _install(tmp_path, "b = poets:Missing\na = poets:Poet")
    assert load([], entry_points=False).entries == ()
    with pytest.raises(CatalogError) as caught:
        load([], entry_points=True)
    (problem,) = caught.value.problems
    assert problem.origin == "entry point b of poets (poets:Missing)"

    (tmp_path / "poets-1.0.dist-info" / "entry_points.txt").write_text("[dragoman.agents]\na = poets:Poet\n")
    importlib.invalidate_caches()
    (entry,) = load([], entry_points=True).entries
    assert (entry.name, entry.origin) == ("poet", "entry point a of poets (poets:Poet)")

    with pytest.raises(CatalogError, match="poet: the other one is from poets:Poet") as caught:
        load(["poets:Poet"], entry_points=True)
    assert caught.value.problems[0].origin == "entry point a of poets (poets:Poet)"


def test_no_agents_is_no_error() -> None:
    assert load([], entry_points=False).agents() == ()


def _only_problem(spec: str) -> Problem:
    with pytest.raises(CatalogError) as caught:
        load([spec], entry_points=False)
    (problem,) = caught.value.problems
    return problem
