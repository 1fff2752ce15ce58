"""AgentService over a real channel."""

from support.served import Served

from dragoman.v1 import agent_service_pb2


async def test_agents_are_listed_and_found(served: Served) -> None:
    listed = await served.agents.ListAgents(agent_service_pb2.ListAgentsRequest())
    assert [agent.name for agent in listed.agents] == ["painter", "plain", "strict"]
    found = await served.agents.GetAgent(agent_service_pb2.GetAgentRequest(name="plain"))
    assert found.agent == listed.agents[1]
