"""`dragoman doctor`: whether a server can do its work, and how to mend it when it cannot."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._console import clean, stdout
from dragoman.cli._report import FAILED, Failure
from dragoman.cli._settings import DatabaseOption, load_settings

if TYPE_CHECKING:
    from dragoman.doctor import Finding

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}


def doctor(
    agents: Annotated[
        list[str] | None,
        typer.Option(
            "--agents", "-a", metavar="MODULE:ATTRIBUTE", help="Agents, instead of those of the settings."
        ),
    ] = None,
    database_url: DatabaseOption = None,
    call_model: Annotated[
        bool,
        typer.Option(
            "--call-model", help="Have each model of Anthropic's make one token. Costs next to nothing."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Looks whether a server could do its work with these settings on this machine, and says how to mend what is wrong.

    Changes nothing, and shows no secret. Exit code 1 when something failed; warnings are none.

    \b
    dragoman doctor
    dragoman doctor --agents shop.agents:agents --call-model
    dragoman doctor --json
    """
    with _quiet():
        healthy = asyncio.run(
            _told(
                _examined({"agents": agents, "database_url": database_url}, call_model=call_model),
                as_json=as_json,
            )
        )
    if not healthy:
        raise typer.Exit(FAILED)


async def _examined(flags: dict[str, object], *, call_model: bool) -> "AsyncIterator[Finding]":
    from dragoman.doctor import checks, examine, good, secrets_of
    from dragoman.doctor.findings import Finding, Level

    try:
        settings = load_settings(flags)
    except Failure as failure:
        mend = "see docs/configuration.md; all else was not looked at"
        for line in failure.message.splitlines()[1:] or [failure.message]:
            yield Finding(Level.FAILED, line.strip(), mend, "settings")
        return
    chosen = [
        ("settings", lambda: [good("the settings are valid")]),
        *checks(settings, call_model=call_model),
    ]
    async for finding in examine(chosen, secrets_of(settings)):
        yield finding


async def _told(found: "AsyncIterator[Finding]", *, as_json: bool) -> bool:
    """Prints what is found, for people as it comes. Returns whether nothing failed."""
    findings: list[Finding] = []
    async for each in found:
        if not as_json:
            _show(each, after=findings[-1].check if findings else "")
        findings.append(each)
    healthy = all(each.level != "failed" for each in findings)
    if as_json:
        _print_json(findings, healthy=healthy)
    else:
        _sum_up(findings)
    return healthy


def _show(finding: "Finding", *, after: str) -> None:
    console, (sign, style) = stdout(), _SIGNS[finding.level]
    name = finding.check if finding.check != after else ""
    console.print(f"{sign} {name:<12} {clean(finding.what)}", style=style, soft_wrap=True)
    if finding.mend:
        console.print(f"{'':<15}→ {clean(finding.mend)}", soft_wrap=True)


def _sum_up(findings: "Sequence[Finding]") -> None:
    found = Counter(str(each.level) for each in findings)
    worst = next((level for level in ("failed", "warning") if found[level]), "ok")
    warnings = f"{found['warning']} warning{'s' * (found['warning'] != 1)}"
    stdout().print(f"{found['ok']} ok, {warnings}, {found['failed']} failed", style=_SIGNS[worst][1])


def _print_json(findings: "Sequence[Finding]", *, healthy: bool) -> None:
    from dragoman.cli._pricing import print_json

    told = [
        {"check": each.check, "level": str(each.level), "what": each.what, "mend": each.mend}
        for each in findings
    ]
    print_json({"ok": healthy, "findings": told})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without log lines: what they would tell is among the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
