"""Tells other processes at once what they would find in the store a moment later."""

from dragoman.signals.none import NoSignals

__all__ = ["NoSignals"]
