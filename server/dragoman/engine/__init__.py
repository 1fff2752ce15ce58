"""The engine: one owned task per run, an append-only log of its events, exactly one event that ends it."""

from dragoman.engine.budgets import Budgets
from dragoman.engine.engine import Engine
from dragoman.engine.run import LiveRun

__all__ = ["Budgets", "Engine", "LiveRun"]
