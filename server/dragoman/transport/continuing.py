"""A ContinueRunRequest as a draft for the engine, or the reasons why it cannot be one.

In this order, each step only when the one before found nothing wrong:

    the shape of the whole request     every violation at once
    the run                            RUN_NOT_FOUND; RUN_NOT_PAUSED when it waits for nothing
    the resolutions                    against what the run waits for, as its last event says it; every violation at once

The draft names the pause that was read: when the run has gone on meanwhile, the engine finds that out.
"""

from dragoman import records
from dragoman.engine.ports import ContinueDraft, Store
from dragoman.errors import RunNotPaused
from dragoman.records import Owner, RequestKey, RunStatus
from dragoman.transport.deadline import Deadline
from dragoman.transport.drafts import DETAILS, read_policy
from dragoman.transport.principal import check_agent, current_principal
from dragoman.transport.resolutions import check_answers, check_shape
from dragoman.transport.validation import Checks
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb


class ContinueReader:
    """Reads requests to continue a run. Asks the store; writes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(
        self, request: pb.ContinueRunRequest, owner: Owner, key: RequestKey | None, deadline: Deadline
    ) -> ContinueDraft:
        """The draft; `key` is the request's own. Raises InvalidInput, RunNotFound, RunNotPaused, StorageUnavailable."""
        checks = Checks()
        run_id = checks.id("run_id", request.run_id)
        check_shape(request.resolutions, checks)
        checks.request_id("request_id", request.request_id)
        checks.known("detail", request.detail, DETAILS)
        cancel = read_policy(request.disconnect_policy, checks)
        checks.done()

        run = await self._store.get_run(owner, run_id)
        check_agent(run.agent_name)
        if run.status is not RunStatus.PAUSED:
            raise RunNotPaused(run.id, run.status)
        checks = Checks()
        await check_answers(_requirements(run), request.resolutions, checks)
        checks.done()
        return ContinueDraft(
            owner=owner,
            run_id=run.id,
            after_sequence=run.last_sequence,
            resolutions=tuple(request.resolutions),
            request=key,
            cancel_on_disconnect=cancel,
            quotas=current_principal().quotas,
            deadline=deadline.seconds if cancel else None,
        )


def _requirements(run: records.Run) -> list[event_pb2.Requirement]:
    event = event_pb2.RunEvent.FromString(run.last_event)
    if not event.HasField("run_paused"):
        raise ValueError(
            f"run {run.id} is stored as paused with {event.WhichOneof('event')} as its last event"
        )
    return list(event.run_paused.requirements)
