"""Shows a stored message as its proto. Reads the stored JSON itself: no Agno object is made for it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from dragoman import wire
from dragoman.adapter.media import proto_kind
from dragoman.adapter.messages import MediaMissing, content_of, references
from dragoman.adapter.values import clean, to_struct, to_text
from dragoman.engine.ports import MediaKind
from dragoman.records import Media, Message
from dragoman.v1 import message_pb2

_ROLES: Final = {
    "user": message_pb2.MESSAGE_ROLE_USER,
    "assistant": message_pb2.MESSAGE_ROLE_ASSISTANT,
    "model": message_pb2.MESSAGE_ROLE_ASSISTANT,
    "tool": message_pb2.MESSAGE_ROLE_TOOL,
}
_KINDS: Final = {
    "images": MediaKind.IMAGE,
    "image_output": MediaKind.IMAGE,
    "audio": MediaKind.AUDIO,
    "audio_output": MediaKind.AUDIO,
    "videos": MediaKind.VIDEO,
    "video_output": MediaKind.VIDEO,
    "files": MediaKind.FILE,
    "file_output": MediaKind.FILE,
}


TOOL_FAILED: Final = "the tool call failed"
"""Stands for what a tool raised, and the model was given: callers see no text of exceptions."""


class AgnoMessageView:
    """Satisfies `engine.ports.MessageView`."""

    def show(self, message: Message, media: Mapping[bytes, Media]) -> message_pb2.Message:
        """The message without `session_id`.

        `media`: bytes to put inline, by hash; others are shown by id. Small ones, which are part of the message, always
        come with their bytes.
        """
        document: dict[str, Any] = json.loads(message.parts)
        shown = message_pb2.Message(
            id=str(message.id),
            run_id=str(message.run_id),
            parent_run_id=str(message.parent_run_id) if message.parent_run_id else "",
            agent_name=message.agent_name,
            sequence=message.sequence,
            role=_ROLES.get(message.role, message_pb2.MESSAGE_ROLE_UNSPECIFIED),
            content=TOOL_FAILED if document.get("tool_call_error") else _text(document.get("content")),
            reasoning=document.get("reasoning_content") or "",
            tool_calls=[_tool_call(call) for call in document.get("tool_calls") or ()],
            tool_call_id=document.get("tool_call_id") or "",
            tool_name=document.get("tool_name") or "",
            tool_failed=bool(document.get("tool_call_error")),
            media=[_medium(_KINDS[name], medium, media) for name, medium in references(document)],
            citations=_citations(document.get("citations") or {}),
            provider=message.provider,
            model=message.model,
            create_time=wire.timestamp(message.create_time),
        )
        if message.usage is not None:
            shown.usage.CopyFrom(wire.token_usage(message.usage))
        if message.cost is not None:
            shown.cost.CopyFrom(wire.call_cost(message.cost))
        return shown


def _text(content: object) -> str:
    """The text of a message, the blocks of one that has several joined."""
    if not isinstance(content, list):
        return to_text(content)
    blocks = (block.get("text") if isinstance(block, dict) else block for block in content)
    return "\n".join(clean(text) for text in blocks if isinstance(text, str))


def _tool_call(call: Mapping[str, Any]) -> message_pb2.ToolCall:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except ValueError:
            arguments = {"value": arguments}
    return message_pb2.ToolCall(
        id=call.get("id") or "", name=function.get("name") or "", arguments=to_struct(arguments or {})
    )


def _medium(kind: MediaKind, document: Mapping[str, Any], media: Mapping[bytes, Media]) -> message_pb2.Media:
    metadata = document.get("metadata") or {}
    shown = message_pb2.Media(
        kind=proto_kind(kind),
        mime_type=document.get("mime_type") or "",
        name=to_text(document.get("filename") or document.get("name") or metadata.get("name")),
        uri=document.get("url") or "",
        transcript=document.get("transcript") or "",
    )
    content: Mapping[str, Any] = document.get("content") or {}
    if "sha256" in content:
        shown.id, shown.size_bytes = content["sha256"], content["size"]
        if (stored := media.get(bytes.fromhex(content["sha256"]))) is not None:
            shown.data = stored.data
            shown.mime_type = shown.mime_type or stored.mime_type
        return shown
    try:
        data = content_of(content, media) if content else b""
    except MediaMissing:
        data = b""
    data = data.encode() if isinstance(data, str) else data
    if isinstance(data, bytes) and data:
        shown.id, shown.size_bytes, shown.data = hashlib.sha256(data).hexdigest(), len(data), data
    return shown


def _citations(citations: Mapping[str, Any]) -> list[message_pb2.Citation]:
    pages = [
        message_pb2.Citation(url=page.get("url") or "", title=page.get("title") or "")
        for page in citations.get("urls") or ()
    ]
    documents = [
        message_pb2.Citation(
            title=document.get("document_title") or "",
            cited_text=document.get("cited_text") or "",
            file_name=document.get("file_name") or "",
        )
        for document in citations.get("documents") or ()
    ]
    return pages + documents
