"""What every call goes through, one file each. Order, outermost first: sanitise, access, quota, stream driver."""

from dragoman.transport.interceptors.access import AccessInterceptor
from dragoman.transport.interceptors.quota import Gate, QuotaInterceptor
from dragoman.transport.interceptors.sanitise import SanitiseInterceptor
from dragoman.transport.interceptors.stream_driver import StreamDriverInterceptor

__all__ = [
    "AccessInterceptor",
    "Gate",
    "QuotaInterceptor",
    "SanitiseInterceptor",
    "StreamDriverInterceptor",
]
