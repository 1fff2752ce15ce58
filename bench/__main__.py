"""`python -m bench`: measures and prints. Never fails because something was slow."""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.measure import TextLost, measure
from bench.processes import ServerFailed
from bench.report import as_json, caption, tables
from bench.scenarios import DEFAULT, PEERS, QUICK


def main() -> int:
    """The exit code: 0, or 1 when a peer did not start or lost text."""
    options = _options()
    plan = QUICK if options.quick else DEFAULT
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    console = Console(stderr=True)
    started = time.monotonic()
    try:
        with console.status("") as status:
            results = asyncio.run(measure(plan, options.peers, status.update))
    except (ServerFailed, TextLost) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    out = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables(plan, results):
        out.print(table)
    out.print(caption(plan), f"took {time.monotonic() - started:.0f} s", sep="\n", style="dim")
    if options.json:
        options.json.write_text(json.dumps(as_json(plan, results), indent=2) + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What it costs a server to stream the same agent: Dragoman beside its peers.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs (under 20 s)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS),
        default=list(PEERS),
        metavar="PEER",
        help=f"only these, of {', '.join(PEERS)}; the first is what the others are compared with",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
