"""An agent cannot accept media that its model never gets."""

from collections.abc import Collection
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.base import Model
from agno.team import Team

from dragoman.agents import BaseAgent, BaseTeam, MediaKind
from dragoman.catalog.entry import check
from dragoman.catalog.problems import Rejected
from dragoman.testing.offline import OfflineModel


class MyClaude(Claude):
    """A subclass, as Agno's own for other clouds are."""


CLAUDE, MY_CLAUDE, OFFLINE = Claude(api_key="k"), MyClaude(api_key="k"), OfflineModel(delay=0)


def agent(model: Model, kinds: Collection[MediaKind], **options: Any) -> BaseAgent[Any, Any]:
    class Listener(BaseAgent):
        name = "listener"
        accepted_media = kinds

        def build_agent(self) -> Agent:
            return Agent(model=model, telemetry=False, **options)

    return Listener()


@pytest.mark.parametrize("kind", [MediaKind.AUDIO, MediaKind.VIDEO])
@pytest.mark.parametrize("model", [CLAUDE, MY_CLAUDE], ids=["claude", "subclass"])
def test_claude_is_given_neither_sounds_nor_films(model: Model, kind: MediaKind) -> None:
    with pytest.raises(Rejected, match=f"listener accepts {kind.name} .* Claude"):
        check(agent(model, [MediaKind.IMAGE, kind]), "test", None)


@pytest.mark.parametrize(
    ("model", "kinds", "options"),
    [
        (CLAUDE, [MediaKind.IMAGE, MediaKind.FILE], {}),
        (CLAUDE, list(MediaKind), {"send_media_to_model": False}),
        (OFFLINE, list(MediaKind), {}),
    ],
    ids=["what it takes", "for tools alone", "another model"],
)
def test_what_a_model_may_get_is_accepted(
    model: Model, kinds: list[MediaKind], options: dict[str, Any]
) -> None:
    assert len(check(agent(model, kinds, **options), "test", None).proto.accepted_media) == len(kinds)


def test_of_a_team_the_leader_counts() -> None:
    class Band(BaseTeam):
        name = "band"
        accepted_media = (MediaKind.AUDIO,)
        leader: Model = OFFLINE

        def build_team(self) -> Team:
            return Team(
                members=[Agent(name="one", model=CLAUDE, telemetry=False)],
                model=self.leader,
                telemetry=False,
            )

    band = Band()
    assert list(check(band, "test", None).proto.accepted_media)
    band.leader = CLAUDE
    with pytest.raises(Rejected, match="band accepts AUDIO"):
        check(band, "test", None)
