"""`python -m bench`: measures and prints. Never fails because something was slow."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import scenarios, sessions
from bench.measure import TextLost, measure
from bench.processes import ServerFailed
from bench.report import as_json, caption, sessions_as_json, tables
from bench.scenarios import PEERS


def main() -> int:
    """The exit code: 0, or 1 when a server did not start or lost text."""
    options = _options()
    console = Console(stderr=True)
    started = time.monotonic()
    try:
        with console.status("") as status:
            made = asyncio.run(_measure(options, status.update))
    except (ServerFailed, TextLost) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    out = Console(width=None if sys.stdout.isatty() else 120)
    for table in made.tables:
        out.print(table)
    out.print(caption(made.rounds), f"took {time.monotonic() - started:.0f} s", sep="\n", style="dim")
    if options.json:
        options.json.write_text(json.dumps(made.figures, indent=2) + "\n", encoding="utf-8")
    return 0


@dataclass(slots=True)
class _Made:
    rounds: int = 0
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


async def _measure(options: argparse.Namespace, progress: Callable[[str], None]) -> _Made:
    made = _Made()
    if options.only != "sessions":
        plan = scenarios.QUICK if options.quick else scenarios.DEFAULT
        plan = replace(plan, rounds=options.rounds or plan.rounds)
        results = await measure(plan, options.peers, progress)
        made.rounds = plan.rounds
        made.tables += tables(plan, results)
        made.figures |= as_json(plan, results)
    if options.only != "peers":
        sizes = sessions.QUICK if options.quick else sessions.DEFAULT
        sizes = replace(sizes, rounds=options.rounds or sizes.rounds)
        found = await sessions.measure_sessions(sizes, progress)
        made.rounds = sizes.rounds
        made.tables += sessions.session_tables(sizes, found)
        made.figures["sessions"] = sessions_as_json(sizes, found)
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What it costs a server to stream the same agent: Dragoman beside its peers, and with itself when its "
        "sessions have grown long.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs (under 40 s)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="PEER",
        help=f"only these, of {', '.join(PEERS)}; the first is what the others are compared with",
    )
    parser.add_argument("--only", choices=["peers", "sessions"], help="one half of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
