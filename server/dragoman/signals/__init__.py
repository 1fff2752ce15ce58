"""Tells other processes at once what they would find in the store a moment later.

NoSignals       nobody is told; the store is looked into a few times per second anyway
RedisSignals    through a Redis that is there for that, and may go away at any time
"""

from dragoman.signals.none import NoSignals
from dragoman.signals.redis import RedisSignals, answers

__all__ = ["NoSignals", "RedisSignals", "answers"]
