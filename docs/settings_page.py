"""Makes docs/configuration.md from the settings: `docs.generate` writes it, and compares it.

The order, and the headings (comments of one line before a field), are those of config/settings.py; what a setting means is
its docstring, its type and default are what pydantic has of them, its flag is that of `dragoman serve`. Settings that are
tables follow by the classes in config/sections.py. A setting without a docstring or a heading ends this with an error.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dragoman.cli.main import app
from dragoman.config import PREFIX, SECRETS_VARIABLE, Settings

INTRODUCTION = """\
# Configuration

<!-- Written by docs/settings_page.py from server/dragoman/config: change those, then run `make docs`. -->

A setting comes from, in falling order:

1. a flag of the command; `dragoman serve --set NAME=VALUE` sets any,
2. the environment: `DRAGOMAN_<NAME>`, in capitals,
3. a file `dragoman_<name>` in the folder that `DRAGOMAN_SECRETS` names, for what orchestrators hand over as files,
4. the TOML file that `DRAGOMAN_CONFIG` names, else `dragoman.toml` in the working directory,
5. its default.

What is misspelt, unknown or out of range is refused, and all that is wrong is told at once: `dragoman doctor` looks whether
the rest of the world fits the settings. A process ends with the settings that it started with: to change one, start anew.

```toml
# dragoman.toml
host = "0.0.0.0"
auth = ["keys"]
agents = ["shop.agents:agents"]
max_run_cost = "25"

[[budgets]]
principal = "*"
period = "day"
amount = "500"
```

Lists are separated by commas in the environment, tables are JSON there. Durations are in seconds, sizes in bytes. Settings
marked *secret* are never logged; hand them over in the environment or as files rather than as flags, which all of a machine
can read.
"""

_WORDS: Mapping[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}
_BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"))


@dataclass(frozen=True, slots=True)
class _Told:
    """What the source of a class says of a field."""

    meaning: str
    heading: str
    """Under which it stands; empty before the first."""


def page() -> str:
    """The whole page."""
    told, flags = _told(Settings), _flags()
    sections: dict[str, list[str]] = {}
    for name, field in Settings.model_fields.items():
        if not told[name].heading:
            raise SystemExit(f"the setting {name} stands under no heading")
        sections.setdefault(told[name].heading, []).append(_row(name, field, told[name], flags.get(name)))
    parts = [INTRODUCTION]
    for heading, rows in sections.items():
        title, _, about = heading.partition(": ")
        link = re.search(r"\((\S+\.md)\)", title)
        if link is not None:
            title, about = title.replace(link[0], "").strip(), f"see {link[1]}"
        parts.append(f"## {title}\n")
        if about:
            linked = _linked(about)
            parts.append(f"{linked[0].upper()}{linked[1:]}.\n")
        parts.append("\n".join(["| setting | type, default | |", "|---|---|---|", *rows, ""]))
    parts.append("## Tables\n")
    parts += [_table(name, model, listed=listed) for name, model, listed in _tables(Settings)]
    parts.append(_environment())
    return "\n".join(parts)


def _environment() -> str:
    return textwrap.dedent(f"""\
        ## Other variables

        | variable | |
        |---|---|
        | `DRAGOMAN_CONFIG` | The TOML file. One that is named must exist. |
        | `{SECRETS_VARIABLE}` | The folder with files of secrets. |
        | `DRAGOMAN_SERVER` | Which server commands that are clients call; `DRAGOMAN_API_KEY`, `DRAGOMAN_TOKEN` and `DRAGOMAN_USER` say who they are, `DRAGOMAN_SERVER_CA`, `DRAGOMAN_CLIENT_CERT` and `DRAGOMAN_CLIENT_KEY` how they connect ([access.md](access.md)). |
        | `ANTHROPIC_API_KEY` | Read by the models themselves, and never by the server. |
        """)


def _row(name: str, field: FieldInfo, told: _Told, flag: str | None) -> str:
    names = [f"`{name}`", f"`{PREFIX}{name.upper()}`", *([f"`{flag}`"] if flag else [])]
    return f"| {'<br>'.join(names)} | {_kind(field)} | {_cell(told.meaning)} |"


def _kind(field: FieldInfo) -> str:
    """The type and the default, as an operator knows them."""
    kind = _type(field.annotation, field.metadata)
    secret = "" if field.repr else "<br>*secret*"
    if field.is_required():
        return f"{kind}<br>required{secret}"
    return f"{kind}<br>{_value(field.get_default(call_default_factory=True))}{secret}"


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *more = arguments
        found = [each for part in more for each in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _type(inner, [*found, *metadata])
    if origin in (Union, UnionType):
        return " or ".join(_type(each, metadata) for each in arguments if each is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0], [])}"
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    if annotation is Decimal:
        return f"amount{_bounds(metadata)}"
    return f"{_WORDS.get(annotation, 'text')}{_bounds(metadata)}"


def _bounds(metadata: list[Any]) -> str:
    found = [
        text.format(f"{bound:,}" if isinstance(bound, int) else bound)
        for each in metadata
        for name, text in _BOUNDS
        if (bound := getattr(each, name, None)) is not None
    ]
    return f" {', '.join(found)}" if found else ""


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f'`"{value}"`'
        case int() if value >= 1024 * 1024 and value % (1024 * 1024) == 0:
            return f"`{value}` ({value // (1024 * 1024)} MiB)"
        case int() | float() | Decimal():
            return f"`{value}`"
        case tuple() | list():
            return "`[" + ", ".join(f'"{each}"' for each in value) + "]`"
        case BaseModel():
            return "empty"
    return f"`{value}`"


def _cell(text: str) -> str:
    return _linked(text.replace("|", "\\|"))


def _linked(text: str) -> str:
    """With links to the pages that it names."""
    return re.sub(r"\bdocs/([\w-]+\.md)\b", r"[\1](\1)", text)


def _flags() -> dict[str, str]:
    """The flags of `dragoman serve` by the setting that each sets."""
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]  # a group
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in serve.params
        if parameter.name in Settings.model_fields
    }


def _tables(
    model: type[BaseModel], seen: set[type] | None = None
) -> Iterator[tuple[str, type[BaseModel], bool]]:
    """Name, class, and whether there may be several, of the settings that are tables, however deep; each class once."""
    seen = set() if seen is None else seen
    for name, field in model.model_fields.items():
        found, listed = _model_in(field.annotation)
        if found is not None and found not in seen:
            seen.add(found)
            yield name, found, listed
            yield from _tables(found, seen)


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    listed = get_origin(annotation) in (tuple, list)
    for argument in get_args(annotation):
        found, deeper = _model_in(argument)
        if found is not None:
            return found, listed or deeper
    return None, False


def _table(name: str, model: type[BaseModel], *, listed: bool) -> str:
    told = _told(model)
    title = f"### [[{name}]]" if listed else f"### {name}"
    about = " ".join((model.__doc__ or "").split())
    if not about:
        raise SystemExit(f"{model.__name__} has no docstring")
    rows = [
        f"| `{each}` | {_kind(field)} | {_cell(told[each].meaning)} |"
        for each, field in model.model_fields.items()
    ]
    return "\n".join(
        [title, "", _linked(about), "", "| name | type, default | |", "|---|---|---|", *rows, ""]
    )


def _told(model: type[BaseModel]) -> dict[str, _Told]:
    """What each field means, of the class and of those that it inherits from; headings are its own alone."""
    found: dict[str, _Told] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each.__module__.startswith("dragoman."):
            found |= _told_by(each)
    if missing := [name for name in model.model_fields if name not in found]:
        raise SystemExit(f"{model.__name__}: {', '.join(missing)} should have a docstring each")
    return found


def _told_by(model: type[BaseModel]) -> dict[str, _Told]:
    source = textwrap.dedent(inspect.getsource(model))
    headings = _headings(source)
    [tree] = ast.parse(source).body
    if not isinstance(tree, ast.ClassDef):
        raise SystemExit(f"{model.__name__} is no class")
    found = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                heading = next((title for line, title in reversed(headings) if line < field.lineno), "")
                found[name] = _Told(" ".join(text.split()), heading)
    return found


def _headings(source: str) -> list[tuple[int, str]]:
    """Comments of one line with an empty line before them, by their line."""
    lines = source.splitlines()
    return [
        (number, line.strip().removeprefix("# "))
        for number, line in enumerate(lines, 1)
        if line.startswith("    # ") and not lines[number - 2].strip()
    ]
