"""Who watches the current call. The outermost interceptor begins and ends it; the stream driver counts messages."""

from contextvars import ContextVar

from dragoman.observing import UNOBSERVED, CallWatch

WATCH: ContextVar[CallWatch] = ContextVar("dragoman_call_watch", default=UNOBSERVED)
