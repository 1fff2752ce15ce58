"""Fetches the media that callers name by URL, from hosts that the operator allows. Knows no gRPC and no Agno.

HttpFetcher     the MediaFetcher of the engine's ports
Hosts           which hosts are allowed, and which of them may be of any address
"""

from dragoman.fetch.fetcher import HttpFetcher
from dragoman.fetch.targets import Hosts

__all__ = ["Hosts", "HttpFetcher"]
