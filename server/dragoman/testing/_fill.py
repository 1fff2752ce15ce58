"""Values for a JSON schema, found in a sentence by plain rules.

`fill` reads an object schema's properties in order and looks in the text for something of each one's type: a number
that stands beside the property's name or else the next number, a quoted text, a capitalised name, an option of an
enumeration, a date. What has been used is not used again. It is a rule book, not a language model: the same text and
schema always give the same values.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as clock_time
from typing import Any

Schema = Mapping[str, Any]

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: str(value) for value, word in enumerate(re.findall(r"\w+", _NUMBER_WORDS))}

_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w|\.\d)")
QUOTED = re.compile(r"[\"“«](.+?)[\"”»]|(?<!\w)'(.+?)'(?!\w)")
"""A text in quotation marks; one of the groups is what stands between them."""
_NAME = re.compile(r"\b[A-ZÀ-Þ][\w'’-]*(?:\s+[A-ZÀ-Þ][\w'’-]*)*")
_PHRASE = re.compile(
    r"\b(?:in|for|of|at|to|about|on|from|with|that|saying|called|named)\s+(.+?)\s*[.?!]*\Z", re.IGNORECASE
)
_FORMULA = re.compile(r"(?:(?<![\w)])-)?[\d(][\d\s+*/().^%-]*[\d)]")
_FORMULA_NAMES = frozenset({"expression", "formula", "equation"})
_FORMATS = {
    "date": (re.compile(r"\b\d{4}-\d{2}-\d{2}\b"), "2000-01-01"),
    "date-time": (
        re.compile(r"\b\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:\d{2})?"),
        "2000-01-01T00:00:00Z",
    ),
    "time": (re.compile(r"\b\d{2}:\d{2}(?::\d{2})?\b"), "00:00:00"),
    "email": (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]*\w"), "someone@example.com"),
    "uri": (re.compile(r"https?://\S*\w/?"), "https://example.com/"),
    "uuid": (
        re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE),
        "00000000-0000-4000-8000-000000000000",
    ),
}
_MOMENTS: Mapping[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
    "time": clock_time.fromisoformat,
}
_NAMELIKE = frozenset(
    re.findall(r"\w+", "city name place location country person who title town author subject")
)
_OPENERS = frozenset(
    re.findall(
        r"\w+",
        "What Which Who How Is Are Tell Give Show Please Can Could Then And The A An I Look Get Find Say Ask Use Call Also",
    )
)


def takes_formula(schema: Schema) -> bool:
    """Whether the object `schema` has a text that is to be arithmetic, such as `expression`."""
    definitions = schema.get("$defs") or {}
    return any(
        _FORMULA_NAMES & set(name.lower().split("_")) and _type(_resolved(raw, definitions)) == "string"
        for name, raw in (schema.get("properties") or {}).items()
    )


MISSING: Any = object()
"""Nothing in the text fits."""


@dataclass
class Filled:
    """The values found. `complete` is False when a required one was not in the text and had to be made up."""

    values: dict[str, Any]
    complete: bool = True


def fill(schema: Schema, text: str, rest: str = "") -> Filled:
    """Values for the object `schema`, from `text`.

    A required free text that is not found becomes `rest`; what else is required and not found gets the plainest
    value that the schema allows.
    """
    source = _Source(text, schema.get("$defs") or {}, rest)
    return _object(schema, source)


@dataclass
class _Source:
    """The text, the schema's definitions, and what has been used up of the text."""

    text: str
    definitions: Schema
    rest: str
    used: list[tuple[int, int]] = field(default_factory=list)

    def take(self, pattern: re.Pattern[str], near: str = "") -> str | None:
        """The first unused match, one that touches the word `near` before all others (only such a one if `near`)."""
        for match in pattern.finditer(self.text):
            start, end = match.span()
            free = all(end <= a or start >= b for a, b in self.used)
            if free and (not near or self._touches(match, near)):
                self.used.append((start, end))
                return next((group for group in match.groups() if group), match.group())
        return None

    def _touches(self, match: re.Match[str], near: str) -> bool:
        word = re.escape(near.rstrip("s")) + "s?"
        link = r"(?:\s*[=:]\s*|\s+(?:is\s+|to\s+|of\s+|be\s+)?)"
        before = re.search(rf"\b{word}{link}\Z", self.text[: match.start()], re.IGNORECASE)
        after = re.match(rf"\s*{word}\b", self.text[match.end() :], re.IGNORECASE)
        return bool(before or after)


def _object(schema: Schema, source: _Source) -> Filled:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    result = Filled({})
    # Numbers that stand beside a name belong to it, whatever the order of the properties.
    for name, raw in properties.items():
        value = _beside(name, _resolved(raw, source.definitions), source)
        if value is not MISSING:
            result.values[name] = value
    for name, raw in properties.items():
        if name in result.values:
            continue
        wanted = name in required or not required
        kind = _resolved(raw, source.definitions)
        value = _found(name, kind, source, wanted=wanted)
        if value is MISSING and name in required and source.rest and _free(kind):
            value = _bounded(source.rest, kind)
        if value is MISSING and name in required:
            result.complete = False
            value = plainest(kind, source.definitions)
        if value is not MISSING:
            result.values[name] = value
    result.values = {name: result.values[name] for name in properties if name in result.values}
    return result


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """`schema` with references followed and the first alternative that is not null."""
    for _ in range(16):  # a reference that leads to itself ends here
        if "$ref" in schema:
            schema = {**definitions.get(str(schema["$ref"]).rsplit("/", 1)[-1], {})}
            continue
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if not options:
            break
        schema = next((option for option in options if option.get("type") != "null"), options[0])
    return schema


def _type(schema: Schema) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return str(kind)


def _free(schema: Schema) -> bool:
    """True for a string that may say anything."""
    return _type(schema) == "string" and not {"enum", "const", "format", "pattern"} & schema.keys()


def _beside(name: str, schema: Schema, source: _Source) -> Any:
    """The value that the text names outright: `days=3`, `3 days`, `city: "Rome"`."""
    spoken = name.replace("_", " ")
    if "enum" in schema or "const" in schema:
        return MISSING
    match _type(schema):
        case "integer" | "number":
            text = source.take(_NUMBER, near=spoken)
            return MISSING if text is None else _number(text, schema)
        case "string" if "format" not in schema:
            text = source.take(QUOTED, near=spoken)
            if text is None:
                text = source.take(re.compile(rf"(?<=\b{re.escape(name)}[=:])\s*([^\s,;]+)", re.IGNORECASE))
            return MISSING if text is None else _bounded(text, schema)
    return MISSING


def _found(name: str, schema: Schema, source: _Source, *, wanted: bool) -> Any:
    """A value from the text, MISSING if there is none. What is not `wanted` is taken only where it is unmistakable."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return next((option for option in schema["enum"] if _mentioned(str(option), source.text)), MISSING)
    match _type(schema):
        case "integer" | "number":
            text = source.take(_NUMBER) if wanted else None
            return MISSING if text is None else _number(text, schema)
        case "boolean":
            return _truth(name, source.text)
        case "string":
            return _string(name, schema, source, wanted=wanted)
        case "array":
            return _array(name, schema, source) if wanted else MISSING
        case "object" if wanted:
            return _object(schema, source).values
        case "null":
            return None
    return MISSING


def _mentioned(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word.replace('_', ' '))}\b", text, re.IGNORECASE) is not None


def _truth(name: str, text: str) -> Any:
    spoken = re.escape(name.replace("_", " "))
    if re.search(rf"\b(?:no|not|without)\s+(?:an?\s+|the\s+)?{spoken}\b", text, re.IGNORECASE):
        return False
    return True if _mentioned(name, text) else MISSING


def _string(name: str, schema: Schema, source: _Source, *, wanted: bool) -> Any:
    if schema.get("format") in _FORMATS:
        pattern, _ = _FORMATS[schema["format"]]
        text = source.take(pattern)
        return MISSING if text is None or not _is_moment(text, schema["format"]) else text
    text = source.take(QUOTED) if wanted else None
    if text is None and wanted:
        words = set(name.lower().split("_"))
        if words & _FORMULA_NAMES:
            text = source.take(_FORMULA)
        elif words & _NAMELIKE:
            text = _name(source)
        else:
            text = source.take(_PHRASE) or _name(source) or source.take(_NUMBER)
    return MISSING if text is None else _bounded(text.strip(), schema)


def _is_moment(text: str, kind: str) -> bool:
    """False for what looks like a date or a time but is none, such as 2025-02-30."""
    reader = _MOMENTS.get(kind)
    if reader is None:
        return True
    try:
        reader(text)
    except ValueError:
        return False
    return True


def _name(source: _Source) -> str | None:
    """The next capitalised name. A capital that merely opens the text counts only when there is no other."""
    opening: str | None = None
    while (found := source.take(_NAME)) is not None:
        words = found.split()
        while words and words[0] in _OPENERS:
            words.pop(0)
        name = re.sub(r"['’]s\Z", "", " ".join(words))
        if name and not source.text.startswith(found):
            return name
        opening = opening or name
    return opening or None


def _array(name: str, schema: Schema, source: _Source) -> Any:
    item = _resolved(schema.get("items") or {}, source.definitions)
    most = int(schema.get("maxItems", 20))
    found: list[Any] = []
    while len(found) < most:
        value = _found(name.rstrip("s"), item, source, wanted=True)
        if value is MISSING or value in found or _type(item) in ("object", "array", "boolean", "null"):
            if value is not MISSING and not found:
                found.append(value)
            break
        found.append(value)
    while len(found) < int(schema.get("minItems", 0)):
        found.append(plainest(item, source.definitions))
    return found or MISSING


def _number(text: str, schema: Schema) -> int | float:
    value = float(text)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and (value < low or ("exclusiveMinimum" in schema and value == low)):
        value = low + ("exclusiveMinimum" in schema)
    if high is not None and (value > high or ("exclusiveMaximum" in schema and value == high)):
        value = high - ("exclusiveMaximum" in schema)
    if _type(schema) == "integer" or (value.is_integer() and "." not in text):
        return int(value)
    return value


def _bounded(text: str, schema: Schema) -> str:
    longest = schema.get("maxLength")
    shortened = text if longest is None else text[: int(longest)]
    return shortened.ljust(int(schema.get("minLength", 0)), ".")


def plainest(schema: Schema, definitions: Schema) -> Any:
    """The plainest value that `schema` allows: its default, first option, lowest number, shortest text."""
    schema = _resolved(schema, definitions)
    if "default" in schema:
        return schema["default"]
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    match _type(schema):
        case "integer" | "number":
            return _number("0", schema)
        case "boolean":
            return False
        case "string":
            known = _FORMATS.get(str(schema.get("format")))
            return known[1] if known else _bounded("", schema)
        case "array":
            item = schema.get("items") or {}
            return [plainest(item, definitions) for _ in range(int(schema.get("minItems", 0)))]
        case "object":
            properties: Mapping[str, Schema] = schema.get("properties") or {}
            required = [name for name in schema.get("required") or () if name in properties]
            return {name: plainest(properties[name], definitions) for name in required}
    return None
