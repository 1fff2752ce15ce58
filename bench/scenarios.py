"""What is measured, and on whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench import clients
from bench.clients import Connect
from bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom."""

    label: str
    connect: Connect
    streams: bool = True
    """False: it has no wire worth counting."""


PEERS: Final[Mapping[str, Peer]] = MappingProxyType(
    {
        "dragoman": Peer("Dragoman, SQLite", clients.dragoman),
        "stored": Peer("AgentOS, SQLite, background", clients.stored),
        "agentos": Peer("AgentOS, no database", clients.agentos),
        "naive": Peer("naive grpc.aio", clients.naive),
        "floor": Peer("Agno alone", clients.floor, streams=False),
    }
)
"""By the name of the server's module. The first is the one that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What: one sample of it is `runs` runs, of which `at_once` are under way at the same time."""

    name: str
    work: Workload
    runs: int
    at_once: int = 1
    stagger: float = 0.0
    """Seconds between the starts of runs that are under way at the same time."""

    @property
    def deltas(self) -> int:
        """Deltas of all runs of a sample."""
        return self.runs * self.work.deltas

    @property
    def title(self) -> str:
        """What it is, in words."""
        pace = f"{self.work.rate} deltas/s each" if self.work.rate else "as fast as the model can"
        return f"{self.name}: {self.runs} runs of {self.work.deltas} deltas, {self.at_once} at a time, {pace}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    rounds: int
    scenarios: tuple[Scenario, ...]


DEFAULT: Final = Plan(
    rounds=5,
    scenarios=(
        Scenario("turn", Workload(20), runs=20),
        Scenario("burst", Workload(2000), runs=2),
        Scenario("paced", Workload(150, rate=100), runs=30, at_once=30, stagger=0.01),
    ),
)

QUICK: Final = Plan(
    rounds=2,
    scenarios=(
        Scenario("turn", Workload(20), runs=5),
        Scenario("burst", Workload(500), runs=1),
        Scenario("paced", Workload(40, rate=100), runs=10, at_once=10, stagger=0.01),
    ),
)
