"""Where a run may go from where it stands: a pure table.

    start ──► RUNNING ── COMPLETE ──► COMPLETED
                 ├────── FAIL ──────► FAILED
                 ├────── CANCEL ────► CANCELLED ◄─┐
                 └────── PAUSE ─────► PAUSED ─────┘ CANCEL

COMPLETED, FAILED and CANCELLED are final: whatever comes later changes nothing, so a cancel that loses the race against
the end of the run is harmless.
"""

from enum import StrEnum
from types import MappingProxyType

from dragoman.records import RunStatus


class Step(StrEnum):
    """What can happen to a run."""

    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    PAUSE = "pause"


TRANSITIONS = MappingProxyType(
    {
        (RunStatus.RUNNING, Step.COMPLETE): RunStatus.COMPLETED,
        (RunStatus.RUNNING, Step.FAIL): RunStatus.FAILED,
        (RunStatus.RUNNING, Step.CANCEL): RunStatus.CANCELLED,
        (RunStatus.RUNNING, Step.PAUSE): RunStatus.PAUSED,
        (RunStatus.PAUSED, Step.CANCEL): RunStatus.CANCELLED,
    }
)


def advance(status: RunStatus, step: Step) -> RunStatus | None:
    """The status after `step`, or None when it is not possible there."""
    return TRANSITIONS.get((status, step))
