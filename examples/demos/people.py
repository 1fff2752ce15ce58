"""A person in the loop: a run pauses for a yes, for values and for what only the caller can do, and goes on."""

from rich.table import Table

from dragoman.client import confirm, give_result, kind, provide_input, reject
from dragoman.v1 import event_pb2, run_service_pb2
from examples.demos.stage import Stage, arguments, calls_of, follow, main, shorten, table

TITLE = "A person in the loop"
MESSAGE = (
    'Refund 120 rands for the order "A-17", change the address of the order "A-17", '
    'and print the label of the order "A-17".'
)
SECOND = 'Refund 5000 rands for the order "B-4".'


def answer(requirement: event_pb2.Requirement) -> run_service_pb2.Resolution:
    """What the person at the desk says."""
    match requirement.WhichOneof("need"):
        case "confirmation" if requirement.tool_call.arguments.fields["rands"].number_value > 1000:
            return reject(requirement, "more than 1000 rands need the manager")
        case "confirmation":
            return confirm(requirement)
        case "user_input":
            return provide_input(requirement, {"street": "12 Long Street", "city": "Cape Town"})
        case _:
            return give_result(requirement, "the label is in tray 2")


async def play(stage: Stage) -> Table:
    """Three needs in one run, all of them met; and a refusal."""
    followed = await follow(stage, stage.client.run("desk", MESSAGE), MESSAGE, answer)
    refused = await follow(stage, stage.client.run("desk", SECOND), SECOND, answer)
    asked = [need for event in followed.of("run_paused") for need in event.run_paused.requirements]
    ended = [event.tool_call_completed for event in followed.of("tool_call_completed")]
    given = {call.tool_call_id: call.result for call in ended}
    shown = table("", "asked for", "tool", "gave")
    for need in asked:
        tool = f"{need.tool_call.name}({arguments(need.tool_call.arguments)})"
        shown.add_row(need.WhichOneof("need") or "?", tool, shorten(given.get(need.tool_call.id, ""), 60))
    check = stage.checks.that
    needs = sorted(need.WhichOneof("need") or "?" for need in asked)
    check(
        "a yes, values and a result are asked for",
        set(needs) == {"confirmation", "external_execution", "user_input"},
        ", ".join(needs),
    )
    numbers = [event.sequence for event in followed.events]
    paused, continued = followed.of("run_paused"), followed.of("run_continued")
    check(
        "each pause is followed by run_continued", len(paused) == len(continued) > 0, f"{len(paused)} pauses"
    )
    check("the numbers go on", numbers == sorted(set(numbers)), f"1 to {numbers[-1]}")
    results = " ".join(given.values())
    check(
        "the tools have what was given",
        all(text in results for text in ("120.00 rands", "12 Long Street", "tray 2")),
        shorten(results, 80),
    )
    check("the run completes as one run", kind(followed.events[-1]) == "run_completed", followed.run_id)
    held = [
        call for call in calls_of(refused) if call.call.name == "refund" and "are refunded" in call.result
    ]
    check(
        "what is refused is not done",
        not held and refused.of("run_paused"),
        shorten(refused.result.content, 80),
    )
    return shown


if __name__ == "__main__":
    main(play, TITLE)
