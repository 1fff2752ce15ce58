"""Message reconstruction: the leader's and each member's conversation, from the store and again from the events."""

from collections import defaultdict

from rich.table import Table

from dragoman.v1 import message_pb2
from examples.demos.stage import Stage, calls_of, follow, main, messages_of, owner, shorten, spoken, table

TITLE = "The conversations of a team"
MESSAGE = "What is the weather in London? Also calculate 7 * 6."


async def play(stage: Stage) -> Table:
    """Lists all messages by the run that made them, and compares them with what the events told."""
    followed = await follow(stage, stage.client.run("research", MESSAGE), MESSAGE)
    conversations: dict[str, list[message_pb2.Message]] = defaultdict(list)
    for message in await messages_of(stage, followed):
        conversations[message.run_id].append(message)
    shown = table("", "whose", "role", "text", "tools", "tokens", right=["tokens"])
    for messages in conversations.values():
        for message in messages:
            shown.add_row(
                message.agent_name,
                message_pb2.MessageRole.Name(message.role).removeprefix("MESSAGE_ROLE_").lower(),
                shorten(message.content, 70),
                ", ".join(call.name for call in message.tool_calls) or message.tool_name,
                f"{message.usage.total_tokens or ''}",
            )
        shown.add_section()
    check = stage.checks.that
    members = {event.member.run_id: event.member.agent_name for event in followed.of("member_run_started")}
    check(
        "there is a conversation of the leader and one of each member's run",
        set(conversations) == {followed.run_id, *members},
        f"{len(conversations)} conversations",
    )
    names = {
        run_id: {message.agent_name for message in messages} for run_id, messages in conversations.items()
    }
    check(
        "every message names whose it is",
        names == {followed.run_id: {owner(followed)}, **{run: {name} for run, name in members.items()}},
    )
    first = {run_id: messages[0].role for run_id, messages in conversations.items()}
    check("each begins with what it was asked", set(first.values()) == {message_pb2.MESSAGE_ROLE_USER})
    texts = {run_id: _said(messages) for run_id, messages in conversations.items()}
    check(
        "what was stored is what was streamed",
        texts == dict(spoken(followed)),
        f"{sum(map(len, texts.values()))} characters",
    )
    asked = {
        run_id: [call.id for message in messages for call in message.tool_calls]
        for run_id, messages in conversations.items()
    }
    seen: dict[str, list[str]] = defaultdict(list)
    for call in calls_of(followed):
        seen[call.run_id].append(call.call.id)
    check(
        "so are the tool calls, of each of them",
        {run: ids for run, ids in asked.items() if ids} == dict(seen),
        f"{sum(map(len, seen.values()))} calls",
    )
    answered = {
        run_id: [message.tool_call_id for message in messages if message.tool_call_id]
        for run_id, messages in conversations.items()
    }
    check(
        "every call has its answer in the same conversation",
        all(sorted(asked[run_id]) == sorted(answered[run_id]) for run_id in conversations),
    )
    own = [message async for message in stage.client.list_messages(followed.session_id)]
    check(
        "without members the leader's alone are listed",
        own == conversations[followed.run_id],
        f"{len(own)} messages",
    )
    check(
        "and they are what the run said it added",
        [message.id for message in own if message.id in followed.result.message_ids]
        == [message.id for message in own],
    )
    return shown


def _said(messages: list[message_pb2.Message]) -> str:
    """What the model wrote in a conversation, joined."""
    return "".join(
        message.content for message in messages if message.role == message_pb2.MESSAGE_ROLE_ASSISTANT
    )


if __name__ == "__main__":
    main(play, TITLE)
