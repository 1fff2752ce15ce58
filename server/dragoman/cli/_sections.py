"""The sections of the demonstration. Each asks the server for something, shows what came, and checks it.

The checks hold for any model that does what it is told: they look at events, counts and sums; of texts only at a word
that must be in them.
"""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

from dragoman.cli._ask import call_text
from dragoman.cli._console import amount_text, money, shorten, table
from dragoman.cli._messages import role_name, show_message
from dragoman.cli._stage import Stage, follow
from dragoman.cli.agents import kind_name, media_name
from dragoman.cli.usage import usage_table
from dragoman.client import InvalidInput, confirm, image, kind
from dragoman.v1 import event_pb2, run_service_pb2

PICTURE = Path("examples/data/ozymandias.png")
WORD = "Ozymandias"

EXAMPLES = frozenset({"desk", "example", "gallery", "research", "toolbox", "vision"})

FIRST_MESSAGE = "Hello! My favourite planet is Neptune. Please greet me."
REMEMBERED = "Neptune"


Section: TypeAlias = Callable[[Stage], Awaitable[None]]


async def agents(stage: Stage) -> None:
    """ListAgents."""
    found = await stage.client.list_agents()
    shown = table("", "agent", "kind", "model", "tools", "media", "description")
    for agent in found:
        shown.add_row(
            agent.name,
            kind_name(agent.kind),
            f"{agent.provider} {agent.model}",
            ", ".join(tool.name for tool in agent.tools) or "-",
            ", ".join(media_name(each) for each in agent.accepted_media) or "-",
            shorten(agent.description),
        )
    stage.console.print(shown)
    names = {agent.name for agent in found}
    stage.checks.that(
        "the examples are served, agents and teams", names >= EXAMPLES, ", ".join(sorted(names))
    )
    members = [member.name for agent in found for member in agent.members if agent.name == "research"]
    stage.checks.that("a team names its members", len(members) == 2, ", ".join(members))


async def session(stage: Stage) -> None:
    """CreateSession: inputs that the agent's own model refuses, then inputs that it accepts."""
    stage.say('create_session("example", inputs={"language": "Klingon"})')
    refused: tuple[str, ...] = ()
    try:
        await stage.client.create_session("example", inputs={"language": "Klingon"})
    except InvalidInput as error:
        refused = tuple(violation.field for violation in error.violations)
        for violation in error.violations:
            stage.console.print(f"{error.reason} {violation.field}: {violation.description}", style="yellow")
    stage.checks.that(
        "inputs that break a rule are refused by path", refused == ("inputs.language",), refused
    )
    stage.say('create_session("example", inputs={"language": "English"}, title="Demonstration")')
    made = await stage.client.create_session("example", inputs={"language": "English"}, title="Demonstration")
    stage.session_id = made.id
    stage.console.print(f"session {made.id} “{made.title}”")
    again = await stage.client.get_session(made.id)
    stage.checks.that(
        "the session is stored with its inputs",
        dict(again.inputs)["language"] == "English",
        f"session {made.id}",
    )


async def streaming(stage: Stage) -> None:
    """Run: text as it is written, and one event that ends the run."""
    followed = await follow(
        stage,
        stage.client.run(
            "example",
            FIRST_MESSAGE,
            session=stage.session_id,
            inputs={"tone": "friendly", "max_words": 60},
            detail="all",
        ),
        FIRST_MESSAGE,
    )
    deltas = [event.content_delta.text for event in followed.of("content_delta")]
    kinds = [kind(event) for event in followed.events]
    numbers = [event.sequence for event in followed.events]
    check = stage.checks.that
    check("the run begins with run_started", kinds[0] == "run_started", followed.run_id)
    check("text comes in several deltas", len(deltas) > 1, f"{len(deltas)} deltas")
    check(
        "events are numbered without a gap",
        numbers == list(range(1, len(numbers) + 1)),
        f"1 to {numbers[-1]}",
    )
    ends = [each for each in kinds if each in ("run_completed", "run_failed", "run_cancelled", "run_paused")]
    check("one event ends the run, and it is the last", ends == kinds[-1:] == ["run_completed"], kinds[-1])
    answer = followed.result.content
    check("the deltas are the answer", answer and answer == "".join(deltas), f"{len(answer)} characters")
    stage.message_ids += followed.result.message_ids


async def tool(stage: Stage) -> None:
    """A tool: what it was given and what it gave."""
    message = "Calculate (2 + 3) * 4 with your tool."
    followed = await follow(stage, stage.client.run("toolbox", message), message)
    started = [event.tool_call_started.tool_call for event in followed.of("tool_call_started")]
    completed = [event.tool_call_completed for event in followed.of("tool_call_completed")]
    check = stage.checks.that
    check("tool_call_started tells the arguments", any(call.arguments.fields for call in started))
    check(
        "tool_call_completed tells the result, for the same call",
        any(done.result.strip('"') == "20" for done in completed)
        and {done.tool_call_id for done in completed} <= {call.id for call in started},
        ", ".join(f"{done.tool_name}: {done.result}" for done in completed),
    )


async def tools(stage: Stage) -> None:
    """Several tools in one run, one of which fails."""
    message = (
        'What is the weather in Paris and in Rome? Also read the sensor "boiler", even though it may fail.'
    )
    followed = await follow(stage, stage.client.run("toolbox", message), message)
    started = [event.tool_call_started.tool_call.id for event in followed.of("tool_call_started")]
    completed = [event.tool_call_completed.tool_call_id for event in followed.of("tool_call_completed")]
    failed = [event.tool_call_failed for event in followed.of("tool_call_failed")]
    check = stage.checks.that
    check("three tools are called", len(started) >= 3, f"{len(started)} calls")
    check("two of them answer", len(set(completed)) >= 2, f"{len(completed)} answers")
    check("one fails, and that is told", len(failed) >= 1, "; ".join(each.error for each in failed))
    ended = {*completed, *(each.tool_call_id for each in failed)}
    check("every call ends", set(started) == ended)
    check("the run completes all the same", kind(followed.events[-1]) == "run_completed")


async def person(stage: Stage) -> None:
    """A tool that a person has to agree to: the run pauses, is continued, and is one run."""
    message = 'Refund 120 rands for the order "A-17".'
    asked: list[event_pb2.Requirement] = []

    def agree(requirement: event_pb2.Requirement) -> run_service_pb2.Resolution:
        stage.say(f"confirm {call_text(requirement)}")
        asked.append(requirement)
        return confirm(requirement)

    followed = await follow(stage, stage.client.run("desk", message), message, agree)
    check = stage.checks.that
    needs = [each.WhichOneof("need") for each in asked]
    check("the run waits for a yes", needs == ["confirmation"], ", ".join(call_text(each) for each in asked))
    kinds = [kind(event) for event in followed.events]
    check(
        "it goes on as the same run, and completes",
        kinds.index("run_paused") + 1 == kinds.index("run_continued") and kinds[-1] == "run_completed",
        followed.run_id,
    )
    numbers = [event.sequence for event in followed.events]
    check("its numbers go on", numbers == sorted(set(numbers)), f"up to {numbers[-1]}")
    results = [event.tool_call_completed.result for event in followed.of("tool_call_completed")]
    check("then the tool is called", any("120.00 rands" in each for each in results), "; ".join(results))


async def team(stage: Stage) -> None:
    """A team: who was asked what, who called which tool, and what each of them cost."""
    message = "What is the weather in Rome? Also calculate 12 * 12."
    followed = await follow(stage, stage.client.run("research", message), message)
    members = {event.member.agent_name for event in followed.of("member_run_started")}
    ended = [event.member.run_id for event in followed.of("member_run_completed")]
    used = {
        (event.member.agent_name, event.tool_call_started.tool_call.name)
        for event in followed.of("tool_call_started")
        if event.HasField("member")
    }
    check = stage.checks.that
    check("the leader asks both members", members == {"Researcher", "Calculator"}, ", ".join(sorted(members)))
    check("each of their runs ends", len(ended) == len(set(ended)) == len(followed.of("member_run_started")))
    check(
        "each calls its own tools",
        used >= {("Researcher", "weather"), ("Calculator", "calculate")},
        ", ".join(f"{who}: {tool}" for who, tool in sorted(used)),
    )
    rows = [row async for row in stage.client.query_usage(["member"], session=followed.session_id)]
    stage.console.print(usage_table(rows, ["member"]))
    spent = {row.member_name: Decimal(row.cost.exact_amount) for row in rows}
    check(
        "the ledger has leader and members apart, and they add up",
        set(spent) == {"research", *members}
        and sum(spent.values()) == Decimal(followed.result.cost.exact_amount),
        ", ".join(f"{who} {amount:.6f}" for who, amount in spent.items()),
    )


async def picture(stage: Stage) -> None:
    """An image comes with the message."""
    message = "Which word stands in this picture?"
    sent = image(PICTURE)
    stage.console.print(f"[{PICTURE}, {len(sent.data)} bytes]", style="magenta")
    followed = await follow(stage, stage.client.run("vision", message, media=[sent]), message)
    content = followed.result.content
    stage.checks.that(
        f"the answer has the word {WORD}", WORD.casefold() in content.casefold(), shorten(content)
    )
    messages = stage.client.list_messages(followed.session_id, inline_media=True)
    kept = [medium async for message in messages for medium in message.media]
    stage.checks.that(
        "the picture is kept with the message, byte for byte",
        [medium.data for medium in kept] == [sent.data],
        ", ".join(f"{medium.mime_type} {medium.id[:16]}…" for medium in kept),
    )


async def execute(stage: Stage) -> None:
    """Execute: the same run as one answer."""
    message = "Say that this was not streamed."
    stage.say(message)
    answer = await stage.client.execute("example", message)
    stage.console.print(shorten(answer.content, 400))
    stage.console.print(money(answer.run.cost), style="dim")
    stage.checks.that(
        "the unary answer has content, messages and usage",
        answer.run.status == run_service_pb2.RUN_STATUS_COMPLETED
        and answer.content
        and len(answer.messages) == 2
        and answer.run.usage.total_tokens > 0,
        f"{len(answer.messages)} messages",
    )


async def history(stage: Stage) -> None:
    """A second turn that refers to the first, and the conversation read back."""
    message = "What did I say first? Quote it word for word."
    followed = await follow(stage, stage.client.run("example", message, session=stage.session_id), message)
    stage.message_ids += followed.result.message_ids
    content = followed.result.content
    check = stage.checks.that
    check(
        "the second turn knows the first", REMEMBERED.casefold() in content.casefold(), shorten(content, 60)
    )
    stage.say("list_messages(session)")
    messages = [each async for each in stage.client.list_messages(stage.session_id)]
    for each in messages:
        show_message(stage.console, each)
    check(
        "all messages of both runs are stored, in order",
        [each.id for each in messages] == stage.message_ids and len(messages) >= 4,
        f"{len(messages)} messages",
    )
    roles = [role_name(each.role) for each in messages]
    check(
        "user and assistant take turns", roles == ["user", "assistant"] * (len(roles) // 2), ", ".join(roles)
    )
    check(
        "what was said is what is stored", messages[0].content == FIRST_MESSAGE, shorten(messages[0].content)
    )
    stored = await stage.client.get_session(stage.session_id)
    check("the session counts them", stored.message_count == len(messages), stored.message_count)


async def usage(stage: Stage) -> None:
    """QueryUsage: the ledger's sums, which are those of the runs to the last digit."""
    groups = [group async for group in stage.client.query_usage(["agent"])]
    stage.console.print(usage_table(groups, ["agent"]))
    runs = [each async for each in stage.client.list_runs()]
    check = stage.checks.that
    spent = sum((Decimal(each.cost.exact_amount) for each in runs), Decimal(0))
    booked = sum((Decimal(group.cost.exact_amount) for group in groups), Decimal(0))
    currency = groups[0].cost.amount.currency_code
    counted = sum(each.usage.total_tokens for each in runs)
    check("every run has tokens", all(each.usage.total_tokens > 0 for each in runs), f"{len(runs)} runs")
    check("every run has a cost", all(Decimal(each.cost.exact_amount) > 0 for each in runs))
    check("nothing is unpriced", not any(group.cost.unpriced_calls for group in groups))
    check(
        "the ledger's tokens are the runs'",
        counted == sum(group.usage.total_tokens for group in groups),
        f"{counted:,} tokens",
    )
    check("the ledger's cost is the runs', to the last digit", spent == booked, f"{currency} {booked}")
    dollars = sum((Decimal(group.cost.exact_usd) for group in groups), Decimal(0))
    stage.console.print(f"{amount_text(booked, currency)} is {amount_text(dollars, 'USD')}", style="dim")


SECTIONS: Sequence[tuple[str, Section]] = (
    ("The agents", agents),
    ("A session", session),
    ("A streamed run", streaming),
    ("A tool", tool),
    ("Several tools", tools),
    ("A person in the loop", person),
    ("A team", team),
    ("A picture", picture),
    ("One answer instead of a stream", execute),
    ("The history", history),
    ("Tokens and costs", usage),
)
