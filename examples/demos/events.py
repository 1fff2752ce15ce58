"""Every event of a run, in its order, at the highest level of detail."""

from collections import Counter

from rich.table import Table

from dragoman.client import kind
from examples.demos.stage import Stage, follow, main, table

TITLE = "Full events"
MESSAGE = "Calculate (2 + 3) * 4 with your tool."
ENDS = ("run_completed", "run_failed", "run_cancelled", "run_paused")


async def play(stage: Stage) -> Table:
    """Lists the events with their numbers, and checks their order."""
    followed = await follow(stage, stage.client.run("toolbox", MESSAGE, detail="all"), MESSAGE)
    shown = table("", "sequence", "event", "bytes", right=["sequence", "bytes"])
    for event in followed.events:
        shown.add_row(f"{event.sequence}", kind(event), f"{event.ByteSize()}")
    kinds = [kind(event) for event in followed.events]
    numbers = [event.sequence for event in followed.events]
    count = Counter(kinds)
    check = stage.checks.that
    check("numbers have no gap", numbers == list(range(1, len(numbers) + 1)), f"1 to {numbers[-1]}")
    check("run_started is first", kinds[0] == "run_started")
    check(
        "one event ends the run, the last", [each for each in kinds if each in ENDS] == kinds[-1:], kinds[-1]
    )
    calls = count["model_request_started"]
    check("every model call has an end", calls == count["model_request_completed"] > 1, f"{calls} calls")
    check("a tool is called and answers", 0 < count["tool_call_started"] == count["tool_call_completed"])
    return shown


if __name__ == "__main__":
    main(play, TITLE)
