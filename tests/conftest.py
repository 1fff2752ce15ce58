"""What the whole tree shares: databases of one's own, and no key for a real model."""

import os

from support.fixtures import database_url, mariadb

from dragoman.config import silence_agno

silence_agno()

# Tests never reach a real model: with a key in the environment the examples would choose Claude.
os.environ.pop("ANTHROPIC_API_KEY", None)

__all__ = ["database_url", "mariadb"]
