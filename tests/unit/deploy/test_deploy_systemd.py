"""deploy/systemd: a unit that systemd accepts, that shuts the server in, and that waits for its drain."""

import subprocess
from pathlib import Path

from support.debian import find_or_install
from support.deployment import DEPLOY, parse, settings_of, time_to_stop

PATH = DEPLOY / "systemd" / "dragoman.service"
TEXT = PATH.read_text()


def values(name: str) -> list[str]:
    return [line.partition("=")[2] for line in TEXT.splitlines() if line.startswith(f"{name}=")]


def test_systemd_accepts_it(tmp_path: Path) -> None:
    analyse = find_or_install("systemd", "systemd-analyze")
    # It looks for the programs: some that every machine has stand in.
    unit = tmp_path / "dragoman.service"
    unit.write_text(TEXT.replace("/opt/dragoman/bin/dragoman", "/bin/true"))
    done = subprocess.run(
        [analyse, "verify", "--man=no", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_may_do_little() -> None:
    analyse = find_or_install("systemd", "systemd-analyze")
    # Tenths: 2.0 of 10 is what systemd calls OK; a unit that says nothing has 9.6.
    done = subprocess.run(
        [analyse, "security", "--offline=true", "--threshold=20", "--no-pager", PATH],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_it_gives_the_server_files_and_time_to_drain() -> None:
    settings = settings_of((DEPLOY / "dragoman.toml").read_text())
    (seconds,) = values("TimeoutStopSec")
    assert float(seconds) > time_to_stop(settings)
    (files,) = values("LimitNOFILE")
    assert int(files) > settings.max_connections
    # SIGTERM is for the supervisor alone, which tells its workers.
    assert values("KillMode") == ["mixed"]


def test_its_commands_are_commands_of_ours() -> None:
    for line in (*values("ExecStartPre"), *values("ExecStart")):
        program, *arguments = line.split()
        assert program == "/opt/dragoman/bin/dragoman"
        parse(arguments)
    assert values("ExecStartPre")[0].endswith(" migrate")


def test_credentials_are_secrets_of_settings() -> None:
    (credential,) = values("LoadCredential")
    name, _, path = credential.partition(":")
    assert name.removeprefix("dragoman_") in type(settings_of("")).model_fields
    assert Path(path).name == name
    assert "DRAGOMAN_SECRETS=%d" in values("Environment")
    assert f"install -D -m 600 /dev/stdin {path}" in TEXT
