"""An agent's entry in ListAgents: tools as Agno presents them, schemas as they are enforced."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from agno.agent import Agent
from agno.tools import Toolkit, tool
from agno.tools.function import Function
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from dragoman.agents import BaseAgent, MediaKind
from dragoman.catalog import Catalog, inputs
from dragoman.catalog.describe import input_schema, tools
from dragoman.catalog.entry import check
from dragoman.catalog.plain import PlainAgent
from dragoman.errors import InvalidInput
from dragoman.testing.scripted import ScriptedModel
from dragoman.v1 import agent_service_pb2

GOLDEN = Path(__file__).parents[2] / "golden" / "catalog_agent.json"
MODEL = ScriptedModel()


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def bare(a: int) -> int:
    return a


async def later(a: int) -> int:
    """Does it later."""
    return a


@tool(requires_confirmation=True)
def delete(name: str) -> str:
    """Deletes a file."""
    return name


@tool(requires_user_input=True, user_input_fields=["name"], description="Asks for a name.")
def ask(name: str) -> str:
    """Not what the model is told."""
    return name


@tool(name="browse", external_execution=True)
def on_the_callers_side(url: str) -> str:
    """Opens a page at the caller's."""
    return url


class Kit(Toolkit):
    def __init__(self) -> None:
        super().__init__(name="kit", tools=[self.first, self.second], requires_confirmation_tools=["second"])

    def first(self) -> str:
        """The first of the kit."""
        return ""

    def second(self) -> str:
        """The second of the kit."""
        return ""


class Verse(BaseModel):
    lines: int = Field(4, ge=1, le=40, description="How long.")
    tone: Literal["plain", "solemn"] = "plain"


class Book(BaseModel):
    title: Annotated[str, Field(max_length=80)]


class Poem(BaseModel):
    lines: list[str]


class Poet(BaseAgent[Verse, Book]):
    name = "poet"
    description = "Writes verses."
    accepted_media = (MediaKind.VIDEO, MediaKind.IMAGE)

    def build_agent(self) -> Agent:
        return Agent(model=MODEL, tools=[add, delete], output_schema=Poem)


def test_the_whole_entry_is_as_it_was() -> None:
    entry = Catalog([check(Poet(), "test", None)]).agent("poet")
    assert MessageToDict(entry) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("given", "described"),
    [
        (add, [("add", "Adds two numbers.", "")]),
        (bare, [("bare", "", "")]),
        (later, [("later", "Does it later.", "")]),
        (delete, [("delete", "Deletes a file.", "confirmation")]),
        (ask, [("ask", "Asks for a name.", "input")]),
        (on_the_callers_side, [("browse", "Opens a page at the caller's.", "external")]),
        (
            Kit(),
            [("first", "The first of the kit.", ""), ("second", "The second of the kit.", "confirmation")],
        ),
        (Function(name="raw", description="Raw.", entrypoint=bare), [("raw", "Raw.", "")]),
        ({"type": "web_search_20250305", "name": "web_search"}, [("web_search", "", "")]),
        ({"type": "function", "function": {"name": "f", "description": "F."}}, [("f", "F.", "")]),
        ({"type": "code_interpreter"}, [("code_interpreter", "", "")]),
    ],
)
def test_tools(given: Any, described: list[tuple[str, str, str]]) -> None:
    assert [_shown(entry) for entry in tools(Agent(model=MODEL, tools=[given]))] == described


def test_tools_keep_their_order_and_come_once() -> None:
    names = [entry.name for entry in tools(Agent(model=MODEL, tools=[later, Kit(), add, later]))]
    assert names == ["later", "first", "second", "add"]


def test_describing_a_tool_leaves_it_as_it_was() -> None:
    before = delete.model_dump()
    tools(Agent(model=MODEL, tools=[delete]))
    assert delete.model_dump() == before


def test_tools_that_a_run_makes_are_not_listed() -> None:
    assert tools(Agent(model=MODEL, tools=lambda: [add])) == []
    assert tools(Agent(model=MODEL)) == []


def test_a_plain_agent_tells_its_description_and_answers_in_text() -> None:
    agent = Agent(name="plain", model=MODEL, description="Plain.")
    entry = check(PlainAgent(agent), "test", None).proto
    assert (entry.name, entry.description, entry.kind) == (
        "plain",
        "Plain.",
        agent_service_pb2.AGENT_KIND_AGENT,
    )
    assert (entry.model, entry.provider) == ("scripted-1", "scripted")
    assert not entry.HasField("output_schema")


def test_a_schema_given_as_json_is_told_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    entry = check(PlainAgent(Agent(name="plain", model=MODEL, output_schema=schema)), "test", None).proto
    assert MessageToDict(entry.output_schema) == schema


class Inner(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 0


class Pair(TypedDict):
    left: int


@dataclass
class Weight:
    grams: int


class Nested(BaseModel):
    inner: Inner = Inner()
    again: Inner = Inner()
    many: list[Inner] = []
    pair: Pair | None = None
    weight: Weight | None = None
    free: dict[str, int] = {}


def test_the_schema_tells_that_undeclared_fields_are_refused_at_every_level() -> None:
    schema = MessageToDict(input_schema(Nested))
    closed = [schema, schema["$defs"]["Inner"], schema["$defs"]["Pair"], schema["$defs"]["Weight"]]
    assert [part["additionalProperties"] for part in closed] == [False] * 4
    assert schema["properties"]["free"]["additionalProperties"] == {"type": "integer"}


@pytest.mark.parametrize(
    "sent",
    [
        {"unknown": 1},
        {"inner": {"b": 1}},
        {"many": [{"a": 1}, {"c": 1}]},
        {"pair": {"left": 1, "right": 2}},
        {"weight": {"grams": 1, "kilos": 2}},
    ],
)
def test_undeclared_fields_are_refused_at_every_level(sent: Mapping[str, object]) -> None:
    with pytest.raises(InvalidInput):
        inputs.parse(Nested, sent)


def test_agents_are_listed_by_name() -> None:
    agents = [PlainAgent(Agent(name=name, model=MODEL)) for name in ("b", "a", "c")]
    assert [entry.name for entry in Catalog(check(one, "test", None) for one in agents).agents()] == [
        "a",
        "b",
        "c",
    ]


def _shown(entry: agent_service_pb2.Tool) -> tuple[str, str, str]:
    flags = {
        "confirmation": entry.requires_confirmation,
        "input": entry.requires_user_input,
        "external": entry.external_execution,
    }
    return entry.name, entry.description, " ".join(name for name, on in flags.items() if on)
