"""Each event that has something to show shows it, in one voice per line."""

import pytest
from google.rpc import code_pb2
from support.cli_server import COST, USAGE, error

from dragoman.cli._console import stdout
from dragoman.cli._printer import EventPrinter
from dragoman.v1 import event_pb2, message_pb2

Event = event_pb2.RunEvent
SUM = "1 model call · 1,200 in, 80 out · ZAR 0.028900\n"
MEMBER = event_pb2.Member(agent_name="critic", run_id="r2", parent_run_id="r1")


def shown(*events: Event) -> str:
    console = stdout()
    printer = EventPrinter(console)
    with console.capture() as capture:
        for event in events:
            printer.show(event)
        printer.finish()
    return capture.get()


def delta(text: str, member: event_pb2.Member | None = None) -> Event:
    return Event(content_delta=event_pb2.ContentDelta(text=text), member=member)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(), ""),
        (Event(heartbeat=event_pb2.Heartbeat()), ""),
        (Event(run_started=event_pb2.RunStarted(run_id="r")), ""),
        (Event(intermediate_content=event_pb2.IntermediateContent(text="draft")), "draft\n"),
        (Event(reasoning_step=event_pb2.ReasoningStep(title="look it up")), "  · look it up\n"),
        (
            Event(citations=event_pb2.Citations(citations=[message_pb2.Citation(url="https://a.example")])),
            "  [https://a.example]\n",
        ),
        (
            Event(
                media_output=event_pb2.MediaOutput(
                    media=message_pb2.Media(mime_type="image/png", size_bytes=1234)
                )
            ),
            "  [image/png, 1,234 bytes]\n",
        ),
        (
            Event(
                member_run_failed=event_pb2.MemberRunFailed(
                    error=error(code_pb2.UNAVAILABLE, "refused", "MODEL_UNAVAILABLE")
                )
            ),
            "  ✗ refused [MODEL_UNAVAILABLE]\n",
        ),
        (
            Event(
                run_cancelled=event_pb2.RunCancelled(
                    reason=event_pb2.CANCEL_REASON_MAX_COST,
                    note="enough",
                    usage=USAGE,
                    cost=COST,
                    model_calls=1,
                )
            ),
            f"cancelled (max cost): enough\n{SUM}",
        ),
        (
            Event(run_queued=event_pb2.RunQueued(run_id="r", position=2)),
            "waiting for the session's turn, at place 2\n",
        ),
        (
            Event(run_paused=event_pb2.RunPaused(usage=USAGE, cost=COST, model_calls=1)),
            f"paused: it waits for 0 answers\n{SUM}",
        ),
    ],
    ids=lambda value: value.WhichOneof("event") if isinstance(value, Event) else "",
)
def test_one_event(event: Event, text: str) -> None:
    assert shown(event) == text


def test_structured_content() -> None:
    event = Event(structured_content=event_pb2.StructuredContent(schema_name="Word"))
    event.structured_content.value.struct_value["word"] = "Ozymandias"
    assert '"word": "Ozymandias"' in shown(event)


def test_text_and_reasoning_are_on_lines_of_their_own() -> None:
    thought = Event(reasoning_delta=event_pb2.ReasoningDelta(text="hm"))
    assert shown(thought, thought, delta("a"), delta("b"), thought) == "hmhm\nab\nhm\n"


def test_a_member_is_introduced_when_it_speaks() -> None:
    assert shown(delta("a"), delta("b", MEMBER), delta("c", MEMBER), delta("d")) == "a\n[critic]\nbc\nd\n"


def test_the_leader_is_introduced_when_it_speaks_again() -> None:
    begun = Event(run_started=event_pb2.RunStarted(agent_name="desk"))
    assert shown(begun, delta("a"), delta("b", MEMBER), delta("c")) == "a\n[critic]\nb\n[desk]\nc\n"


def test_words_of_members_who_work_at_the_same_time_are_not_shuffled() -> None:
    other = event_pb2.Member(agent_name="poet", run_id="p", parent_run_id="r")
    begins = [Event(member_run_started=event_pb2.MemberRunStarted(), member=each) for each in (MEMBER, other)]
    ends = [
        Event(member_run_completed=event_pb2.MemberRunCompleted(), member=each) for each in (other, MEMBER)
    ]
    said = [delta("a ", MEMBER), delta("x ", other), delta("b", MEMBER), delta("y", other)]
    assert shown(*begins, *said, *ends) == "[poet]\nx y\n[critic]\na b\n"
    assert (
        shown(begins[0], delta("a", MEMBER), ends[1], begins[1], delta("x", other))
        == "[critic]\na\n[poet]\nx\n"
    )


def test_text_of_a_model_is_not_markup() -> None:
    assert shown(delta("[red]x[/red] :smile: \x1b[2J")) == "[red]x[/red] :smile: \\x1b[2J\n"
