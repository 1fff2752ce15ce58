"""Whose rows a request asks for: the caller's, or, for an administrator who says so, those of all owners."""

from typing import TypeAlias

from dragoman.records import AllOwners, Owner
from dragoman.transport.principal import check_all_agents, check_all_owners
from dragoman.transport.validation import Checks
from dragoman.v1.run_service_pb2 import ListRunsRequest
from dragoman.v1.usage_service_pb2 import QueryUsageRequest

Wide: TypeAlias = ListRunsRequest | QueryUsageRequest
"""Requests that can ask for it."""


def whose_rows(request: Wide, owner: Owner, checks: Checks) -> Owner | AllOwners:
    """Notes filters that make no sense in `checks`. Raises PermissionDenied, AgentNotFound."""
    if request.all_owners:
        check_all_owners()
        check_all_agents(request.agent_name)
        return AllOwners(
            checks.owner_filter("principal", request.principal), checks.owner_filter("user", request.user)
        )
    for name in ("principal", "user"):
        if getattr(request, name):
            checks.add(name, "is for all_owners")
    return owner
