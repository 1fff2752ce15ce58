"""The gRPC server: what callers send is checked, handed to engine and store, and answered in protos.

gRPC is known here and nowhere else in the server. A call goes through the interceptors (outermost first: sanitise,
principal, stream driver) to one servicer per service.
"""

from dragoman.transport.server import CannotListen, GrpcServer
from dragoman.transport.tls import TlsUnusable

__all__ = ["CannotListen", "GrpcServer", "TlsUnusable"]
