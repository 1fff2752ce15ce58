"""What a draft comes to: the run that is to be claimed, and what its runner is to do once it is."""

from uuid import UUID

from dragoman import ids
from dragoman.engine.ports import (
    Catalog,
    Continuation,
    Continued,
    ContinueDraft,
    Pricer,
    RunDraft,
    RunOrder,
    Started,
)
from dragoman.engine.run import Past
from dragoman.errors import InvalidInput, Violation
from dragoman.records import Limits, Pause, Run, RunStatus, Session, TokenUsage, Totals, utcnow
from dragoman.v1 import agent_service_pb2


class Planner:
    """Plans the runs of one process. `holder`: its id. `limits`: what any run may spend at most."""

    def __init__(self, catalog: Catalog, pricer: Pricer, holder: UUID, limits: Limits) -> None:
        self._catalog = catalog
        self._pricer = pricer
        self._holder = holder
        self._limits = limits

    def plan(self, draft: RunDraft, *, budget: bool = False) -> tuple[Run, Session]:
        """The run as it is to be, and its session, a new one where the draft has none.

        Raises AgentNotFound; InvalidInput when the cost is to be limited, or a budget holds, and a model, the agent's or
        a member's, has no price.
        """
        agent = self._catalog.agent(draft.agent_name)
        limited = budget or draft.limits.max_cost is not None
        if limited and (model := self._unpriced(agent)) is not None:
            unpriced = f"model {model!r} has no known price"
            if draft.limits.max_cost is not None:
                raise InvalidInput([Violation("limits.max_cost", f"cannot be kept: {unpriced}")])
            raise InvalidInput([Violation("agent_name", f"cannot be run under a budget: {unpriced}")])
        now = utcnow()
        session = draft.session or Session(
            id=ids.new_id(),
            owner=draft.owner,
            agent_name=draft.agent_name,
            title="",
            metadata={},
            inputs=draft.session_inputs,
            create_time=now,
            update_time=now,
        )
        run = Run(
            id=ids.new_id(),
            session_id=session.id,
            owner=draft.owner,
            agent_name=draft.agent_name,
            model=agent.model,
            provider=agent.provider,
            status=RunStatus.RUNNING,
            metadata=draft.metadata,
            create_time=now,
            update_time=now,
            totals=Totals(currency=self._pricer.currency),
            holder=self._holder,
            limits=draft.limits.within(self._catalog.limits(draft.agent_name)).within(self._limits),
        )
        return run, session

    def _unpriced(self, agent: agent_service_pb2.Agent) -> str | None:
        """The first model without a price: the agent's own, or one of its members'; None when all have one."""
        if self._pricer.price(agent.provider, agent.model, TokenUsage(input_tokens=1), utcnow()) is None:
            return agent.model
        return next((model for model in map(self._unpriced, agent.members) if model is not None), None)


def first_order(draft: RunDraft, started: Started) -> RunOrder:
    """What the runner is to do for a run that was claimed."""
    return RunOrder(
        run_id=started.run.id,
        owner=draft.owner,
        session=started.session,
        agent_name=draft.agent_name,
        message=draft.message,
        media=draft.media,
        inputs=draft.inputs,
        metadata=draft.metadata,
    )


def next_order(draft: ContinueDraft, continued: Continued, pause: Pause) -> tuple[RunOrder, Past]:
    """What the runner is to do for a run that goes on, and what it had come to before."""
    run = continued.run
    order = RunOrder(
        run_id=run.id,
        owner=run.owner,
        session=continued.session,
        agent_name=run.agent_name,
        message="",
        media=(),
        inputs={},
        metadata=run.metadata,
        continuation=Continuation(pause.continuation, draft.resolutions, pause.content),
    )
    past = Past(
        after_sequence=continued.after_sequence,
        totals=run.totals,
        message_ids=tuple(map(str, continued.message_ids)),
        active=pause.active,
        content=pause.content,
    )
    return order, past
