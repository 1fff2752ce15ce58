"""Basic streaming: text as the model writes it."""

import time

from rich.table import Table

from dragoman.client import kind
from examples.demos.stage import Stage, main, table

TITLE = "Basic streaming"
MESSAGE = "Hello! Tell me in two sentences why the sea is salty."


async def play(stage: Stage) -> Table:
    """Writes each delta as it comes, and measures when it came."""
    stage.say(MESSAGE)
    began = time.monotonic()
    came: list[float] = []
    text = ""
    async with stage.client.run("example", MESSAGE, inputs={"tone": "friendly"}) as run:
        async for event in run:
            if kind(event) == "content_delta":
                came.append(time.monotonic() - began)
                text += event.content_delta.text
                print(event.content_delta.text, end="", flush=True)
    print()
    answer = await run.text()
    check = stage.checks.that
    check("text comes in several deltas", len(came) > 1, f"{len(came)} deltas")
    check("the deltas are the answer, word for word", text == answer, f"{len(answer)} characters")
    check(
        "the first comes before the last", came and came[0] < came[-1], f"{came[0]:.2f} s, {came[-1]:.2f} s"
    )
    shown = table("", "deltas", "characters", "first", "last")
    shown.add_row(f"{len(came)}", f"{len(text)}", f"{came[0]:.2f} s", f"{came[-1]:.2f} s")
    return shown


if __name__ == "__main__":
    main(play, TITLE)
