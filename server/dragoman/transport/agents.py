"""AgentService: which agents and teams can be run here."""

from collections.abc import Sequence

from dragoman.engine.ports import Catalog
from dragoman.transport.context import Context
from dragoman.transport.principal import check_agent, may_use
from dragoman.transport.validation import Checks
from dragoman.v1 import agent_service_pb2 as pb
from dragoman.v1.agent_service_pb2_grpc import AgentServiceServicer


class AgentServicer(AgentServiceServicer):
    """Reads the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """All agents that the caller may use, by name."""
        agents: Sequence[pb.Agent] = [agent for agent in self._catalog.agents() if may_use(agent.name)]
        return pb.ListAgentsResponse(agents=agents)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        """One agent."""
        checks = Checks()
        name = checks.required("name", request.name)
        checks.done()
        check_agent(name)
        return pb.GetAgentResponse(agent=self._catalog.agent(name))
