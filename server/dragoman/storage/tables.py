"""The tables, as SQLAlchemy Core sees them. The migrations make them; a test holds that both say the same.

    sessions ──┬── runs ──┬── run_events      the event log, in chunks
               │          ├── run_pauses      what a paused run needs to go on
               │          └── pieces          the rest of values too large for one statement
               └── chat_events ── message_media ┄┄► media ── media_chunks
    api_keys                                  who may call
    requests                                  what callers have asked for under an id of theirs
    model_calls ── model_call_prices          the ledger: bound to nothing else, so that it outlives all of them

Everything of an owner carries `principal` and `user`, and every query is scoped by both; what has no such columns hangs
by its foreign key on something that has. Foreign keys do not cascade: what is deleted is deleted in so many words.
"""

from typing import Any

import sqlalchemy as sa

from dragoman.storage.types import Blob, Hash, Id, Identifier, Instant, Json, Money

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

TABLE_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}
"""No table depends on the defaults of the server."""

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
"""Columns of a `TokenUsage`, named as its fields."""

LATER_TOKENS = frozenset({"input_image_tokens", "output_image_tokens"})


def _owner(*, primary_key: bool = False) -> list[sa.Column[Any]]:
    return [
        sa.Column(name, Identifier(), primary_key=primary_key, nullable=False)
        for name in ("principal", "user")
    ]


def _tokens(*, nullable: bool = False) -> list[sa.Column[Any]]:
    # Some came later: the release before writes rows without them.
    return [
        sa.Column(
            name,
            sa.BigInteger(),
            nullable=nullable,
            server_default="0" if name in LATER_TOKENS and not nullable else None,
        )
        for name in TOKENS
    ]


def _cost() -> list[sa.Column[Any]]:
    """A `Cost` but for its currency; all NULL when there is none."""
    return [
        sa.Column("usd", Money()),
        sa.Column("amount", Money()),
        sa.Column("price_version", Identifier()),
        sa.Column("exchange_rate", Identifier(64)),
        sa.Column("rate_date", sa.Date()),
        sa.Column("unit_prices", Json()),
    ]


sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Id(), primary_key=True),
    *_owner(),
    sa.Column("agent_name", Identifier(), nullable=False),
    sa.Column("title", sa.Text(), nullable=False),
    sa.Column("metadata", Json(), nullable=False),
    sa.Column("inputs", Json(), nullable=False),
    sa.Column("create_time", Instant(), nullable=False),
    sa.Column("update_time", Instant(), nullable=False),
    sa.Column("message_count", sa.BigInteger(), nullable=False),
    sa.Column("run_count", sa.BigInteger(), nullable=False),
    sa.Column("active_run_id", Id()),
    sa.Column("last_sequence", sa.BigInteger(), nullable=False),
    sa.Index(None, "principal", "user", "update_time", "id"),
    sa.Index(None, "principal", "user", "agent_name", "update_time", "id"),
    **TABLE_OPTIONS,
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", Id(), primary_key=True),
    sa.Column("session_id", Id(), sa.ForeignKey("sessions.id"), nullable=False),
    *_owner(),
    sa.Column("agent_name", Identifier(), nullable=False),
    sa.Column("provider", Identifier(), nullable=False),
    sa.Column("model", Identifier(), nullable=False),
    sa.Column("status", Identifier(16), nullable=False),
    sa.Column("metadata", Json(), nullable=False),
    sa.Column("create_time", Instant(), nullable=False),
    sa.Column("update_time", Instant(), nullable=False),
    sa.Column("end_time", Instant()),
    sa.Column("lease_time", Instant(), nullable=False),
    sa.Column("last_sequence", sa.BigInteger(), nullable=False),
    sa.Column("last_message_sequence", sa.BigInteger()),
    *_tokens(),
    sa.Column("usd", Money(), nullable=False),
    sa.Column("amount", Money(), nullable=False),
    sa.Column("currency", Identifier(3), nullable=False),
    sa.Column("model_calls", sa.BigInteger(), nullable=False),
    sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
    sa.Column("last_event", Blob()),
    # The process whose lease it is; NULL when nobody runs it.
    sa.Column("holder", Id()),
    # Its place in the session's queue; NULL when it never had to wait.
    sa.Column("ticket", sa.BigInteger()),
    sa.Column("limits", Json()),
    # A wish to end it, which its holder finds here. The reason is the number in the protocol.
    sa.Column("cancel_reason", sa.Integer()),
    sa.Column("cancel_by", Identifier()),
    sa.Column("cancel_note", sa.Text()),
    # Of a paused run: when it ends unless it is continued.
    sa.Column("expire_time", Instant()),
    # Of a run that has ended: when; NULL again when its events are gone. So the index has those to be trimmed alone.
    sa.Column("log_time", Instant()),
    sa.Index(None, "principal", "user", "create_time", "id"),
    # An administrator lists those of all owners.
    sa.Index(None, "create_time", "id"),
    sa.Index(None, "principal", "user", "agent_name", "create_time", "id"),
    sa.Index(None, "principal", "user", "status", "create_time", "id"),
    sa.Index(None, "session_id", "create_time", "id"),
    sa.Index(None, "session_id", "last_message_sequence"),
    sa.Index(None, "session_id", "status", "ticket"),
    sa.Index(None, "status", "lease_time"),
    sa.Index(None, "status", "expire_time"),
    sa.Index(None, "log_time"),
    **TABLE_OPTIONS,
)

run_events = sa.Table(
    "run_events",
    metadata,
    sa.Column("run_id", Id(), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("first_sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
    sa.Column("last_sequence", sa.BigInteger(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    sa.Column("events", Blob(), nullable=False),
    **TABLE_OPTIONS,
)

run_pauses = sa.Table(
    "run_pauses",
    metadata,
    sa.Column("run_id", Id(), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("continuation", Blob(), nullable=False),
    sa.Column("content", Blob(), nullable=False),
    sa.Column("active_us", sa.BigInteger(), nullable=False),
    sa.Column("expire_time", Instant(), nullable=False),
    **TABLE_OPTIONS,
)

requests = sa.Table(
    "requests",
    metadata,
    *_owner(primary_key=True),
    sa.Column("request_id", Identifier(128), primary_key=True),
    sa.Column("digest", Hash(), nullable=False),
    sa.Column("session_id", Id(), nullable=False),
    sa.Column("run_id", Id()),
    sa.Column("after_sequence", sa.BigInteger(), nullable=False),
    sa.Column("create_time", Instant(), nullable=False),
    sa.Index(None, "create_time"),
    sa.Index(None, "session_id"),
    **TABLE_OPTIONS,
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Identifier(32), primary_key=True),
    sa.Column("principal", Identifier(), nullable=False),
    sa.Column("title", sa.Text(), nullable=False),
    sa.Column("salt", Hash(), nullable=False),
    sa.Column("digest", Hash(), nullable=False),
    sa.Column("scopes", Json(), nullable=False),
    sa.Column("agents", Json(), nullable=False),
    sa.Column("acts_for_users", sa.Boolean(), nullable=False),
    # What of `Quotas` is said; the release before knows nothing of it.
    sa.Column("quotas", Json()),
    sa.Column("create_time", Instant(), nullable=False),
    sa.Column("expire_time", Instant()),
    sa.Column("revoke_time", Instant()),
    # By the database's clock: servers ask for what has changed.
    sa.Column("update_time", Instant(), nullable=False),
    sa.Index(None, "update_time"),
    **TABLE_OPTIONS,
)

pieces = sa.Table(
    "pieces",
    metadata,
    sa.Column("run_id", Id(), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("value_id", Id(), primary_key=True),
    sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("data", Blob(), nullable=False),
    **TABLE_OPTIONS,
)

chat_events = sa.Table(
    "chat_events",
    metadata,
    sa.Column("id", Id(), primary_key=True),
    sa.Column("session_id", Id(), sa.ForeignKey("sessions.id"), nullable=False),
    sa.Column("sequence", sa.BigInteger(), nullable=False),
    *_owner(),
    sa.Column("root_run_id", Id(), sa.ForeignKey("runs.id"), nullable=False),
    sa.Column("run_id", Id(), nullable=False),
    sa.Column("parent_run_id", Id()),
    sa.Column("agent_name", Identifier(), nullable=False),
    sa.Column("role", Identifier(32), nullable=False),
    sa.Column("model_provider_slug", Identifier(), nullable=False),
    sa.Column("model", Identifier(), nullable=False),
    sa.Column("message_parts", Blob(), nullable=False),
    sa.Column("media_count", sa.Integer(), nullable=False),
    sa.Column("created_at", Instant(), nullable=False),
    *_tokens(nullable=True),
    *_cost(),
    sa.Column("currency", Identifier(3)),
    sa.UniqueConstraint("session_id", "sequence"),
    sa.Index(None, "root_run_id", "sequence"),
    sa.Index(None, "created_at"),
    **TABLE_OPTIONS,
)

model_calls = sa.Table(
    "model_calls",
    metadata,
    sa.Column("id", Id(), primary_key=True),
    *_owner(),
    sa.Column("session_id", Id(), nullable=False),
    sa.Column("root_run_id", Id(), nullable=False),
    sa.Column("root_agent_name", Identifier(), nullable=False),
    sa.Column("run_id", Id(), nullable=False),
    sa.Column("parent_run_id", Id()),
    sa.Column("agent_name", Identifier(), nullable=False),
    sa.Column("kind", Identifier(64), nullable=False),
    sa.Column("provider", Identifier(), nullable=False),
    sa.Column("model", Identifier(), nullable=False),
    *_tokens(),
    *_cost(),
    # Also on calls without a price: the currency of the run's totals, so that they are counted beside the priced ones.
    sa.Column("currency", Identifier(3), nullable=False),
    sa.Column("status", Identifier(16), nullable=False),
    sa.Column("stop_reason", Identifier(), nullable=False),
    sa.Column("start_time", Instant(), nullable=False),
    sa.Column("duration_us", sa.BigInteger(), nullable=False),
    sa.Column("time_to_first_token_us", sa.BigInteger()),
    sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
    sa.Index(None, "principal", "user", "start_time"),
    sa.Index(None, "session_id", "start_time"),
    sa.Index(None, "root_run_id"),
    # Budgets sum up a principal, or an agent, over all of its users.
    sa.Index(None, "principal", "start_time"),
    sa.Index(None, "root_agent_name", "start_time"),
    sa.Index(None, "start_time"),
    **TABLE_OPTIONS,
)

model_call_prices = sa.Table(
    "model_call_prices",
    metadata,
    # What a call was said to cost before it was priced again.
    sa.Column("call_id", Id(), sa.ForeignKey("model_calls.id"), primary_key=True),
    sa.Column("replace_time", Instant(), primary_key=True),
    *_cost(),
    sa.Column("currency", Identifier(3), nullable=False),
    **TABLE_OPTIONS,
)

media = sa.Table(
    "media",
    metadata,
    sa.Column("id", Id(), primary_key=True),
    *_owner(),
    sa.Column("sha256", Hash(), nullable=False),
    sa.Column("mime_type", Identifier(), nullable=False),
    sa.Column("size", sa.BigInteger(), nullable=False),
    # How many rows of message_media name it. Changed under the row's lock, so that a run that ends and a session that
    # is deleted at the same moment agree on whether it is still needed.
    sa.Column("refs", sa.BigInteger(), nullable=False),
    # Where the bytes are in the media store; NULL: in media_chunks.
    sa.Column("store_key", Identifier()),
    sa.Column("create_time", Instant(), nullable=False),
    sa.UniqueConstraint("principal", "user", "sha256"),
    sa.Index(None, "refs", "create_time"),
    **TABLE_OPTIONS,
)

media_chunks = sa.Table(
    "media_chunks",
    metadata,
    sa.Column("media_id", Id(), sa.ForeignKey("media.id"), primary_key=True),
    sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("data", Blob(), nullable=False),
    **TABLE_OPTIONS,
)

unwanted_blobs = sa.Table(
    "unwanted_blobs",
    metadata,
    # What is still to be deleted from the media store: nothing in the database refers to it any more.
    sa.Column("store_key", Identifier(), primary_key=True),
    sa.Column("create_time", Instant(), nullable=False),
    **TABLE_OPTIONS,
)

message_media = sa.Table(
    "message_media",
    metadata,
    sa.Column("message_id", Id(), sa.ForeignKey("chat_events.id"), primary_key=True),
    sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("sha256", Hash(), nullable=False),
    **TABLE_OPTIONS,
)
