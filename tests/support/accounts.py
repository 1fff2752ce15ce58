"""What a mapping of events must ask others, for tests in which nobody keeps books."""

from collections.abc import Callable
from typing import Any

from dragoman.adapter import failures
from dragoman.adapter.events import Accounts
from dragoman.errors import DragomanError
from dragoman.records import TokenUsage, Totals
from dragoman.v1 import event_pb2, message_pb2


def why_failed(event: Any, name: str, provider: str) -> DragomanError:
    """Judged by Agno's event alone."""
    return failures.classify(
        event.error_type, event.content, None, status=None, provider=provider, agent_name=name
    )


NOTHING = Totals(TokenUsage(), currency="ZAR")


def accounts(
    finish_call: Callable[[Any], event_pb2.RunEvent | None],
    show_media: Callable[[Any], message_pb2.Media],
    spent: Totals = NOTHING,
) -> Accounts:
    """Every member has spent the same."""
    return Accounts(finish_call, show_media, lambda _: spent, why_failed)
