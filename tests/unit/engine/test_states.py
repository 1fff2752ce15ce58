"""The table of run states, as a table and under any sequence of steps."""

from hypothesis import given
from hypothesis import strategies as st

from dragoman.engine.states import TRANSITIONS, Step, advance
from dragoman.records import RunStatus


def test_final_states_lead_nowhere() -> None:
    for status in RunStatus:
        leads = {step for step in Step if advance(status, step) is not None}
        assert bool(leads) != status.final


def test_every_status_is_reached_from_one_that_waits() -> None:
    reached = {RunStatus.QUEUED}
    for _ in RunStatus:
        reached |= {to for (status, _), to in TRANSITIONS.items() if status in reached}
    assert reached == set(RunStatus)


def test_whatever_has_not_ended_can_be_cancelled() -> None:
    for status in RunStatus:
        cancelled = None if status.final else RunStatus.CANCELLED
        assert advance(status, Step.CANCEL) is cancelled


def test_nothing_waits_for_its_turn_twice_and_only_a_pause_is_continued() -> None:
    assert RunStatus.QUEUED not in TRANSITIONS.values()
    assert [status for status in RunStatus if advance(status, Step.CONTINUE)] == [RunStatus.PAUSED]


@given(st.sampled_from([RunStatus.QUEUED, RunStatus.RUNNING]), st.lists(st.sampled_from(Step)))
def test_however_it_goes_a_run_ends_at_most_once(status: RunStatus, steps: list[Step]) -> None:
    ends = 0
    for step in steps:
        following = advance(status, step)
        if following is not None:
            assert not status.final
            status = following
            ends += status.final
    assert ends <= 1
