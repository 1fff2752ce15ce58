"""What has been run and what it cost, as tables."""

from decimal import Decimal
from typing import Any

import pytest
from google.type import money_pb2
from support.cli_server import COST, RUN_ID, SESSION_ID, USAGE

from dragoman.cli.usage import BAR_WIDTH, bar
from dragoman.v1 import message_pb2, run_service_pb2, usage_pb2, usage_service_pb2


def test_runs_list(services: Any, dragoman: Any, a_run: run_service_pb2.Run) -> None:
    services.runs = [a_run, run_service_pb2.Run(id="second")]
    result = dragoman(
        *("runs", "list", "-s", services.address, "--agent", "example", "--session", SESSION_ID),
        *("--status", "failed", "-n", "1"),
    )
    assert result.exit_code == 0
    for text in (RUN_ID, "failed", "claude-sonnet-4-5", "1,200 in, 80 out", "ZAR 0.028900", "2.50 s"):
        assert text in result.stdout, text
    assert "second" not in result.stdout
    assert services.requests == [
        run_service_pb2.ListRunsRequest(
            agent_name="example",
            session_id=SESSION_ID,
            status=run_service_pb2.RUN_STATUS_FAILED,
            page_size=1,
        )
    ]


def test_runs_list_without_any(services: Any, dragoman: Any) -> None:
    assert dragoman("runs", "list", "-s", services.address).stdout == "no runs\n"


def test_runs_show(services: Any, dragoman: Any, a_run: run_service_pb2.Run) -> None:
    services.runs = [a_run]
    services.messages = [
        message_pb2.Message(sequence=1, role=message_pb2.MESSAGE_ROLE_USER, content="hello"),
        message_pb2.Message(
            sequence=2, role=message_pb2.MESSAGE_ROLE_TOOL, tool_name="sensor", tool_failed=True, content="no"
        ),
    ]
    result = dragoman("runs", "show", RUN_ID, "-s", services.address)
    assert result.exit_code == 0
    for text in (
        "status   failed: the model refused [MODEL_UNAVAILABLE]",
        f"session  {SESSION_ID}",
        "labels   team=desk",
        "tokens   1,200 in, 80 out in 2 model calls",
        "1. user\n  hello",
        "2. tool sensor (failed)\n  no",
    ):
        assert text in result.stdout, text
    assert services.requests[-1].run_id == RUN_ID


def test_an_unknown_run(services: Any, dragoman: Any) -> None:
    result = dragoman("runs", "show", "abc", "-s", services.address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: there is no run [RUN_NOT_FOUND]\n"


def group(agent: str, amount: str, unpriced: int = 0) -> usage_service_pb2.UsageGroup:
    return usage_service_pb2.UsageGroup(
        agent_name=agent,
        model_calls=3,
        runs=2,
        usage=USAGE,
        cost=usage_pb2.Cost(
            amount=money_pb2.Money(currency_code="ZAR"), exact_amount=amount, unpriced_calls=unpriced
        ),
    )


def test_usage(services: Any, dragoman: Any) -> None:
    services.groups = [group("example", "1.500000000000"), group("toolbox", "0.750000000000", unpriced=1)]
    result = dragoman(
        *(
            "usage",
            "-s",
            services.address,
            "--by",
            "agent",
            "--since",
            "2026-01-02",
            "--until",
            "2026-01-03T08:00",
        ),
        *("--agent", "a", "--session", "s", "--time-zone", "Africa/Johannesburg"),
    )
    assert result.exit_code == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line
    ]
    assert rows == [
        ["example", "2", "3", "1,200", "80", "0", "ZAR 1.500000", "█" * BAR_WIDTH],
        ["toolbox", "2", "3", "1,200", "80", "0", "ZAR 0.750000 + 1 unpriced", "█" * (BAR_WIDTH // 2)],
        ["all", "", "6", "2,400", "160", "0", "ZAR 2.250000 + 1 unpriced", ""],
    ]
    request = services.requests[0]
    assert list(request.group_by) == [usage_service_pb2.USAGE_DIMENSION_AGENT]
    assert request.start_time.ToJsonString() == "2026-01-01T22:00:00Z"
    assert request.end_time.ToJsonString() == "2026-01-03T06:00:00Z"
    assert (request.agent_name, request.session_id) == ("a", "s")
    assert request.time_zone == "Africa/Johannesburg"


def test_usage_without_any(services: Any, dragoman: Any) -> None:
    assert dragoman("usage", "-s", services.address).stdout == "no model calls\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--by", "agent,colour"), "'colour' is none of day, agent"),
        (("--by", "agent,agent"), "'agent' comes twice"),
        (("--since", "long-ago"), "--since wants a date"),
        (("--since", "0d"), "--since wants a date"),
        (("--since", "today", "--until", "yesterday"), "--until must be after --since"),
        (("--time-zone", "Mars"), "'Mars' is not a time zone"),
        (("--csv", "-", "--json"), "do not go together"),
    ],
)
def test_usage_used_wrongly(dragoman: Any, arguments: tuple[str, ...], told: str) -> None:
    result = dragoman("usage", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(
    ("size", "largest", "shown"),
    [
        ("0", "5", ""),
        ("0", "0", ""),
        ("5", "5", "█" * BAR_WIDTH),
        ("0.0001", "5", "▏"),
        ("1", "16", "█▌"),
    ],
)
def test_bars(size: str, largest: str, shown: str) -> None:
    assert bar(Decimal(size), Decimal(largest)) == shown


def test_cost_is_not_invented() -> None:
    from dragoman.cli._console import money

    assert money(COST) == "ZAR 0.028900"
    assert money(usage_pb2.Cost(unpriced_calls=2)) == "no price"
