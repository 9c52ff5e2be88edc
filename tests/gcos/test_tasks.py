from enum import Enum

import pytest

from gcos.errors import WrongStateError
from gcos.tasks import (
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    Placement,
    RunState,
    TaskState,
    check_run_transition,
    check_task_transition,
)


def reachable(table: dict, begin: Enum) -> set[Enum]:
    seen, ahead = {begin}, [begin]
    while ahead:
        for state in table[ahead.pop()] - seen:
            seen.add(state)
            ahead.append(state)
    return seen


TABLES = [(TASK_TRANSITIONS, TaskState.QUEUED), (RUN_TRANSITIONS, RunState.LEASED)]


@pytest.mark.parametrize(("table", "begin"), TABLES)
def test_the_table_knows_every_state_and_every_state_is_reached(table: dict, begin: Enum) -> None:
    assert set(table) == set(type(begin))
    assert reachable(table, begin) == set(type(begin))


@pytest.mark.parametrize(("table", "begin"), TABLES)
def test_nothing_follows_an_end_and_every_other_state_can_reach_one(
    table: dict, begin: Enum
) -> None:
    for state in type(begin):
        assert (not table[state]) is state.is_terminal
        assert any(end.is_terminal for end in reachable(table, state))


def test_no_state_is_listed_as_its_own_successor() -> None:
    for table, _ in TABLES:
        assert all(state not in after for state, after in table.items())


def test_staying_is_allowed_and_an_end_is_final() -> None:
    check_task_transition(TaskState.FAILED, TaskState.FAILED)
    check_run_transition(RunState.RUNNING, RunState.RUNNING)
    with pytest.raises(WrongStateError, match="from SUCCEEDED to QUEUED"):
        check_task_transition(TaskState.SUCCEEDED, TaskState.QUEUED)
    with pytest.raises(WrongStateError, match="from REVOKED to RUNNING"):
        check_run_transition(RunState.REVOKED, RunState.RUNNING)


def test_a_task_may_be_cancelled_until_it_has_ended() -> None:
    for state, after in TASK_TRANSITIONS.items():
        assert (TaskState.CANCELLED in after) is not state.is_terminal


def test_only_a_run_that_was_published_succeeds() -> None:
    before = {state for state, after in RUN_TRANSITIONS.items() if RunState.SUCCEEDED in after}
    assert before == {RunState.COMMITTING}


def test_only_a_run_that_has_not_started_is_returned() -> None:
    before = {state for state, after in RUN_TRANSITIONS.items() if RunState.LEASE_RETURNED in after}
    assert before == {RunState.LEASED, RunState.STAGING}


def test_a_leased_task_has_a_holder_and_no_other_has() -> None:
    leased = {state for state in TaskState if state.is_leased}
    assert leased == {
        TaskState.LEASED,
        TaskState.STAGING,
        TaskState.RUNNING,
        TaskState.COMMITTING,
    }


@pytest.mark.parametrize(
    ("placement", "is_admitted"),
    [
        (Placement(), True),
        (Placement(allow=("paris",)), True),
        (Placement(allow=("FR",)), True),
        (Placement(allow=("oslo", "NO")), False),
        (Placement(deny=("paris",)), False),
        (Placement(deny=("FR",)), False),
        (Placement(allow=("paris",), deny=("FR",)), False),
        (Placement(prefer=("oslo",)), True),
    ],
)
def test_a_denial_beats_an_allowance(placement: Placement, is_admitted: bool) -> None:
    assert placement.admits("paris", "FR") is is_admitted
