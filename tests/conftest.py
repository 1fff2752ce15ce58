"""What the whole tree shares: databases of one's own, and no key for a real model."""

import os

from hypothesis import settings
from support.fixtures import database_url, mariadb

from dragoman.config import silence_agno

silence_agno()

# For `make fuzz`: see support.nasty.
settings.register_profile("long", deadline=None, database=None)

# Tests never reach a real model: with a key in the environment the examples would choose Claude.
os.environ.pop("ANTHROPIC_API_KEY", None)

__all__ = ["database_url", "mariadb"]
