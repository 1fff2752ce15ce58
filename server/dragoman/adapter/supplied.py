"""Tool calls that a pause has settled without their tool: Agno tells the model what came of them, and nobody else.

    executed by the caller    completed, with the caller's result
    answered by the user      completed, with what the model is told of the choices or the values
    declined                  failed

They are told once, when the run that they are of goes on. Of a call that Agno executes then, its own events tell.
"""

import json
from dataclasses import replace
from typing import Any, Final

from agno.models.response import ToolExecution
from agno.run import agent as agent_run
from agno.run import team as team_run

from dragoman.adapter.continuing import Restored

_CONTINUED = (agent_run.RunContinuedEvent, team_run.RunContinuedEvent)

_CHOICES: Final = "ask_user"
_VALUES: Final = "get_user_input"
"""Agno's tools that do nothing but ask."""


class Supplied:
    """The calls of one continued run, its members' included, that are yet to be told."""

    def __init__(self, restored: Restored) -> None:
        self._left: dict[str | None, list[ToolExecution]] = {}
        for run_id, tool in restored.waiting():
            if (settled := _settled(tool)) is not None:
                self._left.setdefault(run_id, []).append(settled)

    def after(self, event: Any) -> list[Any]:
        """The events that Agno owes after one of its own, in the order of the calls."""
        if not isinstance(event, _CONTINUED):
            return []
        return [_completed(event, tool) for tool in self._left.pop(event.run_id, [])]


def _settled(tool: ToolExecution) -> ToolExecution | None:
    """The call with what has come of it; None when its tool is to be executed now."""
    if tool.external_execution_required and tool.result is not None:
        return replace(tool)
    if tool.requires_confirmation and tool.confirmed is False:
        return replace(tool, tool_call_error=True)
    if tool.requires_user_input and tool.tool_name == _CHOICES and tool.user_feedback_schema:
        chosen = [
            {"question": q.question, "selected": q.selected_options or []} for q in tool.user_feedback_schema
        ]
        return replace(tool, result=f"User feedback received: {json.dumps(chosen, ensure_ascii=False)}")
    if tool.requires_user_input and tool.tool_name == _VALUES and tool.user_input_schema:
        given = [{"name": asked.name, "value": asked.value} for asked in tool.user_input_schema]
        return replace(
            tool, result=f"User inputs retrieved: {json.dumps(given, ensure_ascii=False, default=str)}"
        )
    return None


def _completed(event: Any, tool: ToolExecution) -> Any:
    """Agno's event of the call, of the run that the other event is of."""
    if isinstance(event, agent_run.RunContinuedEvent):
        return agent_run.ToolCallCompletedEvent(
            run_id=event.run_id,
            parent_run_id=event.parent_run_id,
            agent_id=event.agent_id,
            agent_name=event.agent_name,
            tool=tool,
        )
    return team_run.ToolCallCompletedEvent(
        run_id=event.run_id,
        parent_run_id=event.parent_run_id,
        team_id=event.team_id,
        team_name=event.team_name,
        tool=tool,
    )
