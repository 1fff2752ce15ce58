"""What lies in deploy/, read as its users' tools read it: manifests rendered, files of settings loaded, commands parsed."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer.main
import yaml

from dragoman.cli.main import app
from dragoman.config import Settings
from dragoman.process import LAST_BREATH, LAST_WORDS
from dragoman.transport.server import UNWIND

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = ("kubernetes/base", "kubernetes/overlays/example", "istio")
"""What `kubectl apply -k` is given."""

LAST = LAST_WORDS + UNWIND + LAST_BREATH
"""Seconds that a process may take to end when its runs have."""


def tool(name: str) -> str:
    """A program that a package of the developers' environment brings."""
    return str(Path(sys.executable).parent / name)


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    """The manifests that a kustomization makes."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", DEPLOY / overlay],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(manifests: tuple[dict[str, Any], ...], kind: str, name: str = "") -> dict[str, Any]:
    """The only manifest of a kind (and a name)."""
    found = [each for each in manifests if each["kind"] == kind and name in ("", each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def settings_of(toml: str, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that a process with this file and these variables would have. Raises what it would."""
    values = tomllib.loads(toml)
    wanted = {name: value for name, value in (environment or {}).items() if name not in _PLACES}
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("DRAGOMAN_")}
    with patch.dict(os.environ, {**others, **wanted}, clear=True):
        # Variables win over the file: what they say is not handed over from it.
        return Settings(
            **{name: value for name, value in values.items() if f"DRAGOMAN_{name.upper()}" not in wanted}
        )


_PLACES = ("DRAGOMAN_CONFIG", "DRAGOMAN_SECRETS")


def time_to_stop(settings: Settings) -> float:
    """Seconds that a process with these settings may take to end after SIGTERM."""
    return settings.drain_delay + settings.drain_grace + LAST


def parse(arguments: list[str]) -> None:
    """Takes a command line of `dragoman` apart as the program does, and does nothing. Raises what it would."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("dragoman", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def seconds(text: str) -> float:
    """`90s`, `0.1s`: as Envoy, Istio and Compose write it here."""
    assert text.endswith("s"), text
    return float(text.removesuffix("s"))
