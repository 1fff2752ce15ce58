"""A run of a team in each mode, with the real client: its events, its ledger and its messages, pinned by golden files.

The events stand by whose they are, since members at work at the same time take turns as they like; the order that is
promised between them is asserted.
"""

import re
from collections import defaultdict
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf import text_format
from support.bench import PRICER, Ran, bench, claude, shown, spent
from support.teams import SCENES, SECRET, Cast, Scene

from dragoman import wire
from dragoman.records import TokenUsage, totals
from dragoman.testing.anthropic import FakeAnthropic
from dragoman.v1 import event_pb2, message_pb2

_PLAIN = re.compile(r"\b(msg|req)_\d+\b")


class Names:
    """Names for ids that differ from run to run, in a golden text."""

    def __init__(self, ran: Ran) -> None:
        self._names = {str(ran.run_id): "Lead"}
        counts: dict[str, int] = defaultdict(int)
        for event in ran.events:
            member = event.member
            if member.run_id and member.run_id not in self._names:
                counts[member.agent_name] += 1
                self._names[member.run_id] = f"{member.agent_name}-{counts[member.agent_name]}"
            if event.HasField("task_created"):
                task = event.task_created.task
                self._names[task.id] = f"task-{task.title}"

    def apply(self, text: str) -> str:
        for known, name in self._names.items():
            text = text.replace(known, name)
        return text

    def of(self, run_id: object) -> str:
        return self._names[str(run_id)]


async def played(cast: Cast, scene: Scene) -> Ran:
    """The scene's run; members that wait for another are let go when that one is done."""
    async with bench(scene.build) as b:
        ran = Ran(b.begin("What is there?"))
        async with aclosing(ran.run.events()) as events:
            async for event in events:
                ran.events.append(event)
                if event.HasField("member_run_completed") and event.member.agent_name in scene.gates:
                    scene.gates[event.member.agent_name].set()
        b.keep(ran.outcome)
        ran.shown = shown(b)
        return ran


def golden(ran: Ran, names: Names) -> str:
    events: dict[str, list[str]] = defaultdict(list)
    for event in ran.events:
        run = names.of(event.member.run_id) if event.HasField("member") else "Lead"
        events[run].append(_line(event))
    messages: dict[str, list[str]] = defaultdict(list)
    for message in ran.shown:
        messages[names.of(message.run_id)].append(_said(message))
    rows: dict[str, list[str]] = defaultdict(list)
    for call in ran.outcome.calls:
        parent = names.of(call.parent_run_id) if call.parent_run_id else "-"
        usage = call.usage
        tokens = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
        rows[names.of(call.run_id)].append(
            f"for {parent} | {call.kind} | {call.model} | {' '.join(map(str, tokens))}"
            f" | {call.status} {call.stop_reason} | {wire.exact(call.cost.usd) if call.cost else None}"
        )
    parts = [
        f"# {what} of {run}\n" + "\n".join(lines)
        for what, by_run in (("events", events), ("model calls", rows), ("messages", messages))
        for run, lines in sorted(by_run.items(), key=lambda item: (item[0] != "Lead", item[0]))
    ]
    return names.apply("\n\n".join(parts)) + "\n"


def _line(event: event_pb2.RunEvent) -> str:
    """The event on one line, without what takes its time and what the day's exchange rate makes of it."""
    copy = event_pb2.RunEvent()
    copy.CopyFrom(event)
    copy.ClearField("member")
    made = getattr(copy, copy.WhichOneof("event") or "")
    for name in ("duration", "time_to_first_token"):
        if name in made.DESCRIPTOR.fields_by_name:
            made.ClearField(name)
    if "cost" in made.DESCRIPTOR.fields_by_name:
        made.cost.ClearField("amount")
        made.cost.ClearField("exact_amount")
    return text_format.MessageToString(copy, as_utf8=True, as_one_line=True)


def _said(message: message_pb2.Message) -> str:
    role = message_pb2.MessageRole.Name(message.role).removeprefix("MESSAGE_ROLE_").lower()
    calls = "".join(f" {call.id}:{call.name}" for call in message.tool_calls)
    return f"{role}: {message.content!r}{calls}"


@pytest.mark.parametrize("mode", SCENES)
async def test_a_golden_run(mode: str, fake: FakeAnthropic, golden_file: Any) -> None:
    cast = Cast(fake, lambda: claude(fake))
    scene = SCENES[mode](cast)
    ran = await played(cast, scene)
    outcome = ran.outcome

    assert outcome.status == "completed", outcome.error
    names = Names(ran)
    golden_file.check(f"team_{mode}.txt", golden(ran, names))

    assert not ran.run._mapping.unmapped
    _check_texts(ran, scene)
    _check_members(ran, scene)
    _check_order(ran)
    _check_bill(ran, cast, scene)
    everything = b"".join(event.SerializeToString() for event in ran.events)
    assert SECRET.encode() not in everything
    assert SECRET not in "".join(message.content for message in ran.shown if not message.parent_run_id)


def _check_texts(ran: Ran, scene: Scene) -> None:
    """What the leader's deltas say is the run's text, and nothing is said twice."""
    own = "".join(e.content_delta.text for e in ran.events if not e.HasField("member"))
    assert own == ran.outcome.content == scene.says
    said = [e.content_delta.text for e in ran.events if e.HasField("content_delta")]
    assert len("".join(said)) == len(own) + sum(
        len(e.content_delta.text) for e in ran.events if e.HasField("member")
    )


def _check_members(ran: Ran, scene: Scene) -> None:
    """Each member's run begins before all it does and ends after, within the call of its leader."""
    kinds: dict[str, list[str]] = defaultdict(list)
    members: dict[str, event_pb2.Member] = {}
    for event in ran.events:
        if event.HasField("member"):
            kinds[event.member.run_id].append(event.WhichOneof("event") or "")
            assert members.setdefault(event.member.run_id, event.member) == event.member
    assert {name: sum(m.agent_name == name for m in members.values()) for name in scene.runs} == scene.runs
    assert len(members) == sum(scene.runs.values())
    for run_id, member in members.items():
        end = "member_run_failed" if member.agent_name == scene.failing else "member_run_completed"
        assert kinds[run_id][0] == "member_run_started"
        assert kinds[run_id][-1] == end
        assert sum(kind.startswith("member_run_") for kind in kinds[run_id]) == 2
        assert member.parent_run_id == str(ran.run_id) or member.parent_run_id in members
    calls = {(c.run_id, c.parent_run_id, c.agent_name) for c in ran.outcome.calls if c.parent_run_id}
    assert {(str(run), str(parent), name) for run, parent, name in calls} == {
        (m.run_id, m.parent_run_id, m.agent_name) for m in members.values()
    }
    stored = {(m.run_id, m.parent_run_id, m.agent_name) for m in ran.shown if m.parent_run_id}
    assert stored == {(m.run_id, m.parent_run_id, m.agent_name) for m in members.values()}


def _check_order(ran: Ran) -> None:
    """A member's messages stand together with those of its own members, between its leader's call and the result."""
    at: dict[str, list[int]] = defaultdict(list)
    for number, message in enumerate(ran.shown):
        at[message.run_id].append(number)
    parents = {m.run_id: m.parent_run_id for m in ran.shown if m.parent_run_id}
    for run_id, parent in parents.items():
        mine, around = at[run_id], at[parent]
        call = max(place for place in around if place < mine[0])
        assert ran.shown[call].tool_calls
        assert all(mine[-1] < place for place in around if place > call)
        for sibling in (other for other in parents if parents[other] == parent and other != run_id):
            assert mine[-1] < at[sibling][0] or at[sibling][-1] < mine[0]


def _check_bill(ran: Ran, cast: Cast, scene: Scene) -> None:
    """To the last token: the whole, each member, and what the members' last events say of it."""
    calls = ran.outcome.calls
    assert spent(calls) == cast.fake.billed
    assert len(calls) == len(cast.fake.requests)
    for name in ("Lead", *scene.runs):
        own = [call for call in calls if call.agent_name == ("agent" if name == "Lead" else name)]
        assert spent(own) == cast.billed(name), name
        assert all(call.cost is not None for call in own)
        ends = [
            getattr(event, event.WhichOneof("event") or "")
            for event in ran.events
            if event.member.agent_name == name
            and event.WhichOneof("event") in ("member_run_completed", "member_run_failed")
        ]
        assert len(ends) == scene.runs.get(name, 0)
        if ends:
            whole = totals(own, PRICER.currency)
            assert sum((_usage(end.usage) for end in ends), TokenUsage()) == whole.usage
            assert [end.cost for end in ends] == [wire.total_cost(whole)]


def _usage(told: Any) -> TokenUsage:
    names = (f.name for f in told.DESCRIPTOR.fields if f.name != "total_tokens")
    return TokenUsage(**{name: getattr(told, name) for name in names if name in TokenUsage.__slots__})
