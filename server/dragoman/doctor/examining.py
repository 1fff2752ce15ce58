"""Runs the checks: each for itself, so that one that fails or hangs takes nothing from the others.

A check is a plain function in a thread of its own, which does not keep the process from ending: some import what users
wrote, or wait for a network. They come one after the other, because most import what only they need: two threads that
import modules which need each other get `_DeadlockError`, or half of a module, from Python, now and then. Defects of a
check are findings too.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from dragoman.config import Settings
from dragoman.doctor import access, agents, data, machine
from dragoman.doctor.findings import Finding, failed

Check: TypeAlias = tuple[str, Callable[[], Iterable[Finding]]]
"""A name, and what finds."""

PATIENCE = 45.0
"""Seconds that a check has."""


def checks(settings: Settings, *, call_model: bool = False) -> list[Check]:
    """All checks of these settings. `call_model`: ask the models of the agents for a token each."""
    served = agents.Served(settings)
    return [
        ("access", partial(access.risks, settings)),
        ("TLS", partial(access.tls, settings)),
        ("port", partial(machine.ports, settings)),
        ("limits", partial(machine.limits, settings)),
        ("database", partial(data.database, settings)),
        ("API keys", partial(access.api_keys, settings)),
        ("tokens", partial(access.tokens, settings)),
        ("media store", partial(data.media_store, settings)),
        ("redis", partial(data.redis, settings)),
        ("traces", partial(machine.traces, settings)),
        ("agents", served.check),
        ("prices", partial(agents.prices, settings, served)),
        ("models", partial(agents.models, served, call=call_model)),
        ("spending", partial(agents.spending, settings)),
    ]


async def examine(
    chosen: Sequence[Check], secrets: Iterable[str] = (), *, patience: float = PATIENCE
) -> AsyncIterator[Finding]:
    """What they find, in their order, as it is found. `secrets` are masked wherever they stand."""
    masked = sorted(filter(None, secrets), key=len, reverse=True)
    for name, check in chosen:
        for each in await _one(name, check, patience):
            yield replace(each, what=_without(each.what, masked))  # how to mend it is our words alone


async def _one(name: str, check: Callable[[], Iterable[Finding]], patience: float) -> list[Finding]:
    try:
        async with asyncio.timeout(patience):
            found = await _in_thread(name, lambda: list(check()))
    except TimeoutError:
        found = [failed(f"took longer than {patience:g} s", "see whether what it waits for can be reached")]
    except Exception as error:  # noqa: BLE001 -- a defect of one check must not hide what the others find
        kind = type(error).__name__
        found = [
            failed(f"could not be looked at ({kind})", "`dragoman --debug doctor` is of use to developers")
        ]
    return [replace(each, check=name) for each in found]


async def _in_thread(name: str, work: Callable[[], list[Finding]]) -> list[Finding]:
    """As asyncio.to_thread, in a thread that nobody has to wait for."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def tell(result: list[Finding] | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001 -- handed over to whoever waits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=f"doctor-{name}", daemon=True).start()
    found: list[Finding] = await done
    return found


def secrets_of(settings: Settings) -> set[str]:
    """What must not be shown: the secret settings, and the passwords in those that are URLs."""
    whole = [
        value
        for name, field in type(settings).model_fields.items()
        if not field.repr and isinstance(value := getattr(settings, name), str) and value != field.default
    ]
    found = set(settings.otlp_metadata.values())
    for value in whole:
        try:
            password = urlsplit(value).password
        except ValueError:
            password = None
        if password:
            found |= {password, unquote(password)}
    return {value for value in found if len(value) > 2} | {value for value in whole if "@" in value}


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
