"""`dragoman prices` and `dragoman rates`: what they show, check and merge."""

import json
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

TODAY = datetime.now(UTC).date()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("PRICES_FILE", "RATES_FILE", "CURRENCY"):
        monkeypatch.delenv(f"DRAGOMAN_{name}", raising=False)
    return tmp_path


def rows(text: str) -> list[list[str]]:
    """The cells of a table."""
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in text.splitlines()
        if line[:1] in "│┃"
    ]


def agents(folder: Path, *models: str) -> str:
    """A file with an agent for each model. Returns its spec."""
    lines = [
        f"Agent(id='a{n}', name='a{n}', model=ScriptedModel(id={model!r}, provider='Anthropic'))"
        for n, model in enumerate(models)
    ]
    file = folder / "served.py"
    file.write_text(
        textwrap.dedent("""\
        from agno.agent import Agent
        from dragoman.testing.scripted import ScriptedModel
        agents = [
        """)
        + "".join(f"    {line},\n" for line in lines)
        + "]\n"
    )
    return f"{file}:agents"


def rates(folder: Path) -> str:
    """A file with a rate as old as anybody's clock."""
    file = folder / "rates.toml"
    file.write_text('[rates.ZAR]\n2001-02-03 = "17.50"\n')
    return str(file)


class TestList:
    def test_own_prices_come_first_and_others_when_asked_for(self, dragoman: Any, folder: Path) -> None:
        file = folder / "prices.toml"
        file.write_text(
            '[anthropic.claude-haiku-4-5]\ninput = "0.5"\noutput = 2.50\ncache_read = "0.000001"\n'
        )
        own = dragoman("prices", "list", "--prices-file", str(file))
        assert own.exit_code == 0
        table = rows(own.stdout)
        assert table[0][:5] == ["provider", "model", "input", "output", "cache read"]
        assert table[1][:5] == ["anthropic", "claude-haiku-4-5", "0.5", "2.5", "0.000001"]
        assert table[1][-1].startswith("overrides ")
        assert [row[0] for row in table[1:]] == ["anthropic", "offline"]
        assert "models of the price library" in own.stdout

        all_haikus = dragoman(
            "prices", "list", "--model", "haiku", "--provider", "Anthropic", "--prices-file", file
        )
        found = {row[1]: row for row in rows(all_haikus.stdout)[1:]}
        assert found["claude-haiku-4-5"][2] == "0.5"
        assert found["claude-3-haiku"][-1].startswith("genai-prices ")
        assert "models of the price library" not in all_haikus.stdout

    def test_prices_of_a_day(self, dragoman: Any, folder: Path) -> None:
        file = folder / "prices.toml"
        file.write_text(
            "[[p.m]]\nuntil = 2026-01-01\ninput = 1\noutput = 1\n"
            "[[p.m]]\nfrom = 2026-01-01\ninput = 2\noutput = 2\n"
        )
        arguments = ("prices", "list", "--prices-file", str(file), "--provider", "p", "--json")
        for at, price in (("2025-12-31", "1"), ("2026-01-01", "2")):
            [listed] = json.loads(dragoman(*arguments, "--at", at).stdout)
            assert (listed["provider"], listed["model"], listed["date"]) == ("p", "m", at)
            assert [(line["kind"], line["usd_per_million"]) for line in listed["prices"]] == [
                ("input_tokens", price),
                ("output_tokens", price),
            ]

    def test_tiers_have_rows_of_their_own(self, dragoman: Any, folder: Path) -> None:
        table = rows(dragoman("prices", "list", "--model", "gemini-2.5-pro", "--provider", "google").stdout)
        place = next(number for number, row in enumerate(table) if row[1] == "gemini-2.5-pro")
        assert table[place + 1][:2] == ["", "above 200,000 in"]

    def test_nothing_found(self, dragoman: Any, folder: Path) -> None:
        result = dragoman("prices", "list", "--model", "no such [model]")
        assert (result.exit_code, result.stdout) == (0, "no such model\n")

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (("--at", "soon"), 2, "--at wants a date"),
            (("--prices-file", "none.toml"), 1, "none.toml: cannot be read"),
        ],
    )
    def test_failures(
        self, dragoman: Any, folder: Path, arguments: tuple[str, ...], code: int, told: str
    ) -> None:
        result = dragoman("prices", "list", *arguments)
        assert result.exit_code == code
        assert told in result.stderr


class TestCheck:
    def test_every_model_has_a_price(
        self, dragoman: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DRAGOMAN_AGENTS", agents(folder, "claude-haiku-4-5"))
        monkeypatch.setenv("DRAGOMAN_ENTRY_POINTS", "false")
        result = dragoman("prices", "check", "--rates-file", rates(folder))
        assert result.exit_code == 0, result.output
        assert rows(result.stdout)[1][:5] == ["a0", "Anthropic", "claude-haiku-4-5", "1", "5"]
        assert "1 USD is 17.5 ZAR since 2001-02-03" in result.stdout

    def test_one_has_none_until_the_file_gives_it_one(
        self, dragoman: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DRAGOMAN_AGENTS", agents(folder, "claude-haiku-4-5", "ours"))
        monkeypatch.setenv("DRAGOMAN_RATES_FILE", rates(folder))
        monkeypatch.setenv("DRAGOMAN_ENTRY_POINTS", "false")
        result = dragoman("prices", "check")
        assert result.exit_code == 1
        assert "without a price: Anthropic ours" in result.stdout
        file = folder / "new.toml"
        file.write_text("[anthropic.ours]\ninput = 1\noutput = 2\n")
        result = dragoman("prices", "check", str(file))
        assert result.exit_code == 0, result.output
        file.write_text(f"[anthropic.ours]\nfrom = {TODAY + timedelta(days=2)}\ninput = 1\noutput = 2\n")
        assert dragoman("prices", "check", str(file)).exit_code == 1

    def test_no_rate_yet(self, dragoman: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DRAGOMAN_ENTRY_POINTS", "false")
        file = folder / "rates.toml"
        file.write_text(f'[rates.ZAR]\n{TODAY + timedelta(days=2)} = "17"\n')
        result = dragoman("prices", "check", "--rates-file", str(file))
        assert result.exit_code == 1
        assert "there is no exchange rate to ZAR yet" in result.stdout

    def test_a_file_that_is_wrong(self, dragoman: Any, folder: Path) -> None:
        (folder / "new.toml").write_text("[anthropic.ours]\ninput = -1\noutput = 2\n")
        result = dragoman("prices", "check", "new.toml")
        assert result.exit_code == 1
        assert "new.toml: [anthropic.ours] input: must not be negative" in result.stderr


class TestImport:
    def test_a_dry_run_shows_what_an_import_writes(self, dragoman: Any, folder: Path) -> None:
        own, source = folder / "prices.toml", folder / "new.json"
        own.write_text("# Ours\n\n[p.m]\ninput = 1\noutput = 1\n")
        source.write_text('{"p": {"m": {"input": 2, "output": "1"}}}')
        arguments = ("prices", "import", str(source), "--prices-file", str(own), "--from", "2026-01-01")
        dry = dragoman(*arguments, "--dry-run")
        assert dry.exit_code == 0
        assert "\n+from = 2026-01-01\n" in dry.stdout
        assert '\n+input = "2"\n' in dry.stdout
        assert dry.stdout.endswith("not written: this was a dry run\n")
        assert own.read_text() == "# Ours\n\n[p.m]\ninput = 1\noutput = 1\n"
        done = dragoman(*arguments)
        assert done.stdout.endswith(f"written: {own}\n")
        assert own.read_text().startswith("# Ours\n\n[[p.m]]\nuntil = 2026-01-01\n")
        assert dragoman(*arguments).stdout == "nothing changes\n"

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (("new.toml",), 2, "no file of prices is named"),
            (("none.toml", "--prices-file", "own.toml"), 1, "none.toml: cannot be read"),
            (("new.toml", "--prices-file", "own.toml", "--from", "x"), 2, "--from wants a date"),
            (("new.toml", "--prices-file", "no/where.toml"), 1, "where.toml: cannot be written"),
        ],
        ids=["no-file", "no-source", "no-date", "no-folder"],
    )
    def test_failures(
        self, dragoman: Any, folder: Path, arguments: tuple[str, ...], code: int, told: str
    ) -> None:
        (folder / "new.toml").write_text("[p.m]\ninput = 2\noutput = 1\n")
        result = dragoman("prices", "import", *arguments)
        assert result.exit_code == code
        assert told in result.stderr
        assert sorted(each.name for each in folder.iterdir()) == ["new.toml"]


class TestRates:
    def test_import_then_list(self, dragoman: Any, folder: Path) -> None:
        (folder / "eurofxref.csv").write_text(
            "Date,USD,GBP,ZAR,\n2026-11-20,1.25,0.9,20,\n2026-11-19,1.25,0.9,21,\n"
        )
        arguments = ("rates", "import", "eurofxref.csv", "--rates-file", "rates.toml")
        dry = dragoman(*arguments, "--dry-run")
        assert dry.stdout == "ZAR: 2 new, 2026-11-19 to 2026-11-20\nnot written: this was a dry run\n"
        assert not (folder / "rates.toml").exists()
        assert "written: rates.toml" in dragoman(*arguments).stdout
        assert dragoman(*arguments).stdout == "nothing changes\n"

        more = dragoman(*arguments, "--currency", "gbp,EUR", "--since", "2026-11-20")
        assert "GBP: 1 new, 2026-11-20" in more.stdout
        listed = json.loads(dragoman("rates", "list", "--rates-file", "rates.toml", "--json").stdout)
        assert [(each["currency"], each["day"], each["per_usd"]) for each in listed] == [
            ("EUR", "2026-11-20", "0.8"),
            ("GBP", "2026-11-20", "0.72"),
            ("ZAR", "2026-11-20", "16"),
            ("ZAR", "2026-11-19", "16.8"),
        ]
        table = rows(
            dragoman("rates", "list", "--rates-file", "rates.toml", "--currency", "zar", "--last", "1").stdout
        )
        assert [row[:3] for row in table[1:]] == [["ZAR", "2026-11-20", "16"]]

    def test_a_rate_that_is_replaced_is_told(self, dragoman: Any, folder: Path) -> None:
        (folder / "rates.toml").write_text("[rates.ZAR]\n2026-11-20 = 17\n")
        (folder / "new.toml").write_text("[rates.ZAR]\n2026-11-20 = 17.5\n")
        result = dragoman("rates", "import", "new.toml", "--rates-file", "rates.toml")
        assert result.stdout.startswith("ZAR: 1 replaced\n  2026-11-20: 17 becomes 17.5\nwritten: ")

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (("new.csv",), 2, "no file of rates is named"),
            (("new.csv", "--rates-file", "own.toml"), 1, "new.csv: cannot be read"),
            (("new.csv", "--rates-file", "own.toml", "--currency", "RAND"), 2, "--currency wants codes"),
        ],
        ids=["no-file", "no-source", "no-code"],
    )
    def test_failures(
        self, dragoman: Any, folder: Path, arguments: tuple[str, ...], code: int, told: str
    ) -> None:
        result = dragoman("rates", "import", *arguments)
        assert result.exit_code == code
        assert told in result.stderr

    def test_there_are_none(self, dragoman: Any, folder: Path) -> None:
        assert "there are none" in dragoman("rates", "list", "--currency", "XXX").stdout
