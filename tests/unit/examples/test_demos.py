"""Every demonstration holds on a real server with the offline model, and says so when it does not hold."""

import io
import pkgutil
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from dragoman.catalog import load
from dragoman.testing.serving import Serving, serving
from examples import demos
from examples.agents import agents
from examples.demos import __main__ as everything
from examples.demos import streaming
from examples.demos.stage import Demo, Stage, perform

ROOT = Path(__file__).parents[3]
SHARED = {"__main__", "stage"}


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server with the examples."""
    async with serving(*agents) as made:
        yield made


async def shown(title: str, play: Demo, server: Serving) -> tuple[bool, str]:
    """Whether it held, and what it showed."""
    console = Console(file=io.StringIO(), width=200)
    held = await perform([(title, play)], server.server.info.address, console)
    assert isinstance(console.file, io.StringIO)
    return held, console.file.getvalue()


@pytest.mark.parametrize(
    ("title", "play"),
    everything.DEMOS,
    ids=[play.__module__.rsplit(".", 1)[-1] for _, play in everything.DEMOS],
)
async def test_it_holds_and_ends_in_a_table(title: str, play: Demo, server: Serving) -> None:
    held, text = await shown(title, play, server)
    assert held, text
    assert title in text
    assert text.count("┏") == 2, "its own table, and that of the checks"
    assert re.search(r"all \d+ checks hold", text)


def test_all_of_them_are_played() -> None:
    names = {module.name for module in pkgutil.iter_modules(demos.__path__)} - SHARED
    assert {play.__module__.rsplit(".", 1)[-1] for _, play in everything.DEMOS} == names
    assert len(names) == len(everything.DEMOS) == 11


def test_the_page_of_examples_lists_all_of_them() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    listed = {
        name
        for name, file in re.findall(r"^\| \[(\w+)\]\(demos/(\w+)\.py\)", page, re.MULTILINE)
        if name == file
    }
    assert listed == {play.__module__.rsplit(".", 1)[-1] for _, play in everything.DEMOS}
    served = {entry.name for entry in load(["examples.agents:agents"], entry_points=False).entries}
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == served
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (ROOT / "examples" / link).resolve().is_file(), link


async def test_a_check_that_fails_and_one_that_breaks(
    server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong(stage: Stage) -> Table:
        stage.checks.that("two is three", False, 2)
        return Table()

    async def broken(stage: Stage) -> Table:
        await stage.client.get_agent("nobody")
        return Table()

    held, text = await shown("Wrong", wrong, server)
    assert not held
    assert "1 of 1 checks failed" in text
    held, text = await shown("Broken", broken, server)
    assert not held
    assert "runs through" in text
    assert "AGENT_NOT_FOUND" in capsys.readouterr().err


def test_it_is_a_program_with_a_server_of_its_own() -> None:
    done = _program()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A server of its own" in done.stdout
    assert streaming.TITLE in done.stdout
    assert done.stderr == ""


def test_without_what_it_shows_it_ends_with_an_error() -> None:
    done = _program("--server", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no server answers" in done.stderr
    assert "checks failed" in done.stdout


def _program(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "examples.demos.streaming", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
