"""The demonstration ends with 0 only when everything was as it says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dragoman.cli._checks import Checks
from dragoman.cli.demo import play

ROOT = Path(__file__).parents[3]


def test_the_demo_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dragoman.cli", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "1. The agents",
        "Ozymandias",
        "→ calculate(",
        "✗ read_sensor",
        "paused: it waits for 1 answer",
        "[Researcher]",
        "checks hold",
        "ended with 0",
    ):
        assert text in done.stdout, text
    assert done.stderr == ""


def test_it_needs_the_examples(dragoman: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = dragoman("demo")
    assert result.exit_code == 2
    assert "examples/agents.py" in result.stderr
    (offered,) = [line for line in dragoman("--help").stdout.splitlines() if "dragoman demo" in line]
    assert "in the repository" in offered


async def test_a_check_that_fails_and_a_section_that_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    async def wrong(stage: Any) -> None:
        stage.checks.that("two is three", False, 2)

    async def broken(stage: Any) -> None:
        await stage.client.create_session("example")

    async def right(stage: Any) -> None:
        stage.checks.that("two is two", True)

    sections = [("Wrong", wrong), ("Broken", broken), ("Right", right)]
    assert not await play("127.0.0.1:1", sections)
    captured = capsys.readouterr()
    assert "no server answers" in captured.err
    assert "2 of 3 checks failed" in captured.out
    assert "3. Right" in captured.out
    assert await play("127.0.0.1:1", [("Right", right)])


def test_no_checks_are_no_success() -> None:
    assert not Checks().passed
