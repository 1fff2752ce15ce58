"""An agent or team as its entry in ListAgents: what one that was built once shows of its model, members, tools and schemas."""

from collections.abc import Iterator, Mapping
from typing import Any

from agno.agent import Agent
from agno.models.base import Model
from agno.team import Team
from agno.tools import Toolkit
from agno.tools.function import Function
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dragoman.agents import MediaKind
from dragoman.agents.base import Served
from dragoman.v1 import agent_service_pb2, message_pb2

_MEDIA_KINDS: Mapping[MediaKind, message_pb2.MediaKind.ValueType] = {
    MediaKind.IMAGE: message_pb2.MEDIA_KIND_IMAGE,
    MediaKind.FILE: message_pb2.MEDIA_KIND_FILE,
    MediaKind.AUDIO: message_pb2.MEDIA_KIND_AUDIO,
    MediaKind.VIDEO: message_pb2.MEDIA_KIND_VIDEO,
}


def describe(spec: Served[Any, Any], built: Agent | Team, model: Model) -> agent_service_pb2.Agent:
    """The catalog entry of `spec`, of which `built`, led by `model`, was built. Raises what making a JSON Schema raises."""
    entry = _component(built, model)
    entry.name = spec.name
    entry.description = spec.description
    entry.accepted_media.extend(_MEDIA_KINDS[kind] for kind in MediaKind if kind in spec.accepted_media)
    entry.session_inputs_schema.CopyFrom(input_schema(spec.CreateSessionModel))
    entry.run_inputs_schema.CopyFrom(input_schema(spec.RequestModel))
    return entry


def members(team: Team) -> list[Agent | Team]:
    """Those that are known before a run; a team may also make its members when it runs."""
    found: object = team.members
    return (
        [each for each in found if isinstance(each, Agent | Team)] if isinstance(found, list | tuple) else []
    )


def _component(built: Agent | Team, model: Model | None) -> agent_service_pb2.Agent:
    """An agent, team or member, as what Agno was given. `model`: the one that it works with when it has none itself."""
    model = built.model if isinstance(built.model, Model) else model
    is_team = isinstance(built, Team)
    entry = agent_service_pb2.Agent(
        name=built.name or "",
        kind=agent_service_pb2.AGENT_KIND_TEAM if is_team else agent_service_pb2.AGENT_KIND_AGENT,
        description=built.description or built.role or "",
        tools=tools(built),
    )
    if model is not None:
        entry.model, entry.provider = model.id, model.get_provider()
    if isinstance(built, Team):
        entry.members.extend(_component(member, model) for member in members(built))
    if built.output_schema is not None:
        entry.output_schema.CopyFrom(_output_schema(built.output_schema))
    return entry


def input_schema(model: type[BaseModel]) -> Struct:
    """The JSON Schema of what the model takes as inputs; undeclared fields are refused, and it says so."""
    return _struct(model.model_json_schema(schema_generator=_Closed, mode="validation"))


def tools(agent: Agent | Team) -> list[agent_service_pb2.Tool]:
    """The tools that are known before a run, each name once, as Agno presents them to the model."""
    if not isinstance(agent.tools, list):
        return []
    found: dict[str, agent_service_pb2.Tool] = {}
    for tool in agent.tools:
        for entry in _entries(tool):
            found.setdefault(entry.name, entry)
    return list(found.values())


def _entries(tool: object) -> Iterator[agent_service_pb2.Tool]:
    if isinstance(tool, Toolkit):
        for function in tool.get_async_functions().values():
            yield _entry(_processed(function))
    elif isinstance(tool, Function):
        yield _entry(_processed(tool))
    elif isinstance(tool, dict):
        yield _provider_tool(tool)
    elif callable(tool):
        yield _entry(Function.from_callable(tool))


def _processed(function: Function) -> Function:
    """A copy with the description that Agno takes from the docstring where none is given."""
    function = function.model_copy(deep=True)
    function.process_entrypoint()
    return function


def _entry(function: Function) -> agent_service_pb2.Tool:
    return agent_service_pb2.Tool(
        name=function.name,
        description=function.description or "",
        requires_confirmation=bool(function.requires_confirmation),
        requires_user_input=bool(function.requires_user_input),
        external_execution=bool(function.external_execution),
    )


def _provider_tool(tool: Mapping[str, Any]) -> agent_service_pb2.Tool:
    """A tool that the provider runs, given to Agno as the provider's own JSON."""
    inner = tool.get("function")
    source = inner if isinstance(inner, Mapping) else tool
    return agent_service_pb2.Tool(
        name=str(source.get("name") or source.get("type") or ""),
        description=str(source.get("description") or ""),
    )


def _output_schema(schema: type[BaseModel] | Mapping[str, Any]) -> Struct:
    return _struct(schema.model_json_schema() if isinstance(schema, type) else schema)


def _struct(schema: Mapping[str, Any]) -> Struct:
    return ParseDict(dict(schema), Struct())


class _Closed(GenerateJsonSchema):
    """Writes `additionalProperties: false` on every object whose fields are declared."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Of a Pydantic model."""
        return self._close(super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        """Of a dataclass."""
        return self._close(super().dataclass_schema(schema))

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """Of a TypedDict."""
        return self._close(super().typed_dict_schema(schema))

    def _close(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        if "properties" in schema or schema.get("type") == "object":
            schema["additionalProperties"] = False
        return schema
