"""What README.md shows runs as it is shown."""

import asyncio
import os
import re
import sys
from pathlib import Path

from dragoman.cli._server_process import server_process

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


async def output_of(*arguments: str, cwd: Path) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env={**os.environ, "ANTHROPIC_API_KEY": "not-used"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_an_agent_of_ones_own_passes_the_check(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "agents.py").write_text(BLOCKS[0])
    code, out = await output_of("-m", "dragoman.cli", "agents", "check", "shop.agents:Shop", cwd=tmp_path)
    assert code == 0, out
    assert "shop" in out


async def test_the_python_client_streams(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'readme.db'}"
    arguments = ["--agents", "examples.agents:agents", "--port", "0", "--database-url", database]
    with server_process(arguments, tmp_path) as server:
        program = BLOCKS[1].replace("127.0.0.1:50051", server.address)
        code, out = await output_of("-c", program, cwd=tmp_path)
    assert code == 0, out
    assert re.search(r"Good morning!.*\n0\.\d{12} ZAR\n$", out, re.DOTALL), out
