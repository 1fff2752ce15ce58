"""Teams on a stage: members that the fake API tells apart, each with a part of its own, and a scene for each mode.

Every request has figures of its own, so that a bill that adds up is no accident.
"""

import asyncio
import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.team import Team, TeamMode

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import (
    ErrorEvent,
    FakeAnthropic,
    HttpError,
    Recorded,
    Text,
    ToolUse,
    Turn,
    Usage,
)

Line = Turn | HttpError | Callable[[Recorded], Turn]

SECRET = "the provider's own words"
"""What a failing request says: for nobody's ears."""

_NAME = re.compile(r"I am ([A-Z]\w+)\.")
_TASK = re.compile(r"\[([0-9a-f]{8})\]")


def look(where: str) -> str:
    """Looks somewhere."""
    return f"nothing {where}"


class Cast:
    """Gives each request to the member that makes it, and answers with the next line of its part."""

    def __init__(self, fake: FakeAnthropic, model: Callable[[], Claude]) -> None:
        self.fake = fake
        self.model = model
        self._parts: dict[str, deque[Line]] = defaultdict(deque)
        self._count: Counter[str] = Counter()
        fake.respond = self._answer

    def plays(self, name: str, *lines: Line) -> None:
        """What the member says, one line per request; after that, only that it speaks."""
        self._parts[name].extend(lines)

    def agent(self, name: str, **settings: Any) -> Agent:
        """A fresh member."""
        settings.setdefault("model", self.model())
        return Agent(name=name, id=name.lower(), instructions=f"I am {name}.", **settings)

    def team(self, name: str, members: Iterable[Agent | Team], mode: TeamMode, **settings: Any) -> Team:
        """A fresh team."""
        settings.setdefault("model", self.model())
        return Team(
            name=name,
            id=name.lower(),
            members=list(members),
            mode=mode,
            instructions=f"I am {name}.",
            **settings,
        )

    def requests(self, name: str) -> list[Recorded]:
        """Those of one member, in order."""
        return [request for request in self.fake.requests if speaker(request) == name]

    def billed(self, name: str) -> TokenUsage:
        """What one member's requests were billed."""
        return sum((request.billed for request in self.requests(name)), TokenUsage())

    def _answer(self, request: Recorded) -> Turn | HttpError:
        name = speaker(request)
        self._count[name] += 1
        part = self._parts[name]
        line = part.popleft() if part else Turn(f"{name} speaks.")
        if isinstance(line, HttpError):
            return line
        turn = line if isinstance(line, Turn) else line(request)
        return replace(turn, usage=_figures(name, self._count[name]))


def speaker(request: Recorded) -> str:
    """Who makes the request."""
    found = _NAME.search(request.system)
    return found[1] if found else ""


def delegation(call: str, member: str, task: str) -> ToolUse:
    """A leader's call of one member."""
    return ToolUse(call, "delegate_task_to_member", {"member_id": member, "task": task})


def task_ids(request: Recorded) -> list[str]:
    """Agno's ids of the tasks that the conversation speaks of, in order."""
    return list(dict.fromkeys(_TASK.findall(json.dumps(request.messages))))


def _figures(name: str, number: int) -> Usage:
    seed = sum(map(ord, name)) * 10 + number
    return Usage(
        input_tokens=seed,
        output_tokens=seed % 89 + 2,
        cache_read_input_tokens=seed % 7,
        cache_creation_5m_tokens=seed % 5,
    )


@dataclass
class Scene:
    """A run of a team: who is in it, and what they will say."""

    build: Callable[[], Team]
    says: str
    """What the leader's own deltas come to."""
    runs: dict[str, int]
    """How many runs each member has."""
    failing: str = ""
    """The member that fails."""
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    """What is to be opened when the run of the member named is over: another waits for it."""


def coordinate(cast: Cast) -> Scene:
    """The leader asks one member after the other; the second one breaks off."""
    cast.plays(
        "Lead",
        Turn([Text("I ask Ann. "), delegation("d1", "ann", "look around")]),
        Turn([Text("I ask Bob. "), delegation("d2", "bob", "say it")]),
        Turn("Nothing there."),
    )
    cast.plays(
        "Ann", Turn([Text("Let me see. "), ToolUse("t1", "look", {"where": "here"})]), Turn("Nothing.")
    )
    cast.plays("Bob", Turn("As I was saying", error_after=ErrorEvent(after=2, message=SECRET)))

    def build() -> Team:
        return cast.team("Lead", [cast.agent("Ann", tools=[look]), cast.agent("Bob")], TeamMode.coordinate)

    return Scene(build, "I ask Ann. I ask Bob. Nothing there.", {"Ann": 1, "Bob": 1}, failing="Bob")


def route(cast: Cast) -> Scene:
    """The leader lets a member answer."""
    cast.plays("Lead", Turn([delegation("d1", "ann", "answer")]))
    cast.plays("Ann", Turn([Text("Well. "), ToolUse("t1", "look", {"where": "up"})]), Turn("Nothing is up."))

    def build() -> Team:
        return cast.team("Lead", [cast.agent("Ann", tools=[look]), cast.agent("Bob")], TeamMode.route)

    return Scene(build, "Well. Nothing is up.", {"Ann": 1})


def broadcast(cast: Cast) -> Scene:
    """All members are asked at once; Bob is slow."""
    gate = asyncio.Event()
    cast.plays(
        "Lead", Turn([ToolUse("d1", "delegate_task_to_members", {"task": "greet"})]), Turn("All greet.")
    )
    cast.plays("Bob", Turn("Bob greets.", hang_before_first_byte=True, resume=gate))

    def build() -> Team:
        return cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.broadcast)

    return Scene(build, "All greet.", {"Ann": 1, "Bob": 1}, gates={"Ann": gate})


def tasks(cast: Cast) -> Scene:
    """One task alone, then two at once, one of which fails."""

    def create(call: str, title: str, member: str) -> ToolUse:
        return ToolUse(
            call, "create_task", {"title": title, "description": f"do {title}", "assignee": member}
        )

    cast.plays(
        "Lead",
        Turn([create("c1", "one", "ann"), create("c2", "two", "bob"), create("c3", "three", "cy")]),
        lambda request: Turn(
            [ToolUse("e1", "execute_task", {"task_id": task_ids(request)[0], "member_id": "ann"})]
        ),
        lambda request: Turn([ToolUse("e2", "execute_tasks_parallel", {"task_ids": task_ids(request)[1:3]})]),
        Turn([ToolUse("m1", "mark_all_complete", {"summary": "as far as it goes"})]),
        Turn("Done."),
    )
    cast.plays("Cy", HttpError(529, message=SECRET))

    def build() -> Team:
        members = [cast.agent("Ann"), cast.agent("Bob"), cast.agent("Cy")]
        return cast.team("Lead", members, TeamMode.tasks)

    return Scene(build, "Done.", {"Ann": 1, "Bob": 1, "Cy": 1}, failing="Cy")


def nested(cast: Cast) -> Scene:
    """A team within the team."""
    cast.plays("Lead", Turn([delegation("d1", "desk", "ask around")]), Turn("So it is."))
    cast.plays("Desk", Turn([Text("Ann? "), delegation("d2", "ann", "look")]), Turn("Ann says so."))

    def build() -> Team:
        desk = cast.team("Desk", [cast.agent("Ann")], TeamMode.coordinate)
        return cast.team("Lead", [desk, cast.agent("Bob")], TeamMode.coordinate)

    return Scene(build, "So it is.", {"Desk": 1, "Ann": 1})


SCENES: dict[str, Callable[[Cast], Scene]] = {
    "coordinate": coordinate,
    "route": route,
    "broadcast": broadcast,
    "tasks": tasks,
    "nested": nested,
}
