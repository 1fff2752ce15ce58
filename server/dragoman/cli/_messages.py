"""The messages of a session on the terminal."""

from rich.console import Console

from dragoman.cli._console import clean, money, shorten, tokens
from dragoman.cli._printer import arguments
from dragoman.v1 import message_pb2

_ROLES = {
    message_pb2.MESSAGE_ROLE_USER: ("user", "bold"),
    message_pb2.MESSAGE_ROLE_ASSISTANT: ("assistant", "bold green"),
    message_pb2.MESSAGE_ROLE_TOOL: ("tool", "bold cyan"),
}


def role_name(role: message_pb2.MessageRole.ValueType) -> str:
    """`user`, `assistant` or `tool`."""
    return _ROLES.get(role, ("?", ""))[0]


def show_message(console: Console, message: message_pb2.Message) -> None:
    """One message: who speaks, what was said and called, what came with it, what it cost."""
    name, style = _ROLES.get(message.role, ("?", ""))
    who = f"{name} {clean(message.tool_name)}".strip() + (" (failed)" if message.tool_failed else "")
    member = f" · {clean(message.agent_name)}" if message.parent_run_id else ""
    console.print(f"{message.sequence}. {who}{member}", style=style)
    if message.reasoning:
        console.print(f"  {shorten(message.reasoning, 400)}", style="dim italic", soft_wrap=True)
    for line in clean(message.content).splitlines():
        console.print(f"  {line}", soft_wrap=True)
    for call in message.tool_calls:
        console.print(f"  → {clean(call.name)}({arguments(call.arguments)})", style="cyan", soft_wrap=True)
    for medium in message.media:
        name = clean(medium.name) or medium.id[:12]
        console.print(f"  [{clean(medium.mime_type)} {name}, {medium.size_bytes:,} bytes]", style="magenta")
    if message.HasField("usage") and message.usage.total_tokens:
        cost = money(message.cost) if message.HasField("cost") else "no price"
        console.print(f"  {tokens(message.usage)} · {cost}", style="dim")
