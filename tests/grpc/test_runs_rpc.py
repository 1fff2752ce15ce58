"""RunService over a real channel."""

from support.served import Served

from dragoman.v1 import run_service_pb2 as pb


async def test_a_run_is_streamed_to_its_end(served: Served) -> None:
    request = pb.RunRequest(agent_name="plain", message="hi")
    events = [event async for event in served.runs.Run(request)]
    assert [event.WhichOneof("event") for event in events] == ["content_delta", "run_completed"]
    assert [event.sequence for event in events] == [1, 2]
