"""The order of events."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from testbed.sim.engine import BEAT, DECISION, WORLD, Engine

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from((WORLD, BEAT, DECISION))))


@given(events=EVENTS)
def test_events_come_by_time_then_priority_then_the_order_of_asking(
    events: list[tuple[int, int]],
) -> None:
    engine = Engine(0.0)
    seen: list[int] = []
    for number, (time_s, priority) in enumerate(events):
        engine.at(float(time_s), partial(seen.append, number), priority)
    engine.run()
    assert seen == sorted(range(len(events)), key=lambda number: (events[number], number))
    assert engine.event_count == len(events)


def test_time_moves_from_event_to_event() -> None:
    engine = Engine(10.0)
    seen: list[float] = []
    for time_s in (12.5, 11.0):
        engine.at(time_s, lambda: seen.append(engine.now_s))
    engine.run()
    assert seen == [11.0, 12.5]
    assert engine.now_s == 12.5


def test_an_instant_that_has_passed_is_now() -> None:
    engine = Engine(10.0)
    seen: list[float] = []
    engine.at(3.0, lambda: seen.append(engine.now_s))
    engine.run()
    assert seen == [10.0]


def test_what_is_asked_for_soon_comes_at_this_instant_after_what_is_being_done() -> None:
    engine = Engine(0.0)
    seen: list[str] = []

    def first() -> None:
        engine.soon(partial(seen.append, "soon"))
        engine.at(1.0, partial(seen.append, "later"))
        seen.append("first")

    engine.at(1.0, first)
    engine.at(1.0, partial(seen.append, "second"))
    engine.run()
    assert seen == ["first", "second", "soon", "later"]


def test_what_lies_behind_the_end_stays_for_the_next_call() -> None:
    engine = Engine(0.0)
    seen: list[float] = []
    for time_s in (1.0, 2.0, 3.0):
        engine.at(time_s, partial(seen.append, time_s))
    engine.run(until_s=2.0)
    assert seen == [1.0, 2.0]
    engine.run()
    assert seen == [1.0, 2.0, 3.0]
