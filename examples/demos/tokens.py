"""Tokens add up: from model calls to runs, from runs to a session, and the ledger says the same."""

from rich.table import Table

from examples.demos.stage import Stage, Sums, follow, main, messages_of, table

TITLE = "Token accumulation"
MESSAGES = ("Calculate 6 * 7.", "What is the weather in Paris and in Rome?", "What did I ask first?")


async def play(stage: Stage) -> Table:
    """Three runs in one session, summed up in four ways that have to agree to the last digit."""
    session = await stage.client.create_session("toolbox", title="Tokens")
    shown = table("", "", "calls", "in", "out", "cost", right=["calls", "in", "out", "cost"])
    total, of_calls = Sums(), Sums()
    inputs: list[int] = []
    for number, message in enumerate(MESSAGES, 1):
        followed = await follow(stage, stage.client.run("toolbox", message, session=session), message)
        run, calls = Sums.of_run(followed), Sums.of_calls(followed.events)
        stage.checks.that(f"run {number} is the sum of its model calls", run == calls, f"{run.calls} calls")
        total.add(followed.result.usage, followed.result.cost, run.calls)
        of_calls.add(followed.result.usage, followed.result.cost, calls.calls)
        inputs.append(run.input_tokens // run.calls)
        shown.add_row(f"run {number}", *run.row())
        shown.add_row("  together", *total.row(), style="dim")
    messages = Sums()
    for each in await messages_of(stage, followed):
        if each.usage.total_tokens:
            messages.add(each.usage, each.cost)
    ledger = Sums()
    async for group in stage.client.query_usage(session=session):
        ledger.add(group.usage, group.cost, group.model_calls)
    shown.add_row("its messages", *messages.row())
    shown.add_row("the ledger", *ledger.row(), style="bold")
    check = stage.checks.that
    check("the ledger says the same, to the last digit", ledger == total == of_calls, f"{ledger.cost}")
    check("so do the session's messages", messages == total, f"{messages.total_tokens} tokens")
    check(
        "a call takes more the longer the conversation is",
        inputs[-1] > inputs[0],
        f"{inputs} tokens per call",
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
