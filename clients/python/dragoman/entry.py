"""The console script `dragoman`. It is part of the base install, so that it can say what is missing."""

import sys
from importlib import import_module

USAGE = 2
"""Exit code: the command cannot be run as it was given."""


def main() -> None:
    """Runs the command line; without the `server` extra, tells how to install it and exits with 2."""
    try:
        # By name: the client may not depend on the server's rooms.
        command = import_module("dragoman.cli.main")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "dragoman":
            raise  # a defect of ours, not a missing package
        sys.stderr.write(
            f"dragoman: the command line needs the server's packages ({error.name} is missing); install them with\n\n"
            '    pip install "dragoman[server]"\n'
        )
        sys.exit(USAGE)
    command.main()
