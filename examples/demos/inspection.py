"""Event inspection: a run that is over is read again, from its beginning and from its middle, and looked into."""

from collections.abc import Sequence

from google.protobuf import json_format
from rich.table import Table

from dragoman.client import kind
from dragoman.v1 import event_pb2
from examples.demos.stage import Stage, follow, main, shorten, table

TITLE = "Event inspection"
MESSAGE = "What is the weather in Cape Town?"


async def play(stage: Stage) -> Table:
    """Attaches to the run after it has ended, and shows one event of each kind as JSON."""
    live = await follow(stage, stage.client.run("toolbox", MESSAGE, detail="all"), MESSAGE)
    stage.say(f'attach("{live.run_id}")')
    again = [event async for event in stage.client.attach(live.run_id, detail="all") if event.sequence]
    middle = again[len(again) // 2].sequence
    rest = [
        event
        async for event in stage.client.attach(live.run_id, after_sequence=middle, detail="all")
        if event.sequence
    ]
    check = stage.checks.that
    check(
        "the log has the bytes that were streamed",
        _bytes(again) == _bytes(live.events),
        f"{len(again)} events",
    )
    check("it can be read from any event on", _bytes(rest) == _bytes(again[middle:]), f"after event {middle}")
    text = [event async for event in stage.client.attach(live.run_id, detail="content") if event.sequence]
    check(
        "with less detail some are left out, with their numbers",
        0 < len(text) < len(again),
        f"{len(text)} events",
    )
    shown = table("", "event", "times", "the first of them", right=["times"])
    firsts: dict[str, list[event_pb2.RunEvent]] = {}
    for event in again:
        firsts.setdefault(kind(event) or "?", []).append(event)
    for name, events in firsts.items():
        payload = json_format.MessageToDict(getattr(events[0], name), preserving_proto_field_name=True)
        shown.add_row(name, f"{len(events)}", shorten(str(payload), 120))
    call = again[0].run_started
    check("run_started tells whose run it is", call.run_id == live.run_id and call.agent_name == "toolbox")
    return shown


def _bytes(events: Sequence[event_pb2.RunEvent]) -> list[bytes]:
    return [event.SerializeToString(deterministic=True) for event in events]


if __name__ == "__main__":
    main(play, TITLE)
