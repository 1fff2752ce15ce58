"""The table of run states, as a table and under any sequence of steps."""

from hypothesis import given
from hypothesis import strategies as st

from dragoman.engine.states import TRANSITIONS, Step, advance
from dragoman.records import RunStatus


def test_final_states_lead_nowhere() -> None:
    for status in RunStatus:
        leads = {step for step in Step if advance(status, step) is not None}
        assert bool(leads) != status.final


def test_every_status_is_reached_from_running() -> None:
    reached = {RunStatus.RUNNING}
    for _ in RunStatus:
        reached |= {to for (status, _), to in TRANSITIONS.items() if status in reached}
    assert reached == set(RunStatus)


@given(st.lists(st.sampled_from(Step)))
def test_however_it_goes_a_run_ends_at_most_once(steps: list[Step]) -> None:
    status, ends = RunStatus.RUNNING, 0
    for step in steps:
        following = advance(status, step)
        if following is not None:
            assert not status.final
            status = following
            ends += status.final
    assert ends <= 1
