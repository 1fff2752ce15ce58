"""Fixtures that the whole tree shares: databases of one's own."""

from support.fixtures import database_url, mariadb

from dragoman.config import silence_agno

silence_agno()

__all__ = ["database_url", "mariadb"]
