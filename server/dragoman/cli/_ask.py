"""What a paused run waits for, asked on the terminal: question by question, an answer to a line.

An answer that makes no sense is asked for again. What the agent's own schema says of the values is checked by the
server. Answers also come from a pipe, a line each; when there are no more lines, the run stays paused.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from google.protobuf import json_format
from rich.console import Console

from dragoman.cli._console import clean, shorten
from dragoman.cli._printer import arguments
from dragoman.client import choose, confirm, give_result, provide_input, reject
from dragoman.v1 import event_pb2, run_service_pb2

Read: TypeAlias = Callable[[str], str | None]
"""Prompts for a line and returns it; None when there are no more."""


class NoAnswer(Exception):
    """There are no more lines."""


def ask(
    console: Console, requirements: Iterable[event_pb2.Requirement], read: Read
) -> list[run_service_pb2.Resolution] | None:
    """An answer to each requirement; None when the lines end before that."""
    try:
        return [_resolve(console, requirement, read) for requirement in requirements]
    except NoAnswer:
        return None


def _resolve(console: Console, requirement: event_pb2.Requirement, read: Read) -> run_service_pb2.Resolution:
    console.print(f"  ? {call_text(requirement)}", style="yellow", soft_wrap=True)
    match requirement.WhichOneof("need"):
        case "user_input":
            schema = json_format.MessageToDict(requirement.user_input.schema)
            return provide_input(requirement, _fields(console, schema, read))
        case "external_execution":
            return give_result(requirement, _line(read, "its result: "))
        case "user_feedback":
            questions = requirement.user_feedback.questions
            return choose(requirement, {each.question: _choice(console, each, read) for each in questions})
        case _:
            return _confirmation(console, requirement, read)


def call_text(requirement: event_pb2.Requirement) -> str:
    """`critic: refund(amount=3)`: the tool call that waits, and the member whose it is."""
    member = f"{clean(requirement.member.agent_name)}: " if requirement.HasField("member") else ""
    return f"{member}{clean(requirement.tool_call.name)}({arguments(requirement.tool_call.arguments)})"


def _line(read: Read, prompt: str) -> str:
    line = read(prompt)
    if line is None:
        raise NoAnswer
    return line.strip()


def _confirmation(
    console: Console, requirement: event_pb2.Requirement, read: Read
) -> run_service_pb2.Resolution:
    while True:
        word, _, note = _line(read, "call it? (yes, or no and why) ").partition(" ")
        match word.lower().rstrip(",:"):
            case "y" | "yes":
                return confirm(requirement)
            case "n" | "no":
                return reject(requirement, note.strip())
            case _:
                console.print('  answer "yes", "no", or "no" and a reason', style="dim")


def _fields(console: Console, schema: Mapping[str, object], read: Read) -> dict[str, object]:
    """A value for each field of an object's schema; an empty line leaves an optional one out.

    Those that are required come first, each kind by name: a Struct does not keep the order in which they were declared.
    """
    properties, required = schema.get("properties"), schema.get("required")
    fields = properties if isinstance(properties, dict) else {}
    names = set(required) if isinstance(required, list) else set()
    values: dict[str, object] = {}
    for name in sorted(fields, key=lambda name: (name not in names, name)):
        field, needed = fields[name], name in names
        while True:
            text = _line(read, _field_prompt(name, field, needed))
            if not text and not needed:
                break
            try:
                values[name] = _value(text, field)
            except ValueError:
                console.print(f"  that is no {_type(field)}", style="dim")
            else:
                break
    return values


def _field_prompt(name: str, field: object, needed: bool) -> str:
    about = [_type(field)] if _type(field) else []
    if isinstance(field, dict):
        if isinstance(field.get("enum"), list):
            about.append(" | ".join(shorten(str(each)) for each in field["enum"]))
        if field.get("description"):
            about.append(shorten(str(field["description"])))
    if not needed:
        about.append("may be left empty")
    return f"{clean(name)} ({', '.join(about)}): " if about else f"{clean(name)}: "


def _type(field: object) -> str:
    kind = field.get("type", "") if isinstance(field, dict) else ""
    return kind if isinstance(kind, str) else ""


def _value(text: str, field: object) -> object:
    """The text itself for a field of text, else the JSON in it. Raises ValueError."""
    kind = _type(field)
    if kind == "string":
        return text
    try:
        value: object = json.loads(text)
    except ValueError:
        if kind:
            raise
        return text
    return value


def _choice(console: Console, question: event_pb2.UserQuestion, read: Read) -> list[str]:
    """The labels that are chosen, by number or word for word."""
    labels = [option.label for option in question.options]
    console.print(f"  {shorten(question.question)}")
    for number, option in enumerate(question.options, 1):
        about = f": {shorten(option.description)}" if option.description else ""
        console.print(f"    {number}. {shorten(option.label)}{about}")
    prompt = "numbers, with commas: " if question.multi_select else "number: "
    while True:
        line = _line(read, prompt)
        words = [line] if line in labels or not question.multi_select else line.split(",")
        chosen = [_label(word.strip(), labels) for word in words]
        if all(chosen):
            return [label for label in chosen if label]
        console.print("  choose by number", style="dim")


def _label(word: str, labels: list[str]) -> str | None:
    if word in labels:
        return word
    return labels[int(word) - 1] if word.isdecimal() and 0 < int(word) <= len(labels) else None
