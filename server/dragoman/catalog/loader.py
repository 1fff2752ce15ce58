"""Finds what a spec names: `module:attribute`, `path/to/file.py:attribute`, or an installed entry point.

The working directory is on the import path, as it is for `python -m`; a file's own directory as for `python file.py`.
The attribute may be a BaseAgent or BaseTeam (class or instance), an Agno Agent or Team, a list of these, or a function
without arguments that returns any of them; the function is called once.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from agno.agent import Agent
from agno.team import Team

from dragoman.agents.base import Served
from dragoman.catalog.plain import PlainAgent, PlainTeam
from dragoman.catalog.problems import Location, Rejected, blame, raised, source_of

_EXPECTED = (
    "expected a BaseAgent or BaseTeam, an Agno Agent or Team, a list of them, or a function without arguments that "
    "returns them"
)


@dataclass(frozen=True, slots=True)
class Found:
    """An agent or team, and where its author wrote it."""

    agent: Served[Any, Any]
    location: Location | None


def find(spec: str) -> list[Found | Rejected]:
    """What the spec names, in order; what of a list cannot be served is in it as Rejected. Raises Rejected."""
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute or place.endswith(":"):
        raise Rejected("a spec is written module:attribute or path/to/file.py:attribute")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    value = _attribute(module, attribute)
    location = _line_of(module, attribute)
    return list(_agents(value, attribute, location))


def found(value: object, name: str) -> list[Found | Rejected]:
    """What an object that is at hand stands for: as if a spec had named it."""
    return list(_agents(value, name, None))


def _module(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _import_failed(error, name) from error


def _file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise Rejected(f"there is no file {path}")
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    _make_importable(path.parent)
    source = importlib.util.spec_from_file_location(name, path)
    if source is None or source.loader is None:
        raise Rejected(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(source)
    sys.modules[name] = module  # before it runs: Pydantic and dataclasses look their module up there
    try:
        source.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(error, str(path)) from error
    return module


def _make_importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _import_failed(error: BaseException, name: str) -> Rejected:
    if isinstance(error, ModuleNotFoundError):
        location = blame(error)
        if location is not None:
            return Rejected(f"imports {error.name}, which is not installed", location)
        return Rejected(_not_found(name, error.name or name))
    return raised("importing it", error)


def _not_found(name: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    if not parent:
        return f"there is no module {missing}; it is neither installed nor in {Path.cwd()}"
    if missing == name or name.startswith(f"{missing}."):
        return f"there is no module {last} in {parent}"
    return f"there is no module {missing}"


def _attribute(module: ModuleType, attribute: str) -> object:
    value: object = module
    for name in attribute.split("."):
        names = [other for other in dir(value) if not other.startswith("_")]
        try:
            value = getattr(value, name)
        except AttributeError:
            holder = "the module" if value is module else attribute.rpartition(".")[0]
            close = difflib.get_close_matches(name, names, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            file = getattr(module, "__file__", None)
            raise Rejected(f"{holder} has no {name}{hint}", Location(file, 1) if file else None) from None
    return value


def _agents(value: object, name: str, location: Location | None) -> Iterator[Found | Rejected]:
    try:
        if inspect.isroutine(value):
            location = source_of(value) or location
            value, name = _called(value, name, location), f"{name}()"
        if isinstance(value, list | tuple):
            if not value:
                yield Rejected(f"{name} is empty", location)
            for index, item in enumerate(value):
                yield _one(item, f"{name}[{index}]", location)
        else:
            yield _one(value, name, location)
    except Rejected as rejected:
        yield rejected


def _one(value: object, name: str, location: Location | None) -> Found | Rejected:
    try:
        if isinstance(value, type) and issubclass(value, Served):
            return Found(_instance(value), source_of(value))
        if isinstance(value, Served):
            return Found(value, source_of(type(value)) or location)
        if isinstance(value, Agent):
            return Found(PlainAgent(value), location)
        if isinstance(value, Team):
            return Found(PlainTeam(value), location)
    except Rejected as rejected:
        return rejected
    what = f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"
    return Rejected(f"{name} is {what}; {_EXPECTED}", location)


def _instance(agent: type[Served[Any, Any]]) -> Served[Any, Any]:
    location = source_of(agent)
    if inspect.isabstract(agent):
        missing = ", ".join(sorted(agent.__abstractmethods__))
        raise Rejected(f"{agent.__name__} does not define {missing}", location)
    try:
        return agent()
    except Exception as error:
        raise raised(f"{agent.__name__}()", error, location) from error


def _called(factory: Callable[..., object], name: str, location: Location | None) -> object:
    if inspect.iscoroutinefunction(factory):
        raise Rejected(f"{name} is an async function; a factory must be an ordinary one", location)
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise Rejected(f"{name} must be callable without arguments: {error}", location) from None
    try:
        return factory()
    except Exception as error:
        raise raised(f"{name}()", error, location) from error


def _line_of(module: ModuleType, attribute: str) -> Location | None:
    """Where the module assigns, defines or imports the attribute; its first line where that cannot be told."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    name = attribute.split(".")[0]
    try:
        body = ast.parse(inspect.getsource(module)).body
    except (OSError, TypeError, SyntaxError):
        return Location(file, 1)
    for statement in reversed(body):
        if name in _bound_by(statement):
            return Location(file, statement.lineno)
    return Location(file, 1)


def _bound_by(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.Assign():
            return {target.id for target in statement.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import() | ast.ImportFrom():
            return {alias.asname or alias.name for alias in statement.names}
        case _:
            return set()
