"""A store that fails as a test wants it to: the real one, behind a door that can be shut call by call."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dragoman import storage

Fault = Callable[[int], BaseException | float | None]
"""Is given which call of the method this is, from 1; what it says is raised, or waited for, or (None) nothing happens."""


class Faults:
    """Which calls fail. Empty at first."""

    def __init__(self) -> None:
        self.rules: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()

    async def meet(self, name: str) -> None:
        self.calls[name] += 1
        rule = self.rules.get(name)
        fault = rule(self.calls[name]) if rule is not None else None
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            await asyncio.sleep(fault)

    def clear(self) -> None:
        self.rules.clear()
        self.calls.clear()


class FaultyStore:
    """Everything else is the real store's."""

    def __init__(self, store: object, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._faults.meet(name)
            return await attribute(*args, **kwargs)

        return call


def install(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Puts the door before every store that is opened from now on."""
    faults, open_store = Faults(), storage.open_store

    def open_faulty(*args: Any, **kwargs: Any) -> Any:
        return FaultyStore(open_store(*args, **kwargs), faults)

    monkeypatch.setattr(storage, "open_store", open_faulty)
    return faults
