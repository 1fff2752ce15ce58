"""What models can be given, where Agno would leave out the rest without an error.

Agno's Claude takes pictures and documents; of a sound or a film it logs that it is "currently unsupported" and asks the model
without it. A caller would be answered as if he had sent nothing, so an agent that says it accepts them is refused at start.
"""

from typing import Any, Final

from agno.agent import Agent
from agno.models.base import Model
from agno.team import Team

from dragoman.agents import MediaKind
from dragoman.agents.base import Served
from dragoman.catalog.problems import Rejected

_LEFT_OUT: Final = {"agno.models.anthropic.claude": ("Claude", (MediaKind.AUDIO, MediaKind.VIDEO))}
"""By the module of a model's class: whose it is, and what its messages leave out. Not by class: it need not be installed."""


def check_media(agent: Served[Any, Any], built: Agent | Team, model: Model) -> None:
    """Raises Rejected for an agent that accepts what its model, or a team's leader's, never gets.

    What goes to tools alone (`send_media_to_model=False`) may be anything.
    """
    if not built.send_media_to_model:
        return
    for base in type(model).__mro__:
        name, kinds = _LEFT_OUT.get(base.__module__, ("", ()))
        for kind in kinds:
            if kind in agent.accepted_media:
                raise Rejected(
                    f"{agent.name} accepts {kind.name} in accepted_media, but its model does not: Agno leaves it out "
                    f"of what it sends to {name}"
                )
