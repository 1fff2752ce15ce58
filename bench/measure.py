"""One interleaved run: in every round each peer does each scenario once, in turn, forwards and backwards.

What slows the machine for a while then hits all peers alike, and figures of one round may be divided by each other. A round
that is not counted comes first: it opens connections, creates tables and fills caches. Every text that arrives is compared
with what the model said; a peer that lost a word ends the benchmark.
"""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.clients import Ask, Delivery
from bench.meter import Reading
from bench.processes import Process, processes
from bench.scenarios import PEERS, Plan, Scenario
from bench.wire import Received

SETTLE = 0.05
"""Seconds after the last run of a sample in which a server may finish what it has put off; counted as its work."""


class TextLost(Exception):
    """A peer did not deliver what the model said."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario, once, by one peer. All figures are the server's but `first`."""

    cpu_per_delta: float
    """Seconds."""
    cpu_per_run: float
    """Seconds."""
    bytes_per_delta: float | None
    """Bytes of TCP payload from server to client. None for a peer that does not stream."""
    messages_per_delta: float | None
    first: float | None
    """Seconds until a client had the first text, the median of the sample's runs."""


@dataclass(slots=True)
class Results:
    """All samples, and the memory of each server."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """By peer and scenario, in the order of rounds."""
    idle: dict[str, Reading] = field(default_factory=dict)
    """Of servers that have started and done nothing yet."""
    done: dict[str, Reading] = field(default_factory=dict)
    """Of servers at the end."""


@dataclass(frozen=True, slots=True)
class _Bench:
    label: str
    process: Process
    ask: Ask
    streams: bool


async def measure(
    plan: Plan, names: Sequence[str] = tuple(PEERS), progress: Callable[[str], None] = lambda _: None
) -> Results:
    """Measures these peers. `progress` is told what is done next. Raises ServerFailed, TextLost."""
    results = Results()
    progress("starting servers")
    async with _benches(names) as benches:
        results.idle = {name: bench.process.read() for name, bench in benches.items()}
        progress("warming up")
        await asyncio.gather(*(_warm_up(bench, plan) for bench in benches.values()))
        for number in range(plan.rounds):
            order = list(benches) if number % 2 == 0 else list(reversed(benches))
            for scenario in plan.scenarios:
                for name in order:
                    progress(f"round {number + 1} of {plan.rounds}: {scenario.name}, {PEERS[name].label}")
                    sample = await _sample(benches[name], scenario)
                    results.samples.setdefault((name, scenario.name), []).append(sample)
        results.done = {name: bench.process.read() for name, bench in benches.items()}
    return results


@asynccontextmanager
async def _benches(names: Sequence[str]) -> AsyncIterator[dict[str, _Bench]]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dragoman-bench-")))
        servers = stack.enter_context(processes(names, directory))
        benches = {}
        for name, process in servers.items():
            peer = PEERS[name]
            ask = await stack.enter_async_context(peer.connect(process.address))
            benches[name] = _Bench(peer.label, process, ask, peer.streams)
        yield benches


async def _warm_up(bench: _Bench, plan: Plan) -> None:
    for scenario in plan.scenarios:
        await deliver(bench.ask, scenario, bench.label)


async def _sample(bench: _Bench, scenario: Scenario) -> Sample:
    received = Received(bench.process.port)
    before = bench.process.read()
    deliveries = await deliver(bench.ask, scenario, bench.label)
    await asyncio.sleep(SETTLE)
    cpu = bench.process.read().cpu - before.cpu
    return Sample(
        cpu_per_delta=cpu / scenario.deltas,
        cpu_per_run=cpu / scenario.runs,
        bytes_per_delta=received.total() / scenario.deltas if bench.streams else None,
        messages_per_delta=sum(each.messages for each in deliveries) / scenario.deltas
        if bench.streams
        else None,
        first=statistics.median(each.first for each in deliveries if each.first is not None)
        if bench.streams
        else None,
    )


async def deliver(ask: Ask, scenario: Scenario, label: str) -> list[Delivery]:
    """Does the runs of one sample with the peer of this label. Raises TextLost."""
    deliveries: list[Delivery] = []

    async def one_after_the_other(count: int, delay: float) -> None:
        await asyncio.sleep(delay)
        for _ in range(count):
            deliveries.append(await ask(scenario.work))

    each = scenario.runs // scenario.at_once
    async with asyncio.TaskGroup() as group:
        for number in range(scenario.at_once):
            group.create_task(one_after_the_other(each, number * scenario.stagger))
    expected = scenario.work.text
    for delivery in deliveries:
        if delivery.text != expected:
            came = f"{len(delivery.text)} of {len(expected)} characters"
            raise TextLost(f"{label}, {scenario.name}: {came} came")
    return deliveries
