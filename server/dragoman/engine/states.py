"""Where a run may go from where it stands: a pure table.

    enqueue ─► QUEUED ── BEGIN ─► RUNNING ◄───────┐ CONTINUE
                 │                 │ ▲ start      │
                 │                 │              │
                 │                 ├── PAUSE ──► PAUSED
                 │                 ├── COMPLETE ► COMPLETED
                 │                 ├── FAIL ────► FAILED
                 └──── CANCEL ─────┴── CANCEL ──► CANCELLED ◄── CANCEL ── PAUSED

COMPLETED, FAILED and CANCELLED are final: whatever comes later changes nothing, so a cancel that loses the race against
the end of the run is harmless. A run that is QUEUED or RUNNING is held by one process, under a lease; one that is RUNNING
or PAUSED has its session's turn.
"""

from enum import StrEnum
from types import MappingProxyType

from dragoman.records import RunStatus


class Step(StrEnum):
    """What can happen to a run."""

    BEGIN = "begin"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    PAUSE = "pause"
    CONTINUE = "continue"


TRANSITIONS = MappingProxyType(
    {
        (RunStatus.QUEUED, Step.BEGIN): RunStatus.RUNNING,
        (RunStatus.QUEUED, Step.CANCEL): RunStatus.CANCELLED,
        (RunStatus.QUEUED, Step.FAIL): RunStatus.FAILED,
        (RunStatus.RUNNING, Step.COMPLETE): RunStatus.COMPLETED,
        (RunStatus.RUNNING, Step.FAIL): RunStatus.FAILED,
        (RunStatus.RUNNING, Step.CANCEL): RunStatus.CANCELLED,
        (RunStatus.RUNNING, Step.PAUSE): RunStatus.PAUSED,
        (RunStatus.PAUSED, Step.CONTINUE): RunStatus.RUNNING,
        (RunStatus.PAUSED, Step.CANCEL): RunStatus.CANCELLED,
    }
)


def advance(status: RunStatus, step: Step) -> RunStatus | None:
    """The status after `step`, or None when it is not possible there."""
    return TRANSITIONS.get((status, step))
