"""All demonstrations, one after the other, on one server: `python -m examples.demos`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from examples.demos import (
    events,
    inspection,
    people,
    picture,
    streaming,
    team_delegation,
    team_events,
    team_messages,
    team_picture,
    tokens,
    tools,
)
from examples.demos.stage import Demo, perform

DEMOS: Sequence[tuple[str, Demo]] = tuple(
    (module.TITLE, module.play)
    for module in (
        *(streaming, events, tools, inspection, picture, tokens, people),
        *(team_delegation, team_events, team_messages, team_picture),
    )
)

if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Plays all demonstrations.")
    options.add_argument("--server", metavar="HOST:PORT", default="", help="a server with the example agents")
    sys.exit(0 if asyncio.run(perform(DEMOS, options.parse_args().server)) else 1)
