"""Several tools: at the same time, one after the other, and one that fails."""

from rich.table import Table

from dragoman.client import kind
from examples.demos.stage import Stage, arguments, calls_of, follow, main, shorten, table

TITLE = "Several tools"
PARALLEL = "What is the weather in Paris and in Rome?"
SEQUENTIAL = "Calculate 12 * 12, then convert the result from celsius to fahrenheit."
FAILING = 'Read the sensor "boiler", even though it may fail, and calculate 2 + 2.'


async def play(stage: Stage) -> Table:
    """Three runs, and the order in which their tools began and ended."""
    shown = table("", "run", "tool", "began", "ended", "took", "gave", right=["began", "ended", "took"])
    runs = {}
    for name, message in (("parallel", PARALLEL), ("sequential", SEQUENTIAL), ("failing", FAILING)):
        followed = await follow(stage, stage.client.run("toolbox", message, detail="all"), message)
        runs[name] = calls_of(followed)
        for call in runs[name]:
            shown.add_row(
                name,
                f"{call.call.name}({arguments(call.call.arguments)})",
                f"event {call.started}",
                f"event {call.ended}",
                f"{call.seconds * 1000:.1f} ms",
                shorten(call.result, 60),
                style="red" if call.failed else None,
            )
        ended = kind(followed.events[-1]) == "run_completed" and all(call.ended for call in runs[name])
        stage.checks.that(
            f"{name}: every call ends, and the run completes", ended, f"{len(runs[name])} calls"
        )
    check = stage.checks.that
    began, ends = [call.started for call in runs["parallel"]], [call.ended for call in runs["parallel"]]
    check(
        "parallel: both begin before one ends", len(began) == 2 and max(began) < min(ends), f"{began}, {ends}"
    )
    tools = [call.call.name for call in runs["sequential"]]
    check(
        "sequential: the second begins when the first has ended, with its result",
        tools == ["calculate", "celsius_to_fahrenheit"]
        and runs["sequential"][0].ended < runs["sequential"][1].started
        and runs["sequential"][1].call.arguments.fields["celsius"].number_value == 144,
        " → ".join(tools),
    )
    failed = [call for call in runs["failing"] if call.failed]
    check(
        "failing: the failure is told without what the tool raised",
        [call.call.name for call in failed] == ["read_sensor"] and "boiler" not in failed[0].result,
        "; ".join(call.result for call in failed),
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
