"""The figures of a run, as tables for people and as JSON for machines."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from rich.table import Table

from bench.measure import Results, Sample
from bench.scenarios import PEERS, Plan, Scenario
from bench.sessions import SessionPlan, SessionResults

PACKAGES: Final = ("dragoman", "agno", "grpcio", "protobuf", "fastapi", "uvicorn", "httptools", "uvloop")

Figure = Callable[[Sample], float | None]

COLUMNS: Final[Mapping[str, tuple[Figure, int]]] = {
    "CPU/delta\nµs": (lambda sample: _times(sample.cpu_per_delta, 1e6), 1),
    "CPU/run\nms": (lambda sample: _times(sample.cpu_per_run, 1e3), 2),
    "bytes/\ndelta": (lambda sample: sample.bytes_per_delta, 1),
    "messages/\ndelta": (lambda sample: sample.messages_per_delta, 3),
    "first text\nms": (lambda sample: _times(sample.first, 1e3), 1),
}
"""Heading -> the figure in the heading's unit, and its decimals."""


def tables(plan: Plan, results: Results) -> list[Table]:
    """A table per scenario, then one of memory. Medians over the rounds, with the lowest and the highest."""
    return [*(_scenario(scenario, results) for scenario in plan.scenarios), _memory(results)]


def sessions_as_json(plan: SessionPlan, results: SessionResults) -> dict[str, Any]:
    """Everything that was measured of long sessions, in seconds, sample by sample."""
    return {
        "machine": machine(),
        "plan": asdict(plan),
        "turns": {
            str(length): [asdict(sample) for sample in samples] for length, samples in results.turns.items()
        },
        "pages": results.pages,
    }


def as_json(plan: Plan, results: Results) -> dict[str, Any]:
    """Everything that was measured, in seconds and bytes, sample by sample."""
    return {
        "machine": machine(),
        "plan": asdict(plan),
        "samples": [
            {"peer": peer, "scenario": scenario, "rounds": [asdict(sample) for sample in samples]}
            for (peer, scenario), samples in results.samples.items()
        ],
        "memory": {
            peer: {"idle": results.idle[peer].rss, "done": results.done[peer].rss} for peer in results.done
        },
    }


def caption(rounds: int) -> str:
    """How to read the tables, and what they were measured with."""
    here = machine()
    packages = ", ".join(f"{name} {number}" for name, number in here["packages"].items())
    return (
        f"The median of {rounds} rounds, and below it the lowest and the highest. CPU is the server's, ratios "
        f"are of the same round.\n{here['cores']} cores, {here['system']}, Python {here['python']}, {packages}"
    )


def machine() -> dict[str, Any]:
    """What it was measured on and with."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def ratios(samples: Sequence[Sample], base: Sequence[Sample]) -> list[float]:
    """CPU per delta beside that of `base`, round by round."""
    return [one.cpu_per_delta / other.cpu_per_delta for one, other in zip(samples, base, strict=True)]


def _scenario(scenario: Scenario, results: Results) -> Table:
    table = Table(title=scenario.title, title_justify="left", title_style="bold")
    table.add_column("peer", no_wrap=True)
    table.add_column("CPU\nratio", justify="right", no_wrap=True)
    for heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    by_peer = {peer: samples for (peer, of), samples in results.samples.items() if of == scenario.name}
    base = by_peer[next(iter(results.done))]
    for peer in results.done:
        samples = by_peer[peer]
        figures = [_cell([read(sample) for sample in samples], digits) for read, digits in COLUMNS.values()]
        table.add_row(PEERS[peer].label, _cell(ratios(samples, base), 2), *figures)
    return table


def _memory(results: Results) -> Table:
    table = Table(title="memory of the server process, MiB", title_justify="left", title_style="bold")
    table.add_column("peer", no_wrap=True)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for peer, done in results.done.items():
        table.add_row(PEERS[peer].label, f"{results.idle[peer].rss / 2**20:.0f}", f"{done.rss / 2**20:.0f}")
    return table


def _times(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def _cell(values: Sequence[float | None], digits: int) -> str:
    """The median, and below it the lowest and the highest; a dash for what a peer does not have."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle = f"{statistics.median(known):.{digits}f}"
    low, high = f"{min(known):.{digits}f}", f"{max(known):.{digits}f}"
    return middle if low == high else f"{middle}\n[dim]{low}-{high}[/dim]"
