"""SIGTERM and SIGINT during a run."""

import os
import signal

import pytest

from trainer.engine.shutdown import GracefulShutdown, ShutdownRequested


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_work_continues(number):
    with GracefulShutdown() as signals:
        assert signals.received is None
        send(number)
        assert signals.received == number.name


def test_the_first_signal_is_the_one_that_counts():
    with GracefulShutdown() as signals:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert signals.received == "SIGTERM"


def test_a_second_ctrl_c_does_not_wait():
    with GracefulShutdown() as signals:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.received == "SIGINT"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_can_be_done_again_ends_at_once(number):
    done = []
    with GracefulShutdown() as signals:
        with pytest.raises(ShutdownRequested), signals.cancellable():
            done.append("before")
            send(number)
            done.append("after")
        assert signals.received == number.name
    assert done == ["before"]


def test_after_a_signal_nothing_long_starts():
    with GracefulShutdown() as signals:
        send(signal.SIGTERM)
        with pytest.raises(ShutdownRequested), signals.cancellable():
            pytest.fail("has started")


def test_what_has_ended_is_not_interrupted_any_more():
    with GracefulShutdown() as signals:
        with signals.cancellable():
            pass
        send(signal.SIGTERM)
        assert signals.received == "SIGTERM"


def test_interrupted_once_it_may_tidy_up_in_peace():
    tidied = False
    with GracefulShutdown() as signals, pytest.raises(ShutdownRequested), signals.cancellable():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            tidied = True
    assert tidied


def test_signals_go_back_to_whom_they_came_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(ZeroDivisionError), GracefulShutdown():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in before} == before
