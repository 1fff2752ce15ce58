"""The Containerfile, the script that it installs by, and the annotated dragoman.toml."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support.deployment import DEPLOY, ROOT, parse, settings_of, tool

CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
LINES = [
    line for line in re.sub(r"\\\n\s*", "", CONTAINERFILE).splitlines() if line and not line.startswith("#")
]
TOML = (DEPLOY / "dragoman.toml").read_text()


def of(instruction: str) -> list[str]:
    """What follows an instruction, wherever it stands."""
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--no-color", DEPLOY / "Containerfile"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_the_image_is_pinned_and_runs_as_nobody() -> None:
    (image,) = of("ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=docker\.io/library/python:3\.\d+-slim-\w+", image)
    assert of("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE} AS server"]
    assert of("USER") == ["65532:65532"]
    assert of("EXPOSE") == [str(settings_of(TOML).port)]


def test_the_image_is_made_of_what_the_build_needs() -> None:
    copied = [part for line in of("COPY") for part in line.split()[:-1] if not line.startswith("--from")]
    assert all((ROOT / part).exists() for part in copied), copied
    assert {"pyproject.toml", "uv.lock", ".ci/uv", "deploy/build.sh", "server"} <= set(copied)
    (built,) = [line for line in of("RUN") if "build.sh" in line]
    assert built.endswith("deploy/build.sh /opt/dragoman")
    assert "COPY --from=build /opt/dragoman /opt/dragoman" in LINES
    # The same script, run where no image can be built.
    assert '"$root/deploy/build.sh"' in (ROOT / ".ci" / "wheel-test").read_text()


def test_nothing_that_builds_is_left() -> None:
    final = CONTAINERFILE[CONTAINERFILE.index("AS server") :]
    assert "pip uninstall --yes pip setuptools wheel" in final
    assert not re.search(r"apt-get|pip install|\buv\b", final)


def test_its_commands_are_commands_of_ours() -> None:
    assert of("ENTRYPOINT") == ['["dragoman"]']
    assert of("CMD") == ['["serve"]']
    parse(["serve"])
    (health,) = of("HEALTHCHECK")
    assert health.endswith('CMD ["dragoman", "health"]')
    parse(["health"])


@pytest.mark.parametrize("script", ["build.sh", "secrets.sh"])
def test_scripts_are_scripts(script: str) -> None:
    path = DEPLOY / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", path], check=True, timeout=60)


def test_the_build_wants_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [DEPLOY / "build.sh", tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, f"deploy/build.sh: {tmp_path} is there already\n")


def test_the_annotated_file_is_valid() -> None:
    settings = settings_of(TOML)
    assert settings.auth == ("keys",)
    assert settings.host == "0.0.0.0"
    assert settings.drain_delay > 0


def test_so_are_the_choices_that_it_leaves_out(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in TOML.splitlines()]
    choices = [line for line in lines if re.match(r"\[\[\w+\]\]$|[a-z_]+ = ", line)]
    tables, plain, table = [], {}, ""
    for line in choices:
        table = line if line.startswith("[[") else table
        # A table ends with the paragraph that it stands in.
        if table and line != table and not _follows(lines, table, line):
            table = ""
        if table:
            tables.append(line)
        else:
            plain[line.partition(" = ")[0]] = line  # of two, the later choice
    assert len(choices) > 20
    for name in ("tls_cert", "tls_key"):
        (tmp_path / name).touch()
    settings = settings_of("\n".join([*plain.values(), *tables]))
    assert settings.auth == ("keys", "certificates")
    assert settings.certificates
    assert settings.budgets


def _follows(lines: list[str], first: str, then: str) -> bool:
    """Whether there is no empty line between the two."""
    start = lines.index(first)
    return "" not in lines[start : lines.index(then, start) if then in lines[start:] else len(lines)]


def test_every_variable_is_one_of_ours() -> None:
    from dragoman.config import Settings
    from dragoman.config.sources import _NO_SETTINGS

    known = {f"DRAGOMAN_{name.upper()}" for name in Settings.model_fields} | set(_NO_SETTINGS)
    found = 0
    for path in sorted(each for each in DEPLOY.rglob("*") if each.is_file() and "secrets" not in each.parts):
        for name in re.findall(r"\bDRAGOMAN_[A-Z_]*[A-Z]", path.read_text()):
            assert name in known, f"{path.name}: {name}"
            found += 1
    assert found > 20


def test_every_command_is_one_of_ours() -> None:
    found = 0
    for path in sorted(each for each in DEPLOY.rglob("*") if each.is_file() and "secrets" not in each.parts):
        for line in _shell(path.read_text(), whole=path.suffix != ".md"):
            for command in re.findall(r"^(?:.*[\s/])?dragoman ([a-z]+(?: .*)?)$", line):
                parse(shlex.split(command, comments=True))
                found += 1
    assert found > 5


def _shell(text: str, *, whole: bool) -> list[str]:
    """Lines for a shell: of a page, those in fences; of other files, their examples in comments, and Exec lines of units."""
    if whole:
        lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#     ")]
        return lines + [line.partition("=")[2] for line in text.splitlines() if line.startswith("Exec")]
    fences = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for fence in fences for line in fence.splitlines()]
