"""Writes docs/events.md, docs/configuration.md and the picture in docs/data-model.md: `python -m docs.generate`, `--check`
only compares.

make docs and make check call it. The picture is of the tables as storage has them; configuration.md is of `settings_page`.

In events.md, comments, fields and types come from the descriptors that protoc makes of protos/, with their source
information; the level of detail from the server's own table; the examples from the golden files of the tests, so that each
is an event that was really made. An event that lacks a comment, a level or an example ends this with an error.
"""

import difflib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from sqlalchemy import Column

from docs import settings_page
from dragoman.storage.tables import metadata
from dragoman.transport.detail import LEVELS
from dragoman.v1 import event_pb2, run_service_pb2

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "events.md"
GOLDEN = ROOT / "tests" / "golden"
DATA_MODEL = ROOT / "docs" / "data-model.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
EVENT_PROTO = "dragoman/v1/event.proto"

WITHOUT_EXAMPLE = {"unmapped"}
"""Events that no test makes on purpose: what a newer agent framework may send."""

SECTIONS: Sequence[tuple[str, str, range | tuple[int, ...]]] = (
    ("The run", "How it begins, waits and ends.", range(10, 20)),
    ("Text and other content", "What the run gives.", (4, *range(20, 30))),
    ("Reasoning", "What a model thinks before it answers, where it shows that.", (5, *range(30, 40))),
    ("Tools", "Calls of tools, told apart by their id.", range(40, 50)),
    ("Model calls", "Each request to a model, with what it took.", range(50, 60)),
    ("Members of a team", "Runs of members, each with `member` set.", range(60, 70)),
    ("Tasks of a team", "Of a team that works through a list of tasks.", range(70, 80)),
    ("Inner phases", "What an agent does besides, in pairs of a beginning and an end.", range(80, 110)),
    ("Others", "", range(110, 120)),
)
"""By the numbers of the oneof's fields, as event.proto lays them out."""

INTRODUCTION = """\
# The events of a run

<!-- Written by docs/generate.py from protos/ and tests/golden/: change those, then run `make docs`. -->

A call that follows a run (`Run`, `AttachRun`, `ContinueRun`) streams `dragoman.v1.RunEvent`s. This page has each of them:
when it comes, what is in it, and an example, which a test has seen. [runs.md](runs.md) tells how runs live.

Examples are JSON as grpcurl prints it: enumerations by name, 64-bit numbers as strings, what is unset left out. Sequence and
time are shown where the example is from a whole run. To see all events of a run:

```sh
grpcurl -plaintext -d '{"agent_name": "toolbox", "message": "Calculate 6 * 7", "detail": "EVENT_DETAIL_ALL"}' \\
    localhost:50051 dragoman.v1.RunService/Run
```
"""

ORDER = """\
## In which order
{envelope}

```
[run_queued]  run_started  …  ( run_paused  run_continued  … )*  run_completed │ run_failed │ run_cancelled
```

- Between a `model_request_started` and its `model_request_completed` of the same `member` stand that request's deltas.
- `tool_call_started` stands before the `tool_call_completed` or `tool_call_failed` of the same id. Tools that a model asks for in
  one turn run at the same time.
- A member's events stand between its `member_run_started` and its end (`member_run_completed`, `_failed`, `_cancelled`,
  `_paused`). Members that work at the same time interleave: tell them apart by `member.run_id`. `member.parent_run_id` makes
  the tree, of which the run itself is the root.
- `EVENT_DETAIL_CONTENT` and `EVENT_DETAIL_STANDARD` (the default) leave events out; each event below says from which level on it
  is sent. Sequence numbers are those of the whole run.
"""


@dataclass(frozen=True, slots=True)
class Protos:
    """All messages and enumerations of the protos by full name, and what their comments say."""

    messages: Mapping[str, DescriptorProto]
    enums: Mapping[str, EnumDescriptorProto]
    comments: Mapping[str, str]
    """By full name of a message, field or enumeration value."""


def compiled() -> Protos:
    """What protoc makes of event.proto and of all that it imports."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "events.binpb")
        wanted = ["--include_source_info", "--include_imports", f"--descriptor_set_out={out}", EVENT_PROTO]
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *wanted]
        subprocess.run(command, check=True)  # noqa: S603 -- our own compiler, our own protos
        found = FileDescriptorSet.FromString(out.read_bytes())
    messages: dict[str, DescriptorProto] = {}
    enums: dict[str, EnumDescriptorProto] = {}
    comments: dict[str, str] = {}
    for file in found.file:
        if file.package != "dragoman.v1":
            continue
        messages |= {f".{file.package}.{message.name}": message for message in file.message_type}
        enums |= {f".{file.package}.{enum.name}": enum for enum in file.enum_type}
        comments |= _comments(file)
    return Protos(messages, enums, comments)


def _comments(file: FileDescriptorProto) -> dict[str, str]:
    """Leading comments by full name. A path is field numbers of the descriptor and positions, taken in turns."""
    found: dict[str, str] = {}
    for location in file.source_code_info.location:
        path, text = tuple(location.path), " ".join(location.leading_comments.split())
        match path:
            case (4, at):
                found[f".{file.package}.{file.message_type[at].name}"] = text
            case (4, at, 2, field):
                message = file.message_type[at]
                found[f".{file.package}.{message.name}.{message.field[field].name}"] = text
            case (5, at):
                found[f".{file.package}.{file.enum_type[at].name}"] = text
            case (5, at, 2, value):
                enum = file.enum_type[at]
                found[f".{file.package}.{enum.name}.{enum.value[value].name}"] = text
    return found


def page() -> str:
    """The whole page."""
    protos = compiled()
    envelope = protos.messages[".dragoman.v1.RunEvent"]
    events = [field for field in envelope.field if field.HasField("oneof_index")]
    parts = [INTRODUCTION, _contents(), ORDER.format(envelope=protos.comments[".dragoman.v1.RunEvent"])]
    parts.append("## Every event\nhas, besides what happened:\n")
    parts.append(
        _table(protos, ".dragoman.v1.RunEvent", [each for each in envelope.field if each not in events])
    )
    told: set[str] = set()
    for title, about, numbers in SECTIONS:
        parts.append(f"## {title}\n{about}\n" if about else f"## {title}\n")
        for field in events:
            if field.number in numbers:
                parts.append(_event(protos, field))
                told.add(field.name)
    if missing := {field.name for field in events} - told:
        raise SystemExit(f"no section for {', '.join(sorted(missing))}")
    parts.append("## Types\nWhat the events above carry.\n")
    parts += [_type(protos, name) for name in _types(protos, events)]
    return "\n".join(parts)


def _contents() -> str:
    links = [f"[{title}](#{title.lower().replace(' ', '-')})" for title, _, _ in SECTIONS]
    return " · ".join([*links, "[Types](#types)"]) + "\n"


def _event(protos: Protos, field: FieldDescriptorProto) -> str:
    """One event: when, from which level of detail on, its fields, an example."""
    level = LEVELS.get(field.name)
    when = protos.comments[f".dragoman.v1.RunEvent.{field.name}"]
    about = protos.comments[field.type_name]
    if level is None or not when or not about:
        raise SystemExit(f"{field.name} lacks a level of detail or a comment")
    lines = [f"### {field.name}", when if about in when else f"{when} {_more(about, when)}".rstrip(), ""]
    lines.append(f"Sent from `{run_service_pb2.EventDetail.Name(level)}` on.\n")
    if fields := protos.messages[field.type_name].field:
        lines.append(_table(protos, field.type_name, fields))
    if (example := _example(field.name)) is not None:
        lines.append(f"```json\n{example}\n```\n")
    return "\n".join(lines)


def _more(about: str, when: str) -> str:
    """The sentences of `about` that `when` does not have: the comments of a message and of its field overlap."""
    known = when.casefold()
    sentences = re.split(r"(?<=[.])\s+(?=[A-Z])", about)
    return " ".join(each for each in sentences if each.casefold().rstrip(".") not in known)


def _table(protos: Protos, owner: str, fields: Sequence[FieldDescriptorProto]) -> str:
    rows = ["| field | type | |", "|---|---|---|"]
    for field in fields:
        comment = protos.comments[f"{owner}.{field.name}"].replace("|", "\\|")
        choice = "one of these: " if field.HasField("oneof_index") and not field.proto3_optional else ""
        rows.append(f"| `{field.name}` | {_type_name(protos, field)} | {choice}{comment} |")
    return "\n".join(rows) + "\n"


_PLAIN = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
}


def _type_name(protos: Protos, field: FieldDescriptorProto) -> str:
    """The type as a reader knows it, with a link when it is described on this page."""
    if field.type in _PLAIN:
        name = f"`{_PLAIN[field.type]}`"
    elif field.type_name in protos.messages or field.type_name in protos.enums:
        short = field.type_name.rsplit(".", 1)[-1]
        name = f"[`{short}`](#{short.lower()})"
    else:
        name = f"`{field.type_name.lstrip('.')}`"
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {name}" if repeated else f"{name}, optional" if field.proto3_optional else name


def _types(protos: Protos, events: Sequence[FieldDescriptorProto]) -> Iterator[str]:
    """Full names of all types that the events carry, however deep, each once, by name."""
    own = {field.type_name for field in events}
    left, seen = [".dragoman.v1.RunEvent"], set()
    while left:
        name = left.pop()
        if name not in seen and (name in protos.messages or name in protos.enums):
            seen.add(name)
            left += (
                [field.type_name for field in protos.messages[name].field] if name in protos.messages else []
            )
    yield from sorted(seen - own - {".dragoman.v1.RunEvent"})


def _type(protos: Protos, name: str) -> str:
    title = f"### {name.rsplit('.', 1)[-1]}\n{protos.comments[name]}\n"
    if name in protos.messages:
        fields = protos.messages[name].field
        return f"{title}\n{_table(protos, name, fields)}" if fields else title
    rows = [
        f"| `{each.name}` | {protos.comments[f'{name}.{each.name}']} |" for each in protos.enums[name].value
    ]
    return "\n".join([title, "| value | |", "|---|---|", *rows, ""])


def _example(name: str) -> str | None:
    """The first event of its golden file, as JSON."""
    paths = [
        path
        for path in (GOLDEN / "runs" / f"{name}.textproto", GOLDEN / f"{name}.textproto")
        if path.exists()
    ]
    if not paths:
        if name in WITHOUT_EXAMPLE:
            return None
        raise SystemExit(f"no golden file has an example of {name}")
    _, first, *_ = re.split(r"^# (?!proto-).*\n", paths[0].read_text(encoding="utf-8"), flags=re.MULTILINE)
    event = text_format.Parse(first, event_pb2.RunEvent())
    values = json_format.MessageToDict(event, preserving_proto_field_name=True)
    return json.dumps(_ordered(event.DESCRIPTOR, values), indent=2, ensure_ascii=False)


def _ordered(descriptor: Descriptor, value: Any) -> Any:
    """The JSON of a message with fields in their order; what has none (maps, Struct, Any) by name, "@type" first."""
    if isinstance(value, list):
        return [_ordered(descriptor, each) for each in value]
    if not isinstance(value, dict):
        return value
    if descriptor.GetOptions().map_entry or descriptor.file.package == "google.protobuf":
        return json.loads(json.dumps(value, sort_keys=True))
    types = {field.name: field.message_type for field in descriptor.fields if field.message_type is not None}
    return {name: _ordered(types[name], each) if name in types else each for name, each in value.items()}


def data_model() -> str:
    """The page of the data model with its picture made anew; all else is as it stands there."""
    begin, end = "<!-- er: begin -->\n", "<!-- er: end -->"
    before, rest = DATA_MODEL.read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}{_picture()}{end}{rest.split(end)[1]}"


def _picture() -> str:
    """All tables with their columns, and who refers to whom, as a Mermaid diagram."""
    lines = ["```mermaid", "erDiagram"]
    for table in metadata.sorted_tables:
        for column in table.columns:
            for key in column.foreign_keys:
                many = "|o" if column.primary_key and len(table.primary_key) == 1 else "o{"
                lines.append(f"    {key.column.table.name} ||--{many} {table.name} : {column.name}")
    lines += [f"    {one} |o..o{{ {many} : {by}" for one, many, by in LOOSE]
    for table in metadata.sorted_tables:
        columns = [f"        {_column_type(column)} {column.name}{_key(column)}" for column in table.columns]
        lines += [f"    {table.name} {{", *columns, "    }"]
    return "\n".join([*lines, "```\n"])


LOOSE = (
    ("media", "message_media", "sha256"),
    ("sessions", "model_calls", "session_id"),
    ("runs", "model_calls", "root_run_id"),
    ("sessions", "requests", "session_id"),
)
"""References that no foreign key holds."""


def _column_type(column: "Column[Any]") -> str:
    return type(column.type).__name__ + ("" if column.nullable is False or column.primary_key else "_or_null")


def _key(column: "Column[Any]") -> str:
    keys = ["PK"] * column.primary_key + ["FK"] * bool(column.foreign_keys)
    return f" {', '.join(keys)}" if keys else ""


def main(arguments: Sequence[str]) -> int:
    """Writes the pages, or with `--check` tells how they differ. Returns the exit code."""
    code = 0
    for path, made in (
        (PAGE, page()),
        (DATA_MODEL, data_model()),
        (CONFIGURATION, settings_page.page()),
    ):
        if "--check" not in arguments:
            path.write_text(made, encoding="utf-8")
            continue
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if there != made:
            names = f"docs/{path.name}", "as generated"
            lines = difflib.unified_diff(there.splitlines(), made.splitlines(), *names, lineterm="", n=1)
            told = (
                f"docs/{path.name} is not what protos, golden events, tables and settings give: run make docs"
            )
            sys.stderr.write("\n".join([*list(lines)[:40], told, ""]))
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
