"""Agents in files, as an author would write them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

Writer = Callable[[str, str], Path]

HEADER = """\
from agno.agent import Agent
from pydantic import BaseModel
from dragoman.agents import BaseAgent
from dragoman.testing.offline import OfflineModel
MODEL = OfflineModel(delay=0)
"""
"""Five lines, so what a test adds begins at line 6."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Writes `source`, after HEADER, to a file in the working directory. What was imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write_file(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + dedent(source).lstrip("\n"))
        return path

    yield write_file
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
