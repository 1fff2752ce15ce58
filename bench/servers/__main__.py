"""One server, until SIGTERM."""

import importlib
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from bench.meter import Meter


def main() -> None:
    """Serves what the command line names."""
    name, fd, directory = sys.argv[1:]
    server = importlib.import_module(f"bench.servers.{name}")
    server.serve(Path(directory), Meter(Connection(int(fd))).ready)


if __name__ == "__main__":
    main()
