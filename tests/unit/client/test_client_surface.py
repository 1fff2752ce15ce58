"""What the client shows, and that it needs nothing of the server."""

import subprocess
import sys
from ast import literal_eval
from importlib import resources
from types import ModuleType

import pytest

import dragoman.client
from dragoman import entry


def test_public_names() -> None:
    assert dragoman.client.__all__ == [
        "DeadlineExceeded",
        "DisconnectPolicy",
        "Dragoman",
        "DragomanError",
        "EventDetail",
        "EventKind",
        "EventsTrimmed",
        "InvalidInput",
        "MessageOrder",
        "NotFound",
        "RetryPolicy",
        "RunFailed",
        "RunIsPaused",
        "RunResult",
        "RunState",
        "RunStream",
        "SessionConflict",
        "StreamLost",
        "Tls",
        "TokenSource",
        "Unavailable",
        "UsageDimension",
        "Violation",
        "choose",
        "confirm",
        "from_status",
        "give_result",
        "image",
        "kind",
        "linked_media",
        "media",
        "provide_input",
        "reject",
        "result_of",
        "stored_media",
    ]
    assert all(hasattr(dragoman.client, name) for name in dragoman.client.__all__)


def test_public_methods() -> None:
    def public(thing: type) -> list[str]:
        return sorted(name for name in vars(thing) if not name.startswith("_"))

    assert public(dragoman.client.Dragoman) == [
        "attach",
        "cancel_run",
        "check_health",
        "continue_run",
        "create_session",
        "delete_session",
        "execute",
        "get_agent",
        "get_budget",
        "get_media",
        "get_run",
        "get_session",
        "list_agents",
        "list_messages",
        "list_runs",
        "list_sessions",
        "query_usage",
        "run",
        "update_session",
    ]
    assert public(dragoman.client.RunStream) == [
        "cancel",
        "close",
        "ended",
        "paused",
        "result",
        "text",
    ]


def test_all_that_is_public_is_explained() -> None:
    for thing in (dragoman.client.Dragoman, dragoman.client.RunStream):
        for name, member in vars(thing).items():
            assert name.startswith("_") or member.__doc__, name


def test_the_package_is_typed() -> None:
    assert resources.files("dragoman.client").joinpath("py.typed").is_file()


def test_only_the_base_install_is_imported() -> None:
    """In a fresh process: the packages that the client loads are those that the base install brings."""
    code = (
        "import sys, dragoman.client, dragoman.entry\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))\n"
        "print(sorted({'.'.join(n.split('.')[:2]) for n in sys.modules if n.startswith('dragoman.')}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    foreign, ours = (set(literal_eval(line)) for line in shown.splitlines())
    by_grpc = {"grpc_tools", "grpc_reflection", "cython_runtime"}  # where they are installed
    needed = {"dragoman", "google", "grpc", "grpc_health", "grpc_status", "typing_extensions"}
    assert {name for name in foreign if not name.startswith(("_", "sitecustomize"))} <= needed | by_grpc
    assert ours == {"dragoman.client", "dragoman.entry", "dragoman.v1"}


@pytest.mark.parametrize("missing", ["typer", "rich", "pydantic_settings"])
def test_without_the_server_extra_the_command_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(entry, "import_module", absent)
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    assert exit_.value.code == 2
    shown = capsys.readouterr().err
    assert 'pip install "dragoman[server]"' in shown
    assert missing in shown


def test_a_missing_module_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'dragoman.cli.main'", name="dragoman.cli.main")

    monkeypatch.setattr(entry, "import_module", absent)
    with pytest.raises(ModuleNotFoundError):
        entry.main()
