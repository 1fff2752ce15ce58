"""Values against a JSON Schema: what breaks it, each with its path and a sentence without the value itself.

Schemas are those of agents (draft 2020-12, as Pydantic writes it). References stay within a schema: nothing is ever fetched.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing.jsonschema import EMPTY_REGISTRY

from dragoman.engine.ports import JsonObject
from dragoman.errors import Violation
from dragoman.transport.structs import child

MAX_VIOLATIONS: Final = 1000
"""More of one value are not looked for: no caller is told as many."""


def violations(values: JsonObject, schema: Mapping[str, Any], path: str) -> list[Violation]:
    """All that is wrong with `values`, by path, each once; `path` is that of the values themselves."""
    validator = Draft202012Validator(
        schema, registry=EMPTY_REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    found: set[Violation] = set()
    for error in validator.iter_errors(values):
        found.update(_violations(error, path))
        if len(found) >= MAX_VIOLATIONS:
            break
    # A Struct has no order of its own, and a caller should be told the same every time.
    return sorted(found, key=lambda violation: (violation.field, violation.description))


def _violations(error: ValidationError, path: str) -> Iterator[Violation]:
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else child(path, step)
    rule = str(error.validator)
    if rule == "required" and isinstance(error.instance, dict):
        missing = [name for name in cast("Any", error.validator_value) if name not in error.instance]
        yield from (Violation(child(path, name), "is required") for name in missing)
    elif (
        rule == "additionalProperties" and error.validator_value is False and isinstance(error.instance, dict)
    ):
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        more = [name for name in error.instance if name not in known]
        yield from (Violation(child(path, name), "is not a field of the schema") for name in more)
    else:
        describe = _SENTENCES.get(rule)
        text = describe(error.validator_value) if describe else f"breaks the rule {rule} of the schema"
        yield Violation(path, text)


def _types(value: Any) -> str:
    names = [value] if isinstance(value, str) else value
    return f"must be of type {' or '.join(map(str, names))}"


def _alternatives(value: Any) -> str:
    names = [option["type"] for option in value if isinstance(option, dict) and "type" in option]
    if len(names) == len(value) and all(isinstance(name, str) for name in names):
        return _types(list(dict.fromkeys(names)))
    return "is none of what the schema allows"


def _plain(value: Any) -> str:
    """As JSON; the numbers of a Struct are all floats, and whole ones are shown as such."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


_SENTENCES: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "type": _types,
        "enum": lambda value: f"must be one of {', '.join(map(_plain, value))}",
        "const": lambda value: f"must be {_plain(value)}",
        "anyOf": _alternatives,
        "oneOf": _alternatives,
        "minLength": lambda value: f"must have at least {_plain(value)} characters",
        "maxLength": lambda value: f"must have at most {_plain(value)} characters",
        "pattern": lambda value: f"must match the pattern {value}",
        "format": lambda value: f"must be a {value}",
        "minimum": lambda value: f"must be at least {_plain(value)}",
        "maximum": lambda value: f"must be at most {_plain(value)}",
        "exclusiveMinimum": lambda value: f"must be more than {_plain(value)}",
        "exclusiveMaximum": lambda value: f"must be less than {_plain(value)}",
        "multipleOf": lambda value: f"must be a multiple of {_plain(value)}",
        "minItems": lambda value: f"must have at least {_plain(value)} items",
        "maxItems": lambda value: f"must have at most {_plain(value)} items",
        "uniqueItems": lambda value: "must not repeat an item",
    }
)
