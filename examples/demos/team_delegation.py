"""A leader delegates, and its members use tools of their own."""

from rich.table import Table

from examples.demos.stage import Stage, arguments, calls_of, follow, main, owner, shorten, table

TITLE = "A team delegates to members with tools"
MESSAGE = (
    "What is the weather in Rome? Also calculate 12 * 12, then convert the result from celsius to fahrenheit."
)
LEADER = "delegate_task_to_member"


async def play(stage: Stage) -> Table:
    """One run of a team, and who called what in it."""
    served = await stage.client.get_agent("research")
    members = {member.name: {tool.name for tool in member.tools} for member in served.members}
    followed = await follow(stage, stage.client.run("research", MESSAGE), MESSAGE)
    calls = calls_of(followed)
    shown = table("", "event", "who", "tool", "gave", right=["event"])
    for call in calls:
        tool = f"{call.call.name}({arguments(call.call.arguments)})"
        shown.add_row(f"{call.started}", call.agent, shorten(tool, 90), shorten(call.result, 60))
    leader = owner(followed)
    delegated = [call for call in calls if call.call.name == LEADER]
    used = {name: [call.call.name for call in calls if call.agent == name] for name in members}
    check = stage.checks.that
    check(
        "only the leader delegates", {call.agent for call in delegated} == {leader}, f"{len(delegated)} tasks"
    )
    check(
        "both members use tools",
        all(used.values()),
        "; ".join(f"{who}: {', '.join(of)}" for who, of in used.items()),
    )
    check(
        "each member uses only its own",
        all(set(used[name]) <= tools for name, tools in members.items())
        and {call.agent for call in calls} <= {leader, *members},
    )
    runs = {event.member.run_id: event.member for event in followed.of("member_run_started")}
    check(
        "each member's call belongs to a run that the team started",
        all(call.run_id in runs for call in calls if call.agent != leader)
        and {member.parent_run_id for member in runs.values()} == {followed.run_id},
        f"{len(runs)} runs of members",
    )
    check(
        "each delegation begins before the member's run and ends after it",
        len(followed.of("member_run_completed")) == len(runs)
        and min(call.started for call in delegated)
        < min(e.sequence for e in followed.of("member_run_started"))
        and max(call.ended for call in delegated)
        > max(e.sequence for e in followed.of("member_run_completed")),
    )
    check(
        "what the tools gave reaches the answer",
        "26" in followed.result.content,
        shorten(followed.result.content),
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
