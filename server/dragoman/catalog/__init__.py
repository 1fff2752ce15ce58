"""The catalog: from the names in the settings to agents that run.

load(specs, entry_points=True) -> Catalog       finds, checks and describes every agent, or tells all problems
Catalog.accept_session, .accept_run             a caller's inputs as the agent's own models accept them
Catalog.build                                   a fresh Agno agent for one run
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata

from dragoman.catalog.catalog import Catalog
from dragoman.catalog.entry import Entry, check
from dragoman.catalog.loader import Found, find, found
from dragoman.catalog.problems import CatalogError, Location, Problem, Rejected

__all__ = ["ENTRY_POINTS", "Catalog", "CatalogError", "Entry", "Location", "Problem", "load"]

ENTRY_POINTS = "dragoman.agents"
"""The group in which an installed package names its agents."""


def load(specs: Sequence[str], *, entry_points: bool, objects: Sequence[object] = ()) -> Catalog:
    """The agents that `specs` name, as `module:attribute` or `path/to/file.py:attribute`, and those of packages.

    `objects` are agents that are at hand, in any form that an attribute may have. Raises CatalogError with everything
    that is wrong with any of them.
    """
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    wanted = [(origin, partial(find, spec)) for origin, spec in _wanted(specs, entry_points)]
    wanted += [(f"agents[{index}]", partial(found, item, "it")) for index, item in enumerate(objects)]
    for origin, look in wanted:
        for result in _load(origin, look):
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


def _load(origin: str, look: Callable[[], list[Found | Rejected]]) -> Iterator[Entry | Problem]:
    try:
        items = look()
    except Rejected as rejected:
        yield Problem(origin, rejected.message, rejected.location)
        return
    for index, item in enumerate(items):
        # All of a list may have one line: what tells them apart is their place in it.
        place = f"{origin}[{index}]" if len(items) > 1 else origin
        try:
            if isinstance(item, Rejected):
                raise item
            yield check(item.agent, place, item.location)
        except Rejected as rejected:
            yield Problem(place, rejected.message, rejected.location)


def _duplicate(entry: Entry, other: Entry) -> Problem:
    at = f" at {other.location}" if other.location else ""
    message = f"there are two agents called {entry.name}: the other one is from {other.origin}{at}"
    return Problem(entry.origin, message, entry.location)
