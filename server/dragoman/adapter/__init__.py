"""How Agno runs: the only room that knows.

AgnoRunner           runs agents and teams, and says what happened        runner.py
AgnoMessageView      shows a stored message                               view.py
ask_claude           whether a model answers                             probe.py
SniffingInspector    tells whether media are what they claim to be        media.py
Builder, HistorySource   what it needs of the catalog and the store       ports.py
"""

from dragoman.adapter.media import SniffingInspector
from dragoman.adapter.ports import Builder, HistorySource
from dragoman.adapter.probe import ModelSilent, ask_claude
from dragoman.adapter.runner import AgnoRun, AgnoRunner
from dragoman.adapter.view import AgnoMessageView

__all__ = [
    "AgnoMessageView",
    "AgnoRun",
    "AgnoRunner",
    "Builder",
    "HistorySource",
    "ModelSilent",
    "SniffingInspector",
    "ask_claude",
]
