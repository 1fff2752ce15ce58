"""A run on the terminal, as it happens: text as it comes, reasoning dimmed, tools with what they got and gave.

Members of a team are introduced when they say something. While several of them work at the same time, each one's text is
held back until it has said it all or does something else: otherwise their words would be shuffled.
"""

import json

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from rich.console import Console

from dragoman.cli._console import calls, clean, money, shorten, tokens
from dragoman.client import from_status, kind
from dragoman.v1 import event_pb2


def arguments(call: Struct) -> str:
    """`city="Paris", days=3`: a tool call's arguments as a program would write them."""
    return shorten(", ".join(f"{name}={_json(value)}" for name, value in sorted(_dict(call).items())))


def _dict(struct: Struct) -> dict[str, object]:
    return dict(json_format.MessageToDict(struct))


def _json(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Struct has only floats
    return json.dumps(value, ensure_ascii=False)


class EventPrinter:
    """Shows the events of one run, in order. What has nothing to show is passed over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._inline = ""
        """The style of the text that is being written; empty at the start of a line."""
        self._own = ""
        """The run's own agent or team; empty when its beginning was not seen."""
        self._speaker = ""
        """Who was introduced last."""
        self._turn = ""
        """Whose event is shown."""
        self._held: dict[str, str] = {}
        """Of each member's run that goes on: its text that is held back."""

    def show(self, event: event_pb2.RunEvent) -> None:
        """Shows one event."""
        run = event.member.run_id
        self._turn = event.member.agent_name or self._own
        match kind(event):
            case "run_started":
                self._own = self._speaker = event.run_started.agent_name
            case "member_run_started" | "member_run_continued":
                self._held[run] = ""
            case "content_delta" if run in self._held and len(self._held) > 1:
                self._held[run] += event.content_delta.text
            case _:
                self._write(self._held.get(run, ""), "default")
                if run in self._held:
                    self._held[run] = ""
                self._show(event)

    def _show(self, event: event_pb2.RunEvent) -> None:
        match kind(event):
            case "content_delta":
                self._write(event.content_delta.text, "default")
            case "intermediate_content":
                self._write(event.intermediate_content.text, "dim")
            case "reasoning_delta":
                self._write(event.reasoning_delta.text, "dim italic")
            case "reasoning_step":
                self._line(f"  · {shorten(event.reasoning_step.title)}", "dim italic")
            case "tool_call_started":
                call = event.tool_call_started.tool_call
                self._line(f"  → {clean(call.name)}({arguments(call.arguments)})", "cyan")
            case "tool_call_completed":
                done = event.tool_call_completed
                self._line(f"  ← {clean(done.tool_name)}: {shorten(done.result)}", "green")
            case "tool_call_failed":
                failed = event.tool_call_failed
                self._line(f"  ✗ {clean(failed.tool_name)}: {shorten(failed.error)}", "red")
            case "structured_content":
                value = json_format.MessageToJson(event.structured_content.value, ensure_ascii=False)
                self._line(clean(value), "default")
            case "citations":
                for citation in event.citations.citations:
                    self._line(f"  [{shorten(citation.title or citation.url or citation.file_name)}]", "dim")
            case "media_output":
                media = event.media_output.media
                self._line(f"  [{clean(media.mime_type)}, {media.size_bytes:,} bytes]", "magenta")
            case "member_run_completed" | "member_run_cancelled" | "member_run_paused":
                self._held.pop(event.member.run_id, None)
            case "member_run_failed":
                self._held.pop(event.member.run_id, None)
                self._line(f"  ✗ {shorten(str(from_status(event.member_run_failed.error)))}", "red")
            case "run_completed":
                self._sum(event.run_completed)
            case "run_failed":
                self._line(f"failed: {clean(str(from_status(event.run_failed.error)))}", "red")
                self._sum(event.run_failed)
            case "run_cancelled":
                note = f": {shorten(event.run_cancelled.note)}" if event.run_cancelled.note else ""
                self._line(f"cancelled ({cancel_reason(event.run_cancelled.reason)}){note}", "yellow")
                self._sum(event.run_cancelled)
            case "run_paused":
                self._line(f"paused: it waits for {answers(len(event.run_paused.requirements))}", "yellow")
                self._sum(event.run_paused)
            case "run_queued":
                self._line(f"waiting for the session's turn, at place {event.run_queued.position}", "dim")
            case _:
                pass

    def finish(self) -> None:
        """Ends the line that is being written, if there is one."""
        if self._inline:
            self._console.print()
            self._inline = ""

    def _introduce(self) -> None:
        """Says whose turn it is, when it was another's before."""
        if self._turn != self._speaker:
            self._speaker = self._turn
            self.finish()
            if self._turn:
                self._console.print(f"[{clean(self._turn)}]", style="bold blue")

    def _write(self, text: str, style: str) -> None:
        if text:
            self._introduce()
            if self._inline != style:
                self.finish()
            self._console.print(clean(text), style=style, end="", soft_wrap=True)
            self._inline = style

    def _line(self, text: str, style: str) -> None:
        if text:
            self._introduce()
            self.finish()
            self._console.print(text, style=style, soft_wrap=True)

    def _sum(
        self,
        end: event_pb2.RunCompleted | event_pb2.RunFailed | event_pb2.RunCancelled | event_pb2.RunPaused,
    ) -> None:
        self._line(f"{calls(end.model_calls)} · {tokens(end.usage)} · {money(end.cost)}", "dim")


def answers(count: int) -> str:
    """`1 answer`, `2 answers`."""
    return f"{count} answer{'' if count == 1 else 's'}"


def cancel_reason(reason: int) -> str:
    """`caller`, `max cost`, ...; a number for one that is newer than this version."""
    if reason not in event_pb2.CancelReason.values():
        return str(reason)
    name = event_pb2.CancelReason.Name(event_pb2.CancelReason.ValueType(reason))
    return name.removeprefix("CANCEL_REASON_").replace("_", " ").lower()
