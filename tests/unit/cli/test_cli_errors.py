"""Help teaches, errors are sentences, and exit codes tell which."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli_server import RUN_ID

COMMANDS = (
    (),
    ("serve",),
    ("migrate",),
    ("agents", "list"),
    ("agents", "check"),
    ("chat",),
    ("runs", "list"),
    ("runs", "show"),
    ("runs", "attach"),
    ("runs", "continue"),
    ("runs", "cancel"),
    ("usage",),
    ("demo",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples(dragoman: Any, command: tuple[str, ...]) -> None:
    result = dragoman(*command, "--help")
    assert result.exit_code == 0
    examples = [line for line in result.stdout.splitlines() if line.strip(" │").startswith("dragoman ")]
    assert examples or "| dragoman" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), 0),
        (("nothing",), 2),
        (("chat",), 2),
        (("runs", "list", "--limit", "0"), 2),
        (("runs", "list", "--status", "odd"), 2),
        (("chat", "example", "--input", "novalue"), 2),
        (("chat", "example", "--max-cost", "much"), 2),
        (("chat", "example", "--conflict", "odd"), 2),
        (("runs", "continue", RUN_ID), 2),
        (("runs", "continue", RUN_ID, "--input", "r1=3"), 2),
        (("runs", "continue", RUN_ID, "--choose", 'r1={"q": 3}'), 2),
        (("serve", "--set", "port"), 2),
        (("usage", "--server", "127.0.0.1:1"), 1),
    ],
)
def test_exit_codes(dragoman: Any, arguments: tuple[str, ...], code: int) -> None:
    result = dragoman(*arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.output


def test_no_server(dragoman: Any) -> None:
    result = dragoman("runs", "show", RUN_ID, "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no server answers")
    assert "dragoman serve" in result.stderr


def test_the_server_may_come_from_the_environment(
    services: Any, dragoman: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_SERVER", services.address)
    assert dragoman("runs", "list").exit_code == 0
    assert len(services.requests) == 1


def test_debug_shows_the_traceback(dragoman: Any) -> None:
    result = dragoman("--debug", "usage", "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "Unavailable"


def test_a_defect_is_called_one(dragoman: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise KeyError(text)

    monkeypatch.setattr("dragoman.cli.usage.dimensions", broken)
    result = dragoman("usage")
    assert result.exit_code == 1
    assert "this should not happen (KeyError)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--port", "99999"), "port: "),
        (("--host", "0.0.0.0"), "host: "),
        (("--currency", "rand"), "currency: "),
        (("--set", "colour=blue"), "colour: "),
        (("--set", "lease=soon", "--log-level", "LOUD"), "log_level: "),
    ],
)
def test_serve_tells_which_setting_is_wrong(dragoman: Any, arguments: tuple[str, ...], told: str) -> None:
    result = dragoman("serve", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the settings are not valid:\n")
    assert f"\n  {told}" in result.stderr


def test_settings_never_show_a_password(dragoman: Any) -> None:
    result = dragoman("serve", "--database-url", "mysql+pymysql://u:hunter2@h/d", "--port", "-1")
    assert result.exit_code == 2
    assert "hunter2" not in result.output


def test_a_config_file_that_is_missing(
    dragoman: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DRAGOMAN_CONFIG", str(tmp_path / "no.toml"))
    result = dragoman("serve")
    assert result.exit_code == 2
    assert "no.toml" in result.stderr


@pytest.mark.parametrize("errors_too", [False, True], ids=["output", "output and errors"])
@pytest.mark.parametrize(
    "arguments", [("agents", "check", "agents.py:desk"), ("demo", "--server", "127.0.0.1:1")]
)
def test_whoever_reads_may_go(tmp_path: Path, arguments: tuple[str, ...], errors_too: bool) -> None:
    """As with `| head`: no traceback, no word of a defect, and the exit code that a shell expects."""
    (tmp_path / "agents.py").write_text(
        "from agno.agent import Agent\nfrom dragoman.testing.offline import OfflineModel\n"
        'desk = Agent(name="desk", model=OfflineModel())\n'
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "dragoman.cli", *arguments],
            stdout=gone,
            stderr=gone if errors_too else subprocess.PIPE,
            cwd=tmp_path,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, None if errors_too else b"")


def test_a_pipe_that_breaks_below_a_command(dragoman: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("dragoman.cli.usage.dimensions", broken)
    result = dragoman("usage")
    assert (result.exit_code, result.output) == (141, "")


def test_help_imports_nothing_heavy() -> None:
    """In a fresh process: what makes a command slow is imported only by the command that needs it."""
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom dragoman.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'agno', 'anthropic', 'grpc', 'sqlalchemy', 'pydantic', 'google'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
