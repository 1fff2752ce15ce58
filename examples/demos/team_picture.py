"""A team is sent a picture; its tokens are those of whoever looked at it."""

from rich.table import Table

from dragoman.client import image
from examples.demos.stage import Stage, Sums, follow, main, messages_of, owner, table
from examples.pictures import OZYMANDIAS, WORD

TITLE = "A team with a picture and tokens"
MESSAGE = "Which word stands in the picture? Then count the letters of it."


async def play(stage: Stage) -> Table:
    """Sends a picture to a team, and shows what each member took, by its events and by the ledger."""
    sent = image(OZYMANDIAS)
    stage.console.print(f"[{OZYMANDIAS.name}, {len(sent.data)} bytes]", style="magenta")
    followed = await follow(stage, stage.client.run("gallery", MESSAGE, media=[sent]), MESSAGE)
    leader = owner(followed)
    parts: dict[str, Sums] = {}
    for event in followed.of("model_request_completed"):
        part = parts.setdefault(event.member.agent_name or leader, Sums())
        part.add(event.model_request_completed.usage, event.model_request_completed.cost)
    ledger: dict[str, Sums] = {}
    async for group in stage.client.query_usage(["member"], session=followed.session_id):
        ledger.setdefault(group.member_name, Sums()).add(group.usage, group.cost, group.model_calls)
    shown = table("", "who", "calls", "in", "out", "cost", right=["calls", "in", "out", "cost"])
    together = Sums.of_calls(followed.events)
    for name, part in parts.items():
        shown.add_row(f"{name} (leader)" if name == leader else name, *part.row())
    shown.add_row("together", *together.row(), style="bold")
    content = followed.result.content.casefold()
    check = stage.checks.that
    check(
        "the word is read, and its letters are counted",
        "10" in content or WORD.casefold() in content,
        content[:80],
    )
    check(
        "leader, reader and speller all worked", set(parts) == {leader, "Reader", "Speller"}, ", ".join(parts)
    )
    check("the ledger has the same for each of them", ledger == parts, f"{len(ledger)} rows")
    check(
        "together they are the run's tokens and cost",
        together == Sums.of_run(followed),
        f"{together.total_tokens} tokens, {together.cost}",
    )
    kept = [medium for message in await messages_of(stage, followed) for medium in message.media]
    check(
        "the picture is kept once for the leader, byte for byte",
        kept and {medium.data for medium in kept} == {sent.data},
        f"named by {len(kept)} messages",
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
