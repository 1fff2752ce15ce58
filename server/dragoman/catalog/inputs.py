"""A caller's `inputs` as an agent's Pydantic model, and what is wrong with them as violations with paths.

`inputs` come from a protobuf Struct, where every number is a double. They are taken as the JSON that they stand for:
whole numbers become int, so that `3` suits an int field even of a strict model, and NaN and infinity are refused, as
JSON has neither. Fields that a model does not declare are refused at every level, whatever the model says.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dragoman.engine.ports import JsonObject
from dragoman.errors import InvalidInput, Violation

ModelT = TypeVar("ModelT", bound=BaseModel)

ROOT = "inputs"

_EXACT = 2**53
"""Up to here a double tells every whole number from its neighbours."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(model: type[ModelT], inputs: Mapping[str, object]) -> ModelT:
    """The inputs as `model`. Raises InvalidInput with every violation, at paths such as `inputs.topics[2].name`."""
    violations: list[Violation] = []
    document = _as_json(inputs, ROOT, violations)
    if violations:
        raise InvalidInput(violations)
    try:
        return model.model_validate_json(json.dumps(document), extra="forbid")
    except ValidationError as error:
        raise InvalidInput(violations_of(error, document)) from None


def stored(accepted: BaseModel) -> JsonObject:
    """What was accepted, as JSON by field name, defaults included: `restore` makes the same model of it."""
    return accepted.model_dump(mode="json", by_alias=False, round_trip=True)


def restore(model: type[ModelT], inputs: Mapping[str, object]) -> ModelT:
    """What `stored` gave, as `model` again.

    Fields that the model no longer has are dropped. Raises ValidationError where it does not fit for another reason:
    the model has changed, or it does not survive JSON.
    """
    document = _as_json(inputs, ROOT, [])
    return model.model_validate_json(json.dumps(document), extra="ignore", by_alias=False, by_name=True)


def violations_of(error: ValidationError, document: object) -> list[Violation]:
    """All of a validation's errors, in Pydantic's words, at the paths of the offending values in `document`."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [Violation(path(_location(detail, document)), _message(detail)) for detail in details]


def path(location: Iterable[str | int]) -> str:
    """A location below `inputs` as text: `inputs.topics[2].name`; a key that is no identifier as `inputs["a b"]`."""
    return ROOT + "".join(map(_step, location))


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _IDENTIFIER.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"


def _location(detail: ErrorDetails, document: object) -> Iterator[str | int]:
    """Pydantic's `loc` without the steps that name a branch of a union (or say `[key]`) instead of a place in the data."""
    here = document
    last = len(detail["loc"]) - 1
    for index, step in enumerate(detail["loc"]):
        if isinstance(here, dict) and step in here:
            here = here[str(step)]
            yield step
        elif isinstance(here, list) and isinstance(step, int) and 0 <= step < len(here):
            here = here[step]
            yield step
        elif index == last and detail["type"].startswith("missing"):
            yield step


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"]
    if detail["type"] == "value_error":
        message = message.removeprefix("Value error, ")
    return "is not a field of this agent's inputs" if detail["type"] in _UNDECLARED else message


_UNDECLARED = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def _as_json(value: object, at: str, violations: list[Violation]) -> object:
    match value:
        case float():
            if not math.isfinite(value):
                violations.append(Violation(at, "must be a finite number"))
            return int(value) if value.is_integer() and abs(value) <= _EXACT else value
        case Mapping():
            return {key: _as_json(item, at + _step(key), violations) for key, item in value.items()}
        case list() | tuple():
            return [_as_json(item, f"{at}[{index}]", violations) for index, item in enumerate(value)]
        case _:
            return value
