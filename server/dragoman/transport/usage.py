"""UsageService: what the model calls of the calling owner came to, and what he may still spend."""

from typing import Protocol

from dragoman import zones
from dragoman.engine.ports import BudgetState, Store, UsageDimension, UsageQuery
from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.records import Owner
from dragoman.transport import convert
from dragoman.transport.context import Context
from dragoman.transport.paging import TEXT_KEY, Pager
from dragoman.transport.principal import (
    check_agent,
    check_all_owners,
    current_owner,
    current_principal,
    may_use,
)
from dragoman.transport.validation import Checks
from dragoman.transport.whose import whose_rows
from dragoman.v1 import usage_service_pb2 as pb
from dragoman.v1.usage_service_pb2_grpc import UsageServiceServicer


class BudgetKeeper(Protocol):
    """What knows of budgets (`engine.Engine`)."""

    async def budgets(self, owner: Owner, agent_name: str, quotas: Quotas) -> list[BudgetState]:
        """Those that hold for the owner's runs (of the agent), as they stand, those of the credentials by which it calls
        (`quotas`) included. Raises StorageUnavailable."""
        ...


class UsageServicer(UsageServiceServicer):
    """Sums the ledger."""

    def __init__(self, store: Store, budgets: BudgetKeeper) -> None:
        self._store = store
        self._budgets = budgets

    async def QueryUsage(self, request: pb.QueryUsageRequest, context: Context) -> pb.QueryUsageResponse:
        """Totals, grouped as asked."""
        owner = current_owner()
        checks = Checks()
        whose = whose_rows(request, owner, checks)
        query = _query(request, checks)
        pager = Pager(request, owner, TEXT_KEY, checks, default=100, maximum=1000)
        checks.done()
        rows = await self._store.query_usage(whose, query, pager.page())
        groups, token = pager.cut(
            rows,
            lambda row: convert.usage_group(row, query.group_by),
            # One group may have rows in several currencies, and a page may end between them.
            lambda row: (*row.key, row.currency),
        )
        return pb.QueryUsageResponse(groups=groups, next_page_token=token)

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        """What the caller may spend, and what is left of it."""
        if request.agent_name:
            check_agent(request.agent_name)
        owner, quotas = current_owner(), current_principal().quotas
        if request.principal not in ("", owner.principal):
            check_all_owners()
            checks = Checks()
            checks.owner_filter("principal", request.principal)
            checks.done()
            # Which credentials another principal calls by next, nobody knows.
            owner, quotas = Owner(request.principal), NO_QUOTAS
        found = await self._budgets.budgets(owner, request.agent_name, quotas)
        # Those of agents that the caller may not use hold for none of its runs.
        usable = [state for state in found if not state.agent_name or may_use(state.agent_name)]
        return pb.GetBudgetResponse(budgets=[convert.budget(state) for state in usable])


def _query(request: pb.QueryUsageRequest, checks: Checks) -> UsageQuery:
    group_by: list[UsageDimension] = []
    for index, value in enumerate(request.group_by):
        path = f"group_by[{index}]"
        dimension = convert.USAGE_DIMENSION.get(value)
        if dimension is None:
            checks.add(path, f"{value} is not a dimension that this server knows")
        elif dimension in group_by:
            checks.add(path, "repeats a dimension")
        else:
            group_by.append(dimension)
    start = checks.moment("start_time", request.start_time) if request.HasField("start_time") else None
    end = checks.moment("end_time", request.end_time) if request.HasField("end_time") else None
    if start is not None and end is not None and end <= start:
        checks.add("end_time", "must be after start_time")
    time_zone = request.time_zone or "UTC"
    try:
        zones.zone(time_zone)
    except ValueError as error:
        checks.add("time_zone", str(error))
    return UsageQuery(
        group_by=tuple(group_by),
        start_time=start,
        end_time=end,
        agent_name=checks.agent_filter("agent_name", request.agent_name),
        session_id=checks.optional_id("session_id", request.session_id),
        time_zone=time_zone,
    )
