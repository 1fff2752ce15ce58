"""What the whole tree shares: databases of one's own, and no key for a real model."""

import os

from hypothesis import HealthCheck, settings
from support.fixtures import database_url, mariadb

from dragoman.config import silence_agno

silence_agno()

# What an example takes says how busy the machine is. In CI Hypothesis takes a profile of its own, which does likewise.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])

# For `make fuzz`: see support.nasty.
settings.register_profile("long", deadline=None, database=None)

# Tests never reach a real model: with a key in the environment the examples would choose Claude.
os.environ.pop("ANTHROPIC_API_KEY", None)

__all__ = ["database_url", "mariadb"]
