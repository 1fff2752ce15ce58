"""What can be wrong with an agent before it is served, and where: always the author's own file and line.

All problems of all agents are gathered and told at once, so that one start shows what ten would.
"""

import inspect
import os
import sysconfig
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)

_IMPORTLIB = str(Path("importlib", "__init__.py"))


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    origin: str
    """Where the agent was asked for: the spec, or the entry point, and its place where that names several."""
    message: str
    location: Location | None = None
    """Where in the author's code; None when it is not in any."""

    def __str__(self) -> str:
        at = f"{self.location}: " if self.location else ""
        return f"{self.origin}: {at}{self.message}"


class CatalogError(Exception):
    """Some of the agents cannot be served. Its text has one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class Rejected(Exception):
    """Raised within the catalog for one agent; becomes a Problem with the origin that its raiser need not know."""

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location


def raised(doing: str, error: BaseException, within: Location | None = None) -> Rejected:
    """`error`, raised by the author's code while `doing`; `within`: where that code is, if that is known."""
    text = traceback.format_exception_only(error)[-1].strip()
    return Rejected(f"{doing} raised {text}", blame(error, within))


def blame(error: BaseException, within: Location | None = None) -> Location | None:
    """The author's line that led to `error`.

    The last line of the traceback that is neither of this package, nor of the import machinery, nor of an installed
    library; else `within`; else the last line of an installed library, for that may hold agents too. A syntax error
    has its own line.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return Location(error.filename, error.lineno)
    lines = [
        Location(frame.filename, frame.lineno or 1)
        for frame in traceback.extract_tb(error.__traceback__)
        if not _machinery(frame.filename)
    ]
    own = [line for line in lines if not line.file.startswith(_INSTALLED)]
    if own:
        return own[-1]
    return within or (lines[-1] if lines else None)


def source_of(item: Any) -> Location | None:
    """Where a class or function is written."""
    try:
        file = inspect.getsourcefile(item)
        _, line = inspect.getsourcelines(item)
    except (OSError, TypeError):
        return None
    return Location(file, line) if file else None


def _machinery(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib")) or filename.endswith(_IMPORTLIB)
