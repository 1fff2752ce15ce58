"""The example agents run offline, refuse what they say they refuse, and show what they say they show."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from agno.agent import Agent
from agno.media import Image
from agno.models.message import Message
from agno.run.agent import RunOutput
from PIL import Image as Pillow

from dragoman import config
from dragoman.catalog import Catalog, load
from dragoman.engine.ports import InputMedia, MediaKind, RunDraft, RunOrder
from dragoman.errors import InvalidInput
from dragoman.records import Owner, Session, utcnow
from dragoman.testing.picture import read_word
from examples import models
from examples.agents import agents
from examples.desk import order_status
from examples.pictures import OZYMANDIAS, WORD, make
from examples.teams import count_letters, population
from examples.toolbox import WEATHER, UnitTools, calculate, weather

OWNER = Owner("local")
PICTURE = InputMedia(MediaKind.IMAGE, "image/png", "", OZYMANDIAS.read_bytes())


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The examples, without a network."""
    monkeypatch.setattr(models.model(), "delay", 0)
    return load(["examples.agents:agents"], entry_points=False)


def _session(name: str, owner: Owner = OWNER, **inputs: object) -> Session:
    now = utcnow()
    return Session(UUID(int=1), owner, name, "", {}, inputs, now, now)


async def _run(catalog: Catalog, name: str, message: str, *, owner: Owner = OWNER, **given: Any) -> RunOutput:
    """Runs the agent on what it accepted, as the server does."""
    media: tuple[InputMedia, ...] = given.get("media", ())
    session = _session(name, owner, **given.get("session", {}))
    inputs = await catalog.accept_run(
        RunDraft(owner, name, session, message, media, given.get("inputs", {}), {})
    )
    agent = catalog.build(name, RunOrder(UUID(int=2), owner, session, name, message, media, inputs, {}))
    assert isinstance(agent, Agent)
    agent.telemetry = False
    agent.additional_input = given.get("history")
    images = [Image(content=medium.data, mime_type=medium.mime_type) for medium in media]
    return await agent.arun(message, images=images or None)


def test_all_examples_are_served_around_one_model(catalog: Catalog) -> None:
    names = ["desk", "example", "gallery", "research", "toolbox", "vision"]
    assert [entry.name for entry in catalog.entries] == names
    assert len(agents) == len(names)
    assert all(entry.proto.description for entry in catalog.entries)
    assert {id(entry.agent.build().model) for entry in catalog.entries} == {id(models.model())}
    assert [catalog.history_runs(entry.name) for entry in catalog.entries] == [
        20,
        5,
        20,
        20,
        20,
        20,
    ]


@pytest.mark.parametrize(("key", "provider"), [(True, "Anthropic"), (False, "offline")])
def test_which_model_is_used(key: bool, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_model_key", lambda: key)
    made = models.model.__wrapped__()
    assert made.get_provider() == provider


def test_a_key_is_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert config.has_model_key()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert not config.has_model_key()


async def test_example_answers_and_is_told_what_was_asked_for(catalog: Catalog) -> None:
    inputs = {"tone": "friendly", "max_words": 50.0, "topics": ["rain", "maize"]}
    session = {"language": "Afrikaans", "audience": "staff"}
    output = await _run(
        catalog, "example", "Hello there", owner=Owner("shop", "ann"), inputs=inputs, session=session
    )
    assert "Hello there" in str(output.content)
    system = str((output.messages or [])[0].content)
    for told in ("Afrikaans", "friendly", "50 words", "rain, maize", "ann of the staff"):
        assert told in system


async def test_example_remembers(catalog: Catalog) -> None:
    history = [
        Message(role="user", content="I like maize."),
        Message(role="assistant", content="So do I."),
    ]
    output = await _run(catalog, "example", "What did I say first?", history=history)
    assert output.content == "First you said: I like maize."


@pytest.mark.parametrize(
    ("inputs", "fields"),
    [
        ({"tone": "rude"}, ["inputs.tone"]),
        ({"max_words": 0}, ["inputs.max_words"]),
        ({"max_words": 501}, ["inputs.max_words"]),
        ({"topics": ["a"] * 6}, ["inputs.topics"]),
        ({"topics": ["a", "x" * 41, ""]}, ["inputs.topics[1]", "inputs.topics[2]"]),
        ({"tone": "rude", "max_words": 0, "more": 1}, ["inputs.max_words", "inputs.more", "inputs.tone"]),
        ({"tone": "formal", "max_words": 19}, ["inputs.max_words"]),
        ({"topics": ["Rain", "maize", "rain"]}, ["inputs.topics[2]"]),
    ],
)
async def test_what_example_refuses(
    catalog: Catalog, inputs: Mapping[str, object], fields: list[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_run(RunDraft(OWNER, "example", None, "hi", (), inputs))
    assert sorted(violation.field for violation in caught.value.violations) == fields


async def test_example_makes_sessions_for_staff_only_for_a_user(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_session("example", {"audience": "staff"}, OWNER)
    assert [violation.field for violation in caught.value.violations] == ["inputs.audience"]
    accepted = await catalog.accept_session("example", {"audience": "staff"}, Owner("shop", "ann"))
    assert accepted == {"language": "English", "audience": "staff"}


@pytest.mark.parametrize(
    ("message", "called", "answer"),
    [
        ("Calculate (2 + 3) * 4", ["calculate"], "calculate gave 20."),
        (
            "What is the weather in Paris and Rome?",
            ["weather", "weather"],
            "weather gave 17 degrees Celsius and cloudy. weather gave 26 degrees Celsius and sunny.",
        ),
        (
            "Calculate 12 * 12, then convert the result from celsius to fahrenheit",
            ["calculate", "celsius_to_fahrenheit"],
            "calculate gave 144. celsius_to_fahrenheit gave 291.2 degrees Fahrenheit.",
        ),
        (
            'Read the sensor "boiler" and calculate 2 + 2',
            ["read_sensor", "calculate"],
            "read_sensor failed: sensor boiler does not answer. calculate gave 4.",
        ),
    ],
    ids=["one", "parallel", "sequential", "failing"],
)
async def test_toolbox_calls_its_tools(
    catalog: Catalog, message: str, called: list[str], answer: str
) -> None:
    output = await _run(catalog, "toolbox", message)
    assert [call.tool_name for call in output.tools or []] == called
    assert output.content == answer


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("-7 / 2", "-3.5"),
        ("1 / 3", "0.3333333333"),
        ("1.5e3", "1500"),
    ],
)
def test_calculate(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression", ["2 ** 9", "f(1)", "a", "'a' + 'b'", "1 if 2 else 3", "1 +", "1" * 201, "True and 1"]
)
def test_calculate_understands_nothing_else(expression: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        calculate(expression)


async def test_the_other_tools() -> None:
    assert await weather("Cape Town") == WEATHER["cape town"]
    assert await weather("Atlantis") == "the weather in Atlantis is not known"
    assert UnitTools().kilometres_to_miles(1.609344) == "1 miles"
    assert UnitTools().celsius_to_fahrenheit(100) == "212 degrees Fahrenheit"


async def test_the_tools_of_desk_and_teams() -> None:
    assert order_status("A-17") == "paid, and not sent yet"
    assert order_status("Z") == "there is no order Z"
    assert population("Cape Town") == "4.8 million"
    assert population("Atlantis") == "the population of Atlantis is not known"
    assert count_letters("Ozymandias") == "10 letters"


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("How does order A-17 stand? Tell me the status.", []),
        ('Refund 120 rands for the order "A-17".', ["refund"]),
        ('Change the address of the order "A-17".', ["change_address"]),
        ('Print the label of the order "A-17".', ["print_label"]),
    ],
    ids=["nothing", "a-yes", "values", "a-result"],
)
async def test_desk_asks_before_it_acts(catalog: Catalog, message: str, asked: list[str]) -> None:
    output = await _run(catalog, "desk", message)
    waiting = [need.tool_execution.tool_name for need in output.requirements or [] if need.tool_execution]
    assert waiting == asked
    assert output.is_paused == bool(asked)


async def test_gallery_wants_a_picture_at_first(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_run(RunDraft(OWNER, "gallery", None, "hi"))
    assert [violation.field for violation in caught.value.violations] == ["media"]
    assert await catalog.accept_run(RunDraft(OWNER, "gallery", None, "hi", (PICTURE,))) == {}


async def test_vision_reads_the_word(catalog: Catalog) -> None:
    output = await _run(catalog, "vision", "Which word is it?", media=(PICTURE,))
    assert output.content == f"The word in the picture is {WORD}."


async def test_vision_wants_a_picture_at_first(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_run(RunDraft(OWNER, "vision", None, "hi"))
    assert [violation.field for violation in caught.value.violations] == ["media"]
    assert await catalog.accept_run(RunDraft(OWNER, "vision", _session("vision"), "and now?")) == {}
    assert await catalog.accept_run(RunDraft(OWNER, "vision", None, "hi", (PICTURE,))) == {}


def test_the_picture_is_what_its_maker_makes_and_a_picture_to_others() -> None:
    data = OZYMANDIAS.read_bytes()
    assert data == make()
    assert read_word(data) == WORD == "Ozymandias"
    with Pillow.open(BytesIO(data)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.getextrema() == (0, 255)
