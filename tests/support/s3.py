"""A private S3 server (moto's) with a bucket."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "media"
PATIENCE = 60.0


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """The server's endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    with (directory / "s3.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            _await(endpoint, process, directory / "s3.log")
            yield endpoint
        finally:
            process.terminate()
            process.wait(30)


def objects(endpoint: str) -> list[str]:
    """The keys of all objects in the bucket."""
    with urllib.request.urlopen(f"{endpoint}/{BUCKET}?list-type=2") as answer:
        text = answer.read().decode()
    return [part.partition("</Key>")[0] for part in text.split("<Key>")[1:]]


def _await(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Makes the bucket as soon as the server answers."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the S3 server does not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)  # a process has no event to wait for
        else:
            return
