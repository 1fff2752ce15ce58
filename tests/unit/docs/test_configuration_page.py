"""docs/configuration.md has every setting and every field of its tables, and is the one that the settings give."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from docs import generate, settings_page
from dragoman.config import Settings

PAGE = generate.CONFIGURATION.read_text(encoding="utf-8")


def test_it_is_the_one_that_the_settings_give() -> None:
    assert settings_page.page() == PAGE, "the settings have changed: run make docs"


def test_every_setting_has_a_row_with_its_variable() -> None:
    rows = re.findall(r"^\| `(\w+)`<br>`(DRAGOMAN_\w+)`.* \| .+ \| .+ \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == list(Settings.model_fields)
    assert all(variable == f"DRAGOMAN_{name.upper()}" for name, variable in rows)


def test_flags_defaults_bounds_and_secrets_are_told() -> None:
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)`<br>.*$", PAGE, re.MULTILINE)}
    assert "<br>`--port` | whole number ≥ 0, ≤ 65,535<br>`50051` |" in rows["port"]
    assert "`32" not in rows["max_receive_bytes"]
    assert "`33554432` (32 MiB)" in rows["max_receive_bytes"]
    secret = {name for name, row in rows.items() if "*secret*" in row}
    assert secret == {name for name, field in Settings.model_fields.items() if not field.repr}
    assert "database_url" in secret


def test_tables_have_their_fields() -> None:
    section = PAGE.split("### [[budgets]]")[1].split("###")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        "principal",
        "agent",
        "period",
        "amount",
        "time_zone",
    ]
    assert "`day`, `month`<br>required" in section


def test_its_example_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "dragoman.toml").write_text(example)
    monkeypatch.chdir(tmp_path)
    assert set(tomllib.loads(example)) <= Settings().model_fields_set


def test_a_field_without_a_meaning_is_refused() -> None:
    class Silent(BaseModel):
        """Says nothing of its field."""

        amount: int = 0

    with pytest.raises(SystemExit, match="Silent: amount should have a docstring each"):
        settings_page._told(Silent)


def test_a_page_that_differs_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "configuration.md"
    old.write_text(PAGE.replace("| `port`", "| `harbour`"))
    monkeypatch.setattr(generate, "CONFIGURATION", old)
    assert generate.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "-| `harbour`" in told
    assert told.rstrip().endswith("run make docs")
