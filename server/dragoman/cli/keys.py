"""`dragoman keys`: the API keys by which services prove who they are. Needs the database, and no server."""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from dragoman.cli._console import clean, stderr, stdout, table
from dragoman.cli._report import USAGE, Failure
from dragoman.cli._settings import DatabaseOption, load_settings
from dragoman.cli._values import duration

if TYPE_CHECKING:
    from dragoman.auth import NewKey, Scope
    from dragoman.quotas import Quotas
    from dragoman.records import ApiKey
    from dragoman.storage import SqlStore

Result = TypeVar("Result")

app = typer.Typer(
    no_args_is_help=True, help="Make, show and take back the API keys of `dragoman serve --auth keys`."
)

KeyId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]

SERVERS = "the server's"

PATIENCE = 5.0
"""Seconds that a database may take to answer."""


@app.command()
def create(
    principal: Annotated[
        str, typer.Argument(help="The service whose key it is: the owner of what it makes.")
    ],
    title: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, run or admin; each includes those before it.", show_default="run"),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Agents that it may use, such as shop-*; may be repeated.",
            show_default="*",
        ),
    ] = None,
    for_users: Annotated[
        bool, typer.Option("--for-users", help="It may say for which user it acts (x-user-id).")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It ends after so long: 12h, 90d.", show_default="never"),
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(min=1, help="Concurrent runs.", show_default=SERVERS)
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(min=1, help="Open streams.", show_default=SERVERS)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Calls a second; 0: any number.", show_default=SERVERS)
    ] = None,
    burst: Annotated[
        int | None,
        typer.Option(min=1, help="Calls at once, after a rest.", show_default="what two seconds bring"),
    ] = None,
    budget_day: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="What its runs may bring the principal's spending to in a day."),
    ] = None,
    budget_month: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Likewise in a month.")] = None,
    database_url: DatabaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and shows it. This is the only time: what is kept cannot be turned back into it.

    \b
    dragoman keys create billing --title "invoices, nightly" --expires 90d
    dragoman keys create web --for-users --agent "shop-*" --agent desk
    dragoman keys create grafana --scope read
    dragoman keys create batch --max-runs 5 --rate 20 --burst 40 --budget-day 50 --budget-month 500
    """
    from dragoman.auth import Scope, make_key
    from dragoman.quotas import Quotas
    from dragoman.records import utcnow

    _check_principal(principal)
    scopes = _scopes(scope or [Scope.RUN])
    now = utcnow()
    new = make_key(
        principal,
        title=title,
        scopes=scopes,
        agents=_patterns(agent or ["*"]),
        acts_for_users=for_users,
        now=now,
        expire_time=None if expires is None else now + _positive(expires, "--expires"),
        quotas=Quotas(
            max_runs=max_runs,
            max_streams=max_streams,
            request_rate=_rate(rate),
            request_burst=burst,
            budget_day=_amount(budget_day, "--budget-day"),
            budget_month=_amount(budget_month, "--budget-month"),
        ),
    )

    async def work(store: "SqlStore") -> None:
        await store.keys.create(new.key)

    _with_store(database_url, work)
    _show_new(new, as_json=as_json)


@app.command("list")
def list_(
    every: Annotated[
        bool, typer.Option("--all", help="Also those that were revoked or have expired.")
    ] = False,
    database_url: DatabaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Shows the keys: whose they are and what they may do; never their secrets.

    \b
    dragoman keys list
    dragoman keys list --all --json
    """
    from dragoman.auth.keys import valid
    from dragoman.records import utcnow

    async def work(store: "SqlStore") -> "list[ApiKey]":
        return await store.keys.all()

    now = utcnow()
    found = [key for key in _with_store(database_url, work) if every or valid(key, now)]
    if as_json:
        for key in found:
            typer.echo(json.dumps(_plain(key)))
        return
    rows = table("id", "principal", "scopes", "agents", "for users", "limits", "created", "state", "title")
    for key in found:
        rows.add_row(
            key.id,
            clean(key.principal),
            clean(", ".join(key.scopes)),
            clean(", ".join(key.agents)),
            "yes" if key.acts_for_users else "",
            _limits(key.quotas),
            f"{key.create_time:%Y-%m-%d}",
            _state(key, now),
            clean(key.title),
        )
    stdout().print(rows if found else "there are no keys: make one with `dragoman keys create PRINCIPAL`")


@app.command()
def revoke(key_id: KeyId, database_url: DatabaseOption = None) -> None:
    """Takes a key back. Within seconds no server lets it in any more, and its open streams end.

    \b
    dragoman keys revoke k7w2mzq4x5r3n6ta
    """
    from dragoman.records import utcnow

    async def work(store: "SqlStore") -> bool:
        return await store.keys.revoke(key_id, utcnow())

    if not _with_store(database_url, work):
        raise Failure(f"there is no key {key_id}")
    stdout().print(f"revoked: {clean(key_id)}")


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(metavar="TIME", help="How long the old one still counts.")] = "24h",
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="The new one ends after so long.",
            show_default="as long as the old one was to live",
        ),
    ] = None,
    database_url: DatabaseOption = None,
    as_json: AsJson = False,
) -> None:
    """Makes a new key that may do the same, and lets the old one end after an overlap.

    \b
    dragoman keys rotate k7w2mzq4x5r3n6ta
    dragoman keys rotate k7w2mzq4x5r3n6ta --overlap 0s
    """
    from dragoman.auth import Scope, make_key
    from dragoman.records import utcnow

    now = utcnow()
    end = now + _positive(overlap, "--overlap", zero=True)
    life = None if expires is None else _positive(expires, "--expires")

    async def work(store: "SqlStore") -> "NewKey | None":
        old = next((key for key in await store.keys.all() if key.id == key_id), None)
        if old is None:
            return None
        if old.revoke_time is not None:
            raise Failure(f"key {key_id} was revoked")
        until = old.expire_time - old.create_time if life is None and old.expire_time is not None else life
        new = make_key(
            old.principal,
            title=old.title,
            scopes=[each for each in Scope if each in old.scopes],
            agents=old.agents,
            acts_for_users=old.acts_for_users,
            now=now,
            expire_time=None if until is None else now + until,
            quotas=old.quotas,
        )
        return new if await store.keys.replace(new.key, key_id, end) else None

    new = _with_store(database_url, work)
    if new is None:
        raise Failure(f"there is no key {key_id}")
    _show_new(new, as_json=as_json)
    stderr().print(f"the old key {clean(key_id)} counts until {end:%Y-%m-%d %H:%M:%S} UTC", style="dim")


def _show_new(new: "NewKey", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**_plain(new.key), "api_key": new.text}))
        return
    stderr().print(f"key {new.key.id} of {clean(new.key.principal)}; it is shown this once:", style="dim")
    typer.echo(new.text)


def _plain(key: "ApiKey") -> dict[str, object]:
    def time(value: datetime | None) -> str | None:
        return None if value is None else value.isoformat()

    return {
        "id": key.id,
        "principal": key.principal,
        "title": key.title,
        "scopes": list(key.scopes),
        "agents": list(key.agents),
        "acts_for_users": key.acts_for_users,
        "quotas": {
            name: f"{value:f}" if isinstance(value, Decimal) else value
            for name, value in asdict(key.quotas).items()
            if value is not None
        },
        "create_time": time(key.create_time),
        "expire_time": time(key.expire_time),
        "revoke_time": time(key.revoke_time),
    }


def _limits(quotas: "Quotas") -> str:
    """What is said of them, for people."""
    parts = [
        (quotas.max_runs, "{} runs"),
        (quotas.max_streams, "{} streams"),
        (quotas.request_rate, "{:g} calls/s" if quotas.request_rate else "any calls/s"),
        (quotas.request_burst, "{} at once"),
        (quotas.budget_day, "{:f} a day"),
        (quotas.budget_month, "{:f} a month"),
    ]
    return ", ".join(text.format(value) for value, text in parts if value is not None)


def _rate(given: float | None) -> float | None:
    if given is not None and not math.isfinite(given):
        raise Failure("--rate wants a number of calls", code=USAGE)
    return given


def _amount(given: str | None, option: str) -> Decimal | None:
    if given is None:
        return None
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", given, re.ASCII) is None:
        raise Failure(f"{option} wants an amount in the reporting currency, such as 50 or 12.50", code=USAGE)
    return Decimal(given)


def _state(key: "ApiKey", now: datetime) -> str:
    if key.revoke_time is not None:
        return f"revoked {key.revoke_time:%Y-%m-%d}"
    if key.expire_time is None:
        return "valid"
    return f"{'expired' if key.expire_time <= now else 'valid until'} {key.expire_time:%Y-%m-%d %H:%M}"


def _check_principal(name: str) -> None:
    if not (0 < len(name) <= 128 and name.isascii() and name.isprintable() and name == name.strip()):
        raise Failure("a principal is named by 1 to 128 printable ASCII characters", code=USAGE)


def _scopes(given: "list[str]") -> "list[Scope]":
    from dragoman.auth import Scope

    names = [scope.value for scope in Scope]
    wrong = [each for each in given if each not in names]
    if wrong:
        raise Failure(f"--scope is one of {', '.join(names)}, not {wrong[0]!r}", code=USAGE)
    return [scope for scope in Scope if scope in given]


def _patterns(given: list[str]) -> list[str]:
    for each in given:
        if not (0 < len(each) <= 128 and each.isascii() and each.isprintable()):
            raise Failure("--agent wants the name of an agent, or a pattern such as shop-*", code=USAGE)
    return given


def _positive(text: str, option: str, *, zero: bool = False) -> timedelta:
    given = duration(text, option)
    if given < timedelta() or not (given or zero):
        raise Failure(f"{option} must be more than nothing", code=USAGE)
    return given


def _with_store(database_url: str | None, work: "Callable[[SqlStore], Awaitable[Result]]") -> Result:
    """What `work` makes of the database. Raises Failure."""
    settings = load_settings({"database_url": database_url})
    from dragoman import storage
    from dragoman.errors import StorageUnavailable
    from dragoman.telemetry import configure_logging

    configure_logging("ERROR", settings.log_format)

    async def run() -> Result:
        store = storage.open_store(settings.database_url, connections=1, patience=PATIENCE)
        try:
            await store.open()
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except storage.SchemaOutdated as error:
        raise Failure(f"{error}; run `dragoman migrate`") from error
    except StorageUnavailable as error:
        raise Failure("the database does not answer") from error
    except (ValueError, RuntimeError) as error:
        raise Failure(str(error)) from error
