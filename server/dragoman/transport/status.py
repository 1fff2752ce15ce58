"""Ends a call with a typed status: a domain error as it is, anything else as INTERNAL with an incident id.

The status of an error comes from `dragoman.status`. What a caller is told of a defect is the incident id alone; the log
has the traceback under the same id.
"""

import logging
from typing import Never

from google.rpc import code_pb2
from grpc_status import rpc_status

from dragoman import ids
from dragoman.errors import DragomanError, Internal
from dragoman.status import code_of, to_status
from dragoman.transport import request_id
from dragoman.transport.context import Context

logger = logging.getLogger(__name__)


def to_domain(error: BaseException, method: str) -> DragomanError:
    """The error itself when a caller may be told of it; else a logged incident."""
    if isinstance(error, DragomanError):
        return error
    incident = str(ids.new_id())
    logger.error(
        "a call failed by a defect",
        exc_info=error,
        extra={"incident_id": incident, "method": method, "request_id": request_id.current()},
    )
    return Internal(incident)


def code_name(error: DragomanError) -> str:
    """The name of the code that the error ends a call with."""
    return str(code_pb2.Code.Name(code_of(error)))


async def abort(context: Context, error: DragomanError) -> Never:
    """Ends the call with the error's status and the request id. Never returns."""
    status = rpc_status.to_status(to_status(error))
    # An abort drops trailing metadata that was set before, so the request id travels with the status.
    trailing = (*status.trailing_metadata, (request_id.HEADER, request_id.current()))
    await context.abort(status.code, status.details, trailing)
