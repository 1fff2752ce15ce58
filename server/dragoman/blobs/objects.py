"""Media as objects, through obstore: nothing of it runs on the event loop, and it repeats what is worth repeating.

    file:///var/lib/dragoman/media          a folder, which all servers on one database must see
    s3://bucket/prefix?endpoint=http://minio:9000&region=eu-west-1

Credentials of S3 come from where they usually do (`AWS_ACCESS_KEY_ID`, the machine's role, ...) and are never in a log.
"""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from dragoman.errors import StorageUnavailable

logger = logging.getLogger(__name__)

RETRY_TIME: Final = timedelta(seconds=10)
"""Over which a request that failed is repeated."""

REQUEST_TIME: Final = timedelta(seconds=60)


class BlobsUnusable(Exception):
    """The URL of the media store is wrong. The text is a sentence for the operator."""


class ObjectBlobs:
    """Satisfies `engine.ports.BlobStore`."""

    def __init__(self, store: ObjectStore, description: str) -> None:
        self._store = store
        self.description = description

    async def put(self, key: str, data: bytes) -> None:
        """Keeps `data` under `key`. Raises StorageUnavailable."""
        try:
            await obstore.put_async(self._store, key, data)
        except (BaseError, OSError) as error:
            raise _unavailable("put", error) from None

    async def get(self, key: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """At most `size` of the bytes from `offset` on; None when there is nothing. Raises StorageUnavailable."""
        try:
            if size is None and offset == 0:
                return bytes(await (await obstore.get_async(self._store, key)).bytes_async())
            if size is None:
                size = (await obstore.head_async(self._store, key))["size"] - offset
            if size <= 0:
                return b""
            return bytes(await obstore.get_range_async(self._store, key, start=offset, length=size))
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _unavailable("get", error) from None

    async def delete(self, key: str) -> None:
        """Forgets the key. Raises StorageUnavailable."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable("delete", error) from None


def open_blobs(url: str) -> ObjectBlobs:
    """The media store at `url`. Connects to nothing. Raises BlobsUnusable."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "file" and not parts.netloc and parts.path not in ("", "/"):
            path = Path(unquote(parts.path))
            path.mkdir(parents=True, exist_ok=True)
            return ObjectBlobs(LocalStore(path), f"folder {path}")
        if parts.scheme == "s3" and parts.hostname and "@" not in parts.netloc:
            return ObjectBlobs(
                _s3(parts.netloc, parts.path.strip("/"), parts.query), f"S3 bucket {parts.netloc}"
            )
    except OSError as error:
        raise BlobsUnusable(f"media_store: {error.filename}: {error.strerror}") from error
    except BaseError as error:
        raise BlobsUnusable("media_store: these settings of S3 do not fit together") from error
    raise BlobsUnusable(
        "media_store is `database`, `file:///folder` or `s3://bucket/prefix?endpoint=...&region=...`"
    )


def _s3(bucket: str, prefix: str, query: str) -> S3Store:
    options = dict(parse_qsl(query))
    if unknown := options.keys() - {"endpoint", "region"}:
        raise BlobsUnusable(
            f"media_store: there is no option {sorted(unknown)[0]!r}, only endpoint and region"
        )
    endpoint = options.get("endpoint")
    return S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=endpoint,
        region=options.get("region", "us-east-1"),
        client_options={"allow_http": (endpoint or "").startswith("http://"), "timeout": REQUEST_TIME},
        retry_config={"max_retries": 5, "retry_timeout": RETRY_TIME},
    )


def _unavailable(what: str, error: Exception) -> StorageUnavailable:
    # Not its words: they quote URLs and answers.
    logger.error(
        "the media store does not do what it should", extra={"what": what, "error": type(error).__name__}
    )
    return StorageUnavailable()
