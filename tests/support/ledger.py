"""Compares what the ledger has with what the provider billed, for runs whose process may have been killed.

A call whose process lived is booked as it was billed, to the token. When a process is killed in the middle of a call, the
ledger has what the provider had told up to the last write before, which is at most OWED seconds ago; never more than the bill.
"""

from collections.abc import Mapping
from uuid import UUID

from support.mariadb import MariaDBServer
from support.provider import Asked

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import Outcome

OWED = 1.5
"""Seconds: what was told earlier is booked when a process is killed. Writes are 50 ms apart; the rest is for a busy machine."""

LEAVING = 0.5
"""Seconds: what a provider sends while the server hangs up is billed, and may not be read any more."""

_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)


def booked_calls(mariadb: MariaDBServer, url: str) -> dict[UUID, list[TokenUsage]]:
    """The tokens of all calls that are in the ledger, by run, in order."""
    rows = mariadb.execute(
        f"SELECT HEX(root_run_id), {', '.join(_COLUMNS)} FROM {url.rpartition('/')[2]}.model_calls ORDER BY start_time, id"
    )
    calls: dict[UUID, list[TokenUsage]] = {}
    for run_id, *tokens in rows:
        calls.setdefault(UUID(run_id), []).append(TokenUsage(**dict(zip(_COLUMNS, tokens, strict=True))))
    return calls


def assert_booked(asked: Asked, booked: TokenUsage, killed: Mapping[int, float]) -> None:
    """The ledger has of a request what it must have. `killed`: when which process was killed."""
    billed, ended = asked.record.billed, asked.record.end_time
    death = killed.get(asked.process)
    if death is not None and (ended is None or ended > death - OWED):
        sure = death - OWED
    elif asked.record.outcome is Outcome.LEFT and ended is not None:
        sure = ended - LEAVING
    else:
        assert booked == billed, (asked.part, asked.step)
        return
    least = TokenUsage()
    for at, figure in asked.figures:
        if at <= sure:
            least = figure
    story = f"{asked.part}, step {asked.step}: booked {booked}, billed {asked.figures}, sure until {sure:.2f}"
    assert least.output_tokens <= booked.output_tokens <= billed.output_tokens, story
    # What the provider tells first it tells once.
    if booked != TokenUsage():
        assert booked.input_tokens == billed.input_tokens, story
        assert booked.cache_read_tokens == billed.cache_read_tokens, story
        assert booked.cache_write_tokens == billed.cache_write_tokens, story
