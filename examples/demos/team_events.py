"""Event introspection: from the events of a team's run alone, the tree of who did what, and what each of them took."""

from collections import defaultdict

from rich.table import Table
from rich.tree import Tree

from dragoman.client import kind
from dragoman.v1 import event_pb2
from examples.demos.stage import Followed, Stage, Sums, clean, exact, follow, main, owner, shorten, table

TITLE = "Who did what in a team"
MESSAGE = "What is the population of Paris? Also calculate 2.1 * 3, then convert the result from kilometres to miles."


async def play(stage: Stage) -> Table:
    """Builds the tree, and sums up each part of it."""
    followed = await follow(stage, stage.client.run("research", MESSAGE, detail="all"), MESSAGE)
    parents = {
        event.member.run_id: event.member.parent_run_id
        for event in followed.events
        if event.HasField("member")
    }
    by_run: dict[str, list[event_pb2.RunEvent]] = defaultdict(list)
    for event in followed.events:
        by_run[event.member.run_id or followed.run_id].append(event)
    stage.console.print(_tree(followed, by_run))
    shown = table(
        "",
        "who",
        "events",
        "tools",
        "calls",
        "in",
        "out",
        "cost",
        right=["events", "calls", "in", "out", "cost"],
    )
    total, matches = Sums.of_calls(followed.events), True
    for run_id, events in by_run.items():
        sums = Sums.of_calls(events)
        for event in events:
            if kind(event) == "member_run_completed":
                ended = event.member_run_completed
                matches &= (ended.usage.total_tokens, exact(ended.cost)) == (sums.total_tokens, sums.cost)
        tools = [
            event.tool_call_started.tool_call.name for event in events if kind(event) == "tool_call_started"
        ]
        name = events[0].member.agent_name if run_id != followed.run_id else f"{owner(followed)} (leader)"
        shown.add_row(name, f"{len(events)}", ", ".join(tools), *sums.row())
    shown.add_row("together", f"{len(followed.events)}", "", *total.row(), style="bold")
    check = stage.checks.that
    check(
        "every event has its place in the tree",
        set(parents.values()) <= {followed.run_id, *parents},
        f"{len(by_run)} runs",
    )
    started = [event.member.run_id for event in followed.of("member_run_started")]
    check(
        "every member's run begins once and ends once",
        sorted(started) == sorted(parents),
        f"{len(started)} runs of members",
    )
    ends = [kind(by_run[run_id][-1]) for run_id in started]
    check("its end is its last event", set(ends) == {"member_run_completed"} if ends else False)
    check("each member's end has the tokens and cost of its own calls", matches)
    check(
        "the parts' tokens and cost are the run's",
        total == Sums.of_run(followed),
        f"{total.total_tokens} tokens, {total.cost}",
    )
    return shown


def _tree(followed: Followed, by_run: dict[str, list[event_pb2.RunEvent]]) -> Tree:
    """The run, below it the runs that it started, each with what happened in it."""
    root = Tree(clean(owner(followed)))
    branches = {followed.run_id: root}
    for event in followed.events:
        if kind(event) == "member_run_started":
            parent = branches.get(event.member.parent_run_id, root)
            branches[event.member.run_id] = parent.add(f"{clean(event.member.agent_name)}")
        branch = branches.get(event.member.run_id or followed.run_id, root)
        match kind(event):
            case "tool_call_started":
                branch.add(f"calls {clean(event.tool_call_started.tool_call.name)}", style="cyan")
            case "model_request_completed":
                usage = event.model_request_completed.usage
                branch.add(
                    f"{clean(event.model_request_completed.model)}: {usage.total_tokens} tokens", style="dim"
                )
            case "member_run_completed":
                branch.add(f"answers: {shorten(event.member_run_completed.content, 80)}", style="green")
            case "run_completed":
                root.add(f"answers: {shorten(event.run_completed.content, 80)}", style="green")
            case _:
                pass
    return root


if __name__ == "__main__":
    main(play, TITLE)
