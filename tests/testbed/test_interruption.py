import os
import signal
import threading

import pytest

from testbed import local_processes
from testbed.interruption import interruptible, uninterrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers():
    """Have signals end the tests as they would, and be handled afterwards as they were."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in SIGNALS}
    yield
    now = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        signal.signal(each, handler)
    assert set(now.values()) == {signal.default_int_handler}, "blocks left their handlers behind"


def strike(number: int) -> None:
    """Send this process a signal; Python has handled it when this returns."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_interrupts_and_the_next_ones_do_not_break_off_what_follows(first):
    removed = []

    def work() -> None:
        try:
            strike(first)
            removed.append("too soon")
        finally:
            for number in SIGNALS:
                strike(number)
                removed.append(number)

    with pytest.raises(KeyboardInterrupt), interruptible():
        work()
    assert removed == SIGNALS


def test_what_removes_is_not_interrupted_and_its_grace_is_ended_by_a_signal():
    with uninterrupted(), pytest.raises(KeyboardInterrupt), interruptible():
        strike(signal.SIGINT)


def test_an_interruption_of_what_removes_comes_through_when_it_is_done():
    removed = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted():
                strike(signal.SIGINT)
                removed.append("this")
            removed.append("that")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert removed == ["this", "that"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ended_a_grace_is_raised_again_where_ctrl_c_is_ignored(number, monkeypatch):
    """Shells have what they start in the background ignore it."""
    strikes = iter([number])

    def wait(_processes, *, timeout_s):
        del timeout_s
        for each in strikes:
            strike(each)

    monkeypatch.setattr(local_processes, "_await_end", wait)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt) as caught, interruptible(), uninterrupted():
        local_processes.stop([], grace_s=30.0, tell=lambda _: None)
    assert caught.value.args == (number,)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_removes_after_an_interruption_lets_no_second_one_through():
    removed = []

    def work() -> None:
        try:
            strike(signal.SIGINT)
        finally:
            with uninterrupted():
                strike(signal.SIGINT)
            removed.append("all")

    with pytest.raises(KeyboardInterrupt), interruptible():
        work()
    assert removed == ["all"]


def test_a_handler_that_is_not_of_python_is_left_alone(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with interruptible(), uninterrupted():
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler


def test_who_ignores_hangups_goes_on_after_one():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        strike(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt), interruptible():
        strike(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, signal.default_int_handler)


def test_a_thread_leaves_signals_to_the_main_thread():
    found = []

    def look() -> None:
        with interruptible(), uninterrupted():
            found.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert set(found) == {signal.default_int_handler}
