"""Looks whether a server can do its work with these settings, on this machine: what is wrong, and how to mend it.

    findings.py   what is found;  examining.py  runs the checks, each for itself and in bounded time
    access.py     who may call: risks, TLS, keys, tokens        data.py      database, media store, Redis
    machine.py    ports, files, memory                          agents.py    agents, models, prices

Nothing is changed: what is written to see whether it can be is taken back. Works while a server runs, and on one that does
not start. What is found is told without secrets.
"""

from dragoman.doctor.examining import Check, checks, examine, secrets_of
from dragoman.doctor.findings import Finding, Level, failed, good, warning

__all__ = ["Check", "Finding", "Level", "checks", "examine", "failed", "good", "secrets_of", "warning"]
