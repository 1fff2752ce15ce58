"""The catalog: from the names in the settings to agents that run.

load(specs, entry_points=True) -> Catalog       finds, checks and describes every agent, or tells all problems
Catalog.accept_session, .accept_run             a caller's inputs as the agent's own models accept them
Catalog.build                                   a fresh Agno agent for one run
"""

from collections.abc import Iterator, Sequence
from importlib import metadata

from dragoman.catalog.catalog import Catalog
from dragoman.catalog.entry import Entry, check
from dragoman.catalog.loader import find
from dragoman.catalog.problems import CatalogError, Location, Problem, Rejected

__all__ = ["ENTRY_POINTS", "Catalog", "CatalogError", "Entry", "Location", "Problem", "load"]

ENTRY_POINTS = "dragoman.agents"
"""The group in which an installed package names its agents."""


def load(specs: Sequence[str], *, entry_points: bool) -> Catalog:
    """The agents that `specs` name, as `module:attribute` or `path/to/file.py:attribute`, and those of packages.

    Raises CatalogError with everything that is wrong with any of them.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for origin, spec in _wanted(specs, entry_points):
        for result in _load(origin, spec):
            if isinstance(result, Problem):
                problems.append(result)
            elif (other := entries.get(result.name)) is not None:
                problems.append(_duplicate(result, other))
            else:
                entries[result.name] = result
    if problems:
        raise CatalogError(problems)
    return Catalog(entries.values())


def _wanted(specs: Sequence[str], entry_points: bool) -> Iterator[tuple[str, str]]:
    """Each spec with the words by which it is told apart."""
    for spec in specs:
        yield spec, spec
    if entry_points:
        for point in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
            package = f" of {point.dist.name}" if point.dist else ""
            yield f"entry point {point.name}{package} ({point.value})", point.value


def _load(origin: str, spec: str) -> Iterator[Entry | Problem]:
    try:
        found = find(spec)
    except Rejected as rejected:
        yield Problem(origin, rejected.message, rejected.location)
        return
    for item in found:
        try:
            if isinstance(item, Rejected):
                raise item
            yield check(item.agent, origin, item.location)
        except Rejected as rejected:
            yield Problem(origin, rejected.message, rejected.location)


def _duplicate(entry: Entry, other: Entry) -> Problem:
    at = f" at {other.location}" if other.location else ""
    message = f"there are two agents called {entry.name}: the other one is from {other.origin}{at}"
    return Problem(entry.origin, message, entry.location)
