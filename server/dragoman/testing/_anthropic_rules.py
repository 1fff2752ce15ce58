"""The rules of the Messages API that a conversation must keep, as far as a client's mistakes have broken them.

The fake refuses what the real API refuses with 400: otherwise a history that is wrong would pass every test and
fail in production.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def broken_rule(request: Mapping[str, Any]) -> str | None:
    """The first rule that `request` (the parsed body) breaks, as a sentence; None when it keeps all."""
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(request.get(name), kind):
            return f"{name}: Field required"
    messages: Sequence[Mapping[str, Any]] = request["messages"]
    if not messages:
        return "messages: at least one message is required"
    if messages[0].get("role") != "user":
        return "messages: first message must use the user role"
    pending: set[str] = set()
    for at, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            return f"messages.{at}.role: must be user or assistant"
        blocks = _blocks(message)
        if wrong := _broken_block(at, blocks):
            return wrong
        answered = {str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"}
        if missing := pending - answered:
            return f"messages.{at}: tool_use ids without tool_result blocks immediately after: {', '.join(sorted(missing))}"
        if unknown := answered - pending:
            return (
                f"messages.{at}: unexpected tool_use_id in tool_result blocks: {', '.join(sorted(unknown))}"
            )
        pending = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
    if pending:
        return f"messages.{len(messages) - 1}: tool_use ids without tool_result blocks: {', '.join(sorted(pending))}"
    return None


def _blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content) if isinstance(content, list) else []


def _broken_block(at: int, blocks: Sequence[Mapping[str, Any]]) -> str | None:
    if not blocks:
        return f"messages.{at}: all messages must have non-empty content"
    for place, block in enumerate(blocks):
        match block.get("type"):
            case "text" if not block.get("text"):
                return f"messages.{at}.content.{place}: text content blocks must be non-empty"
            case "thinking" if not block.get("signature"):
                return f"messages.{at}.content.{place}.signature: Field required"
            case None:
                return f"messages.{at}.content.{place}.type: Field required"
    return None
