"""Secrets that come as files: a folder of them, as Kubernetes, Compose and systemd hand them over."""

import os
from decimal import Decimal
from pathlib import Path

import pytest

from dragoman.config import ConfigError, Settings

URL = "mysql+pymysql://dragoman:s3cret@db/dragoman"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets, empty, and nothing else of ours in the environment or the working directory."""
    for name in [name for name in os.environ if name.upper().startswith("DRAGOMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "secrets"
    made.mkdir()
    monkeypatch.setenv("DRAGOMAN_SECRETS", str(made))
    return made


def test_a_file_is_a_setting(folder: Path) -> None:
    (folder / "dragoman_database_url").write_text(f"{URL}\n")
    (folder / "DRAGOMAN_MEDIA_HOSTS").write_text("a.example.com, b.example.com\n")
    (folder / "dragoman_budgets").write_text('[{"principal": "web", "period": "day", "amount": 1.5}]')
    settings = Settings()
    assert settings.database_url == URL
    assert settings.media_hosts == ("a.example.com", "b.example.com")
    assert [budget.amount for budget in settings.budgets] == [Decimal("1.5")]


def test_it_wins_over_the_toml_file_and_loses_to_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("dragoman.toml").write_text("port = 1\nmax_runs = 1\n")
    (folder / "dragoman_port").write_text("2")
    (folder / "dragoman_max_runs").write_text("2")
    monkeypatch.setenv("DRAGOMAN_MAX_RUNS", "3")
    settings = Settings()
    assert (settings.port, settings.max_runs) == (2, 3)


def test_files_may_be_links_as_kubernetes_lays_them(folder: Path) -> None:
    (folder / "..2026_11_21").mkdir()
    (folder / "..2026_11_21" / "dragoman_database_url").write_text(URL)
    (folder / "..data").symlink_to("..2026_11_21")
    (folder / "dragoman_database_url").symlink_to("..data/dragoman_database_url")
    assert Settings().database_url == URL


def test_other_files_are_somebody_elses(folder: Path) -> None:
    (folder / "model_key").write_text("no setting")
    (folder / "dragomancy").write_text("neither")
    assert Settings() == Settings(port=50051)


def test_a_misspelt_file_is_refused(folder: Path) -> None:
    (folder / "dragoman_databse_url").write_text(URL)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert list(caught.value.problems) == [
        f"{folder / 'dragoman_databse_url'}: there is no such setting; did you mean dragoman_database_url?"
    ]


def test_a_file_that_cannot_be_read_is_named_and_not_quoted(folder: Path) -> None:
    (folder / "dragoman_database_url").write_bytes(b"s3cret\xff")
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert list(caught.value.problems) == [f"{folder / 'dragoman_database_url'}: is not UTF-8"]
    (folder / "dragoman_database_url").unlink()
    (folder / "dragoman_database_url").mkdir()
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert list(caught.value.problems) == [f"{folder / 'dragoman_database_url'}: Is a directory"]


def test_a_folder_that_was_named_must_be_there(folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert list(caught.value.problems) == [f"{folder}: No such file or directory"]
