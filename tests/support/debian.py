"""Servers that tests need beside ours, as Debian packages them: found, or installed where that is possible.

    program = find_or_install("haproxy", "haproxy")

Only root on a system with apt-get can install; the package's own system service is kept from starting. Everywhere else
`PackageMissing` says what to install.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_POLICY = Path("/usr/sbin/policy-rc.d")


class PackageMissing(RuntimeError):
    """A program is not on this machine, and could not be installed."""


def find_or_install(package: str, program: str) -> Path:
    """The path of a program. Raises PackageMissing."""
    found = _find(program)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with (Path(tempfile.gettempdir()) / f"dragoman-{package}-install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one test process installs, the others wait
            if _find(program) is None:
                _install(package)
        found = _find(program)
    if found is None:
        raise PackageMissing(
            f"these tests need {program}: install the package {package} (Debian, Ubuntu: apt-get install {package})"
        )
    return found


def _find(program: str) -> Path | None:
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS]))
    return None if path is None else Path(path)


def _install(package: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with _no_services():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            done = subprocess.run(
                ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *command],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise PackageMissing(
                    f"apt-get {' '.join(command)} failed; install {package} by hand:\n{done.stderr[-2000:]}"
                )


@contextmanager
def _no_services() -> Iterator[None]:
    """While it lasts, packages that are installed start no system service."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
