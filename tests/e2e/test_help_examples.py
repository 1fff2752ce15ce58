"""The examples in the help of the commands can be typed as they are shown."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from dragoman.cli._server_process import server_process
from dragoman.cli.main import app

ROOT = Path(__file__).parents[2]
TREE: Any = typer.main.get_command(app)
RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def commands(command: Any = TREE) -> Iterator[Any]:
    yield command
    if isinstance(command, TyperGroup):
        for each in command.commands.values():
            yield from commands(each)


def examples() -> list[str]:
    """Every line of every help that is a command; what stands after two spaces explains it."""
    lines = [line.strip() for command in commands() for line in (command.help or "").splitlines()]
    shown = [re.split(r"\s{2,}", line)[0] for line in lines if re.match(r"(echo .* \| )?dragoman ", line)]
    return list(dict.fromkeys(shown))


KEYS = ("dragoman keys revoke", "dragoman keys rotate", "dragoman media get")


def needs_more(example: str) -> bool:
    """Whether it runs for ever, needs a database server or a key that there is, or has a test of its own."""
    return (
        example.startswith(("dragoman serve", "dragoman demo", "dragoman runs continue", *KEYS))
        or "mysql" in example
    )


@pytest.mark.parametrize("example", examples())
def test_its_options_are_accepted(example: str) -> None:
    _, *words = shlex.split(example.rpartition("| ")[2])
    command = TREE
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    # A group that does something by itself takes options, too; any other wants the name of a command.
    assert not isinstance(command, TyperGroup) or command.invoke_without_command
    command.make_context(command.name, words)


AGENTS = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

desk = Agent(name="desk", model=OfflineModel())
agents = [Agent(name="shop", model=OfflineModel())]
"""


FILES = {
    "prices.toml": "",
    "new-prices.toml": '[anthropic."claude-x"]\ninput = 1\noutput = 2\n',
    "new.toml": '[anthropic."claude-x"]\ninput = 1\noutput = 2\n',
    "new.json": '{"anthropic": {"claude-x": {"input": 1, "output": 2}}}',
    "rates.toml": "[rates.ZAR]\n2001-01-01 = 17.2\n",
    "eurofxref.csv": "Date, USD, ZAR, \n20 November 2026, 1.15, 19.8, \n",
    "eurofxref-hist.csv": "Date,USD,ZAR,\n2026-11-20,1.15,19.8,\n",
}
"""What examples take from the working directory."""


@pytest.mark.timeout(600)  # dozens of processes, one after the other
def test_they_do_what_they_say(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for folder in ("shop", "desk"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "agents.py").write_text(AGENTS)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    served = ["--agents", "examples.agents:agents", "--agents", f"{tmp_path}/shop/agents.py:agents"]
    database = f"sqlite:///{tmp_path / 'served.db'}"
    with server_process([*served, "--port", "0", "--database-url", database], tmp_path) as server:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DRAGOMAN_SERVER": server.address,
            "DRAGOMAN_AGENTS": "shop.agents:agents",
            "DRAGOMAN_DATABASE_URL": database,
            "DRAGOMAN_PRICES_FILE": "prices.toml",
            "DRAGOMAN_RATES_FILE": "rates.toml",
        }
        said, run_id = "", ""
        # Conversations first: the other commands show what came of them.
        for example in sorted(examples(), key=lambda example: "dragoman chat" not in example):
            if needs_more(example):
                continue
            line = RUN_ID.sub(run_id, example)
            done = subprocess.run(
                ["/bin/sh", "-c", line],
                input="Hello\n",
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            said += done.stdout
            found = RUN_ID.findall(done.stdout) if "runs list" in line else []
            run_id = found[0] if found else run_id
    for text in (
        '→ calculate(expression="6 * 7")',
        "calculate gave 42",
        "Ozymandias",
        "fit to be served: shop",
    ):
        assert text in said, said
