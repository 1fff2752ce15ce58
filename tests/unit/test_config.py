"""Settings come from flags, the environment and a file, in that order; what is misspelt or broken is told by name."""

import os
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from dragoman.config import ConfigError, Settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("DRAGOMAN_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_flags_win_over_the_environment_and_that_over_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "dragoman.toml").write_text('agents = ["a:b"]\nport = 1\nmax_runs = 1\n')
    monkeypatch.setenv("DRAGOMAN_PORT", "2")
    monkeypatch.setenv("dragoman_max_runs", "2")
    settings = Settings(port=3)
    assert (settings.agents, settings.port, settings.max_runs) == (("a:b",), 3, 2)


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (["DRAGOMAN_PROT"], ["DRAGOMAN_PROT: there is no such setting; did you mean DRAGOMAN_PORT?"]),
        (["dragoman_prot"], ["dragoman_prot: there is no such setting; did you mean DRAGOMAN_PORT?"]),
        (["DRAGOMAN_COLOUR"], ["DRAGOMAN_COLOUR: there is no such setting"]),
        (
            ["DRAGOMAN_CURENCY", "DRAGOMAN_"],
            [
                "DRAGOMAN_: there is no such setting",
                "DRAGOMAN_CURENCY: there is no such setting; did you mean DRAGOMAN_CURRENCY?",
            ],
        ),
    ],
)
def test_a_variable_of_no_setting_is_refused(
    names: list[str], problems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        monkeypatch.setenv(name, "secret")
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert list(caught.value.problems) == problems


def test_variables_that_are_read_elsewhere_are_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "other.toml").write_text("port = 7\n")
    monkeypatch.setenv("DRAGOMAN_SERVER", "127.0.0.1:1")
    monkeypatch.setenv("DRAGOMAN_CONFIG", "other.toml")
    monkeypatch.setenv("DRAGOMANCY", "none of ours")
    assert Settings().port == 7


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"port = \n", "dragoman.toml: Invalid value (at line 1, column 8)"),
        (b"port = 1\nport = 2\n", "dragoman.toml: Cannot overwrite a value (at line 2, column 9)"),
        (b'host = "\xff"\n', "dragoman.toml: 'utf-8' codec can't decode"),
    ],
)
def test_a_broken_file_is_named(here: Path, content: bytes, problem: str) -> None:
    (here / "dragoman.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert str(caught.value).startswith(problem)


def test_a_named_file_must_be_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CONFIG", str(here))
    with pytest.raises(ConfigError, match="which is not a file"):
        Settings()


def test_what_kubernetes_tells_of_a_service_of_our_name_is_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {
        "DRAGOMAN_PORT": "tcp://10.0.0.7:50051",
        "DRAGOMAN_PORT_50051_TCP": "tcp://10.0.0.7:50051",
        "DRAGOMAN_PORT_50051_TCP_ADDR": "10.0.0.7",
        "DRAGOMAN_SERVICE_HOST": "10.0.0.7",
        "DRAGOMAN_SERVICE_PORT": "50051",
        "DRAGOMAN_SERVICE_PORT_GRPC": "50051",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 50051


BUDGETS_TOML = """
budget_time_zone = "Africa/Johannesburg"
[[budgets]]
principal = "*"
period = "day"
amount = 12.50
[[budgets]]
agent = "shop"
period = "month"
amount = "1000"
time_zone = "UTC"
"""


def test_budgets_come_from_tables_of_the_file(here: Path) -> None:
    (here / "dragoman.toml").write_text(BUDGETS_TOML)
    settings = Settings()
    assert [each.model_dump() for each in settings.budgets] == [
        {"principal": "*", "agent": "", "period": "day", "amount": Decimal("12.5"), "time_zone": None},
        {"principal": "", "agent": "shop", "period": "month", "amount": Decimal(1000), "time_zone": "UTC"},
    ]
    assert settings.budget_time_zone == "Africa/Johannesburg"


def test_budgets_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_BUDGETS", '[{"principal": "desk", "period": "day", "amount": 0.1}]')
    [budget] = Settings().budgets
    assert (budget.principal, budget.amount) == ("desk", Decimal("0.1"))
    monkeypatch.setenv("DRAGOMAN_BUDGETS", "")
    assert Settings().budgets == ()


@pytest.mark.parametrize(
    ("budgets", "told"),
    [
        ("{", "must be JSON"),
        ('[{"period": "day", "amount": 1}]', "is for a principal, an agent, or both"),
        ('[{"agent": "a", "period": "week", "amount": 1}]', "'day' or 'month'"),
        ('[{"agent": "a", "period": "day", "amount": -1}]', "greater than or equal to 0"),
        ('[{"agent": "a", "period": "day", "amount": 1.0000000001}]', "no more than 9 decimal places"),
        ('[{"agent": "a", "period": "day", "amount": 1, "currency": "EUR"}]', "Extra inputs"),
        ('[{"agent": "a", "period": "day", "amount": 1, "time_zone": "Mars"}]', "is not a time zone"),
    ],
    ids=["no json", "nobody", "period", "negative", "too fine", "unknown key", "zone"],
)
def test_a_budget_that_makes_no_sense_is_refused(
    budgets: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_BUDGETS", budgets)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert told in str(caught.value)


def test_budgets_have_the_days_of_a_known_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_BUDGET_TIME_ZONE", "Johannesburg")
    with pytest.raises(ValidationError, match="is not a time zone"):
        Settings()
