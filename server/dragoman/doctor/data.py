"""Where things are kept: the database, the media store, Redis."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dragoman import ids
from dragoman.config import Settings
from dragoman.doctor.findings import Finding, failed, good, warning
from dragoman.errors import StorageUnavailable
from dragoman.storage import DatabaseUnusable, Examined, examine

OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0)}
"""Releases before these are not maintained any more."""

SMALL_PACKET = 4 * 1024 * 1024
CLOCK_WARNING, CLOCK_FAILED = 1.0, 60.0
"""Seconds by which the clocks may differ."""

MIB = 1024 * 1024
LITTLE_SPACE, NO_SPACE = 1024 * MIB, 64 * MIB


def database(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, is set up well, has the schema and can be written to; and whether its clock agrees."""
    try:
        found = examine(settings.database_url)
    except (ValueError, DatabaseUnusable, RuntimeError) as error:
        yield failed(
            str(error), "see database_url (DRAGOMAN_DATABASE_URL), and whether the server runs there"
        )
        return
    version = found.variables.get("version", "")
    yield good(f"{found.description} answers{f', version {version}' if version else ''}")
    yield from _schema(found)
    if found.refused:
        yield failed(
            f"it cannot be written to: {found.refused}",
            "give the account SELECT, INSERT, UPDATE and DELETE, and to whoever migrates ALTER, CREATE, DROP, INDEX, REFERENCES",
        )
    elif found.schema.up_to_date:
        yield good("it can be written to")
    if found.sqlite is not None:
        yield from _space(found.sqlite.absolute().parent, "the database")
    elif found.variables:
        yield from _server(settings, found)
    yield from _clock(found)


def _schema(found: Examined) -> Iterator[Finding]:
    schema = found.schema
    if schema.current == schema.head:
        yield good(f"the schema is at {schema.current}, as needed")
    elif schema.up_to_date:
        yield warning(
            f"the schema is at {schema.current}, of a later release; this one knows {schema.head}",
            "that works during an upgrade; afterwards run the later release everywhere",
        )
    elif found.sqlite is not None or not found.variables:
        yield good(f"the schema will be brought to {schema.head} at the start")
    else:
        at = f"at {schema.current}" if schema.current else "empty"
        yield failed(f"the schema is {at}, {schema.head} is needed", "run `dragoman migrate`")


def _clock(found: Examined) -> Iterator[Finding]:
    apart = abs(found.skew)
    told = f"the clocks of the database and of this machine are {apart:.1f} s apart"
    if apart >= CLOCK_FAILED:
        yield failed(told, "synchronise both (NTP): expiry of keys and days of budgets depend on them")
    elif apart >= CLOCK_WARNING:
        yield warning(told, "synchronise both (NTP)")
    elif found.variables:
        yield good("the clocks of the database and of this machine agree")


def _server(settings: Settings, found: Examined) -> Iterator[Finding]:
    """What is set in MySQL or MariaDB."""
    variables = found.variables
    yield from _release(found)
    if found.isolation != "READ-COMMITTED":
        yield warning(
            f"transactions are {found.isolation or 'of an unknown isolation'}, not READ-COMMITTED",
            "let nothing between here and the database change SET SESSION TRANSACTION",
        )
    if found.is_on("log_bin") and variables.get("binlog_format", "").upper() == "STATEMENT":
        yield failed(
            "binlog_format is STATEMENT, with which InnoDB refuses writes that are READ COMMITTED",
            "set binlog_format to ROW or MIXED",
        )
    for name in ("read_only", "super_read_only"):
        if found.is_on(name) or variables.get(name, "").upper().startswith("READ"):
            yield warning(f"{name} is on: this is a replica", "name the primary in database_url")
            break
    if variables.get("innodb_flush_log_at_trx_commit") == "0":
        yield warning(
            "innodb_flush_log_at_trx_commit is 0: a crash of the server loses up to a second of what was stored",
            "set it to 1, or to 2 where only a machine without power may lose something",
        )
    packet = int(variables.get("max_allowed_packet", SMALL_PACKET))
    if packet < SMALL_PACKET:
        yield warning(
            f"max_allowed_packet is {packet / MIB:g} MiB: large messages are stored in many small pieces",
            "set it to 16 MiB or more",
        )
    wanted = settings.workers * settings.database_connections
    most = int(variables.get("max_connections", wanted))
    if wanted > most // 2:
        yield warning(
            f"this machine alone wants {wanted} connections of the {most} that the database has",
            "raise max_connections, or lower database_connections or workers",
        )
    yield from _cluster(found)
    if not variables.get("Ssl_cipher") and not _is_near(settings.database_url):
        yield warning(
            "the connection to the database is not encrypted",
            "set up TLS in the database and in database_url (?ssl_ca=/path/ca.pem), unless the network does it",
        )


def _release(found: Examined) -> Iterator[Finding]:
    version = found.variables.get("version", "")
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    numbers = version.split("-")[0].split(".")
    if "tidb" in version.lower() or not all(each.isdecimal() for each in numbers[:2]) or len(numbers) < 2:
        yield warning(
            f"{version or 'a database without a version'} is not among those that are tested",
            "see docs/operations.md for what is used of SQL",
        )
    elif tuple(map(int, numbers[:2])) < (oldest := OLDEST[kind]):
        yield warning(
            f"{kind} {version} is old",
            f"use {kind} {'.'.join(map(str, oldest))} or later, which is maintained",
        )


def _cluster(found: Examined) -> Iterator[Finding]:
    """Galera."""
    if not found.is_on("wsrep_on"):
        return
    status, ready = found.variables.get("wsrep_cluster_status", ""), found.is_on("wsrep_ready")
    if status.lower() != "primary" or not ready:
        yield failed(
            f"this node is not part of the cluster now (wsrep_cluster_status {status or 'unknown'})",
            "let the balancer before the database leave such nodes out",
        )
    if found.variables.get("wsrep_sync_wait", "0") == "0":
        yield warning(
            "reads on another node may be a moment old (wsrep_sync_wait is 0)",
            "send all to one node, or set wsrep_sync_wait to 1",
        )


def media_store(settings: Settings) -> Iterator[Finding]:
    """Whether a medium can be kept, read and deleted."""
    from dragoman.blobs import BlobsUnusable, open_blobs

    if settings.media_store == "database":
        return
    try:
        blobs = open_blobs(settings.media_store)
    except BlobsUnusable as error:
        yield failed(str(error), "see media_store (DRAGOMAN_MEDIA_STORE)")
        return
    key, content = f"doctor/{ids.new_id()}", b"dragoman doctor"

    async def try_out() -> bool:
        await blobs.put(key, content)
        try:
            return await blobs.get(key) == content
        finally:
            await blobs.delete(key)

    try:
        same = asyncio.run(try_out())
    except StorageUnavailable:
        same = False
    if same:
        yield good(f"{blobs.description} can be written, read and deleted from")
    else:
        yield failed(
            f"{blobs.description} does not keep what is put there",
            "see whether it exists and can be reached, and the credentials (AWS_ACCESS_KEY_ID, the machine's role)",
        )
    parts = urlsplit(settings.media_store)
    if parts.scheme == "file":
        yield from _space(Path(unquote(parts.path)), "media")


def redis(settings: Settings) -> Iterator[Finding]:
    """Whether it answers."""
    from dragoman.signals import answers

    if settings.redis_url is None:
        return
    try:
        there = asyncio.run(answers(settings.redis_url))
    except ValueError:  # its words may quote the password
        yield failed("redis_url is not a URL of Redis", "write redis://host:6379/0, or rediss:// for TLS")
        return
    if there:
        yield good("redis answers")
    else:
        yield warning(
            "redis does not answer: processes hear of each other at the pace of poll_interval",
            "see redis_url (DRAGOMAN_REDIS_URL), and whether it runs there",
        )


def _space(folder: Path, what: str) -> Iterator[Finding]:
    """Room on the disk for what grows."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield failed(f"{folder}: {error.strerror}", f"make the folder of {what}")
        return
    told = f"{free // MIB:,} MiB are free for {what}"
    if free < NO_SPACE:
        yield failed(told, "make room, or move it to a larger disk")
    elif free < LITTLE_SPACE:
        yield warning(told, "make room before it is used up")
    else:
        yield good(told)


def _is_near(url: str) -> bool:
    """Whether the database is on this machine."""
    host = urlsplit(url).hostname
    return host in (None, "localhost", "::1") or (host or "").startswith("127.")
