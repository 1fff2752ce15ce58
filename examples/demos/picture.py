"""A picture comes with the message, and costs tokens."""

from rich.table import Table

from dragoman.client import image
from examples.demos.stage import Stage, Sums, exact, follow, main, messages_of, table
from examples.pictures import OZYMANDIAS, WORD

TITLE = "A picture with tokens"
MESSAGE = "Which word stands in this picture?"


async def play(stage: Stage) -> Table:
    """Sends a picture, reads it back, and shows which message took how many tokens."""
    sent = image(OZYMANDIAS)
    stage.console.print(f"[{OZYMANDIAS.name}, {len(sent.data)} bytes]", style="magenta")
    followed = await follow(stage, stage.client.run("vision", MESSAGE, media=[sent]), MESSAGE)
    messages = await messages_of(stage, followed)
    shown = table("", "message", "media", "in", "out", "cost", right=["in", "out", "cost"])
    sums = Sums()
    for message in messages:
        if message.usage.total_tokens:
            sums.add(message.usage, message.cost)
        shown.add_row(
            f"{message.sequence}. {'user' if not message.model else message.model}",
            ", ".join(f"{medium.mime_type}, {medium.size_bytes:,} bytes" for medium in message.media),
            f"{message.usage.input_tokens:,}",
            f"{message.usage.output_tokens:,}",
            f"{exact(message.cost):.6f}",
        )
    kept = [medium for message in messages for medium in message.media]
    check = stage.checks.that
    check(f"the answer has the word {WORD}", WORD.casefold() in followed.result.content.casefold())
    check("the picture is kept, byte for byte", [medium.data for medium in kept] == [sent.data])
    check(
        "the messages' tokens and cost are the run's",
        sums == Sums.of_run(followed),
        f"{sums.total_tokens} tokens",
    )
    bare = "Say hello."
    without = await follow(stage, stage.client.run("example", bare), bare)
    more = followed.result.usage.input_tokens, without.result.usage.input_tokens
    check(
        "a picture takes input tokens",
        more[0] > 0 and sums.input_tokens == more[0],
        f"{more[0]} and {more[1]}",
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
