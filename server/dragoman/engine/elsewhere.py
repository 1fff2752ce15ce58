"""Ends runs that no task conducts: paused ones, and those that a dead process has left.

What such a run has left is in the store: its text in the event log, its messages, its calls. The end is made of that. The
last event of an abandoned run is numbered `GAP` after the last stored one: see `log`. When none is stored, for its process
was killed in the first moment, the first one is made again: it tells whoever asks again by the same request which run and
session were his.
"""

from dataclasses import replace
from datetime import timedelta

from dragoman.engine import terminal
from dragoman.engine.log import CATCH_UP_BYTES, GAP
from dragoman.engine.ports import Ended, Page, Store
from dragoman.errors import EventsTrimmed
from dragoman.records import Cancellation, EventChunk, Run, RunEnd, RunStatus, totals, utcnow
from dragoman.v1 import event_pb2

MESSAGES_AT_A_TIME = 200


async def end_paused(store: Store, run: Run, cancellation: Cancellation) -> Ended:
    """Ends a paused run, unless it was continued or ended meanwhile. Raises RunNotFound, StorageUnavailable."""
    return await store.end_run(await _end(store, run, cancellation, run.last_sequence + 1))


async def end_abandoned(store: Store, run: Run, lease: timedelta) -> Ended:
    """Ends a run whose holder is silent, unless that has said meanwhile that it lives. Raises as `end_paused`."""
    run = replace(run, totals=totals(await store.run_calls(run.owner, run.id), run.totals.currency))
    opening = None if run.last_sequence else _opening(run)
    last = run.last_sequence if opening is None else opening.last_sequence
    end = await _end(store, run, Cancellation(event_pb2.CANCEL_REASON_ABANDONED), last + GAP, lease)
    return await store.end_run(replace(end, opening=opening))


def _opening(run: Run) -> EventChunk:
    event = terminal.opening(run)
    event.sequence = 1
    return EventChunk(run.id, 1, 1, (event.SerializeToString(),))


async def _end(
    store: Store, run: Run, cancellation: Cancellation, sequence: int, lapsed: timedelta | None = None
) -> RunEnd:
    now = utcnow()
    event = terminal.cancelled(
        await _text(store, run), run.totals, await _message_ids(store, run), cancellation
    )
    event.sequence = sequence
    event.create_time.FromDatetime(now)
    return RunEnd(
        run_id=run.id,
        session_id=run.session_id,
        owner=run.owner,
        status=RunStatus.CANCELLED,
        end_time=now,
        chunk=EventChunk(run.id, sequence, sequence, (event.SerializeToString(),)),
        totals=run.totals,
        only_paused=lapsed is None,
        lapsed=lapsed,
    )


async def _text(store: Store, run: Run) -> str:
    """The text of the run's own agent that is stored."""
    position = 0
    text: list[str] = []
    try:
        while chunks := await store.read_events(run.owner, run.id, position, CATCH_UP_BYTES):
            for chunk in chunks:
                events = map(event_pb2.RunEvent.FromString, chunk.events)
                text += [event.content_delta.text for event in events if not event.HasField("member")]
            position = chunks[-1].last_sequence
    except EventsTrimmed:  # it was ended, long ago, between two of our looks
        pass
    return "".join(text)


async def _message_ids(store: Store, run: Run) -> list[str]:
    """The ids of its messages that are stored, in order."""
    found: list[str] = []
    page: Page[int] = Page(MESSAGES_AT_A_TIME)
    while messages := await store.list_messages(run.owner, run.session_id, page, run_id=run.id, members=True):
        found += [str(message.id) for message in messages]
        page = Page(MESSAGES_AT_A_TIME, messages[-1].sequence)
    return found
