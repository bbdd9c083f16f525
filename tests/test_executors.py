"""Signals as a wish to stop."""

from __future__ import annotations

import os
import signal

import pytest

from noisebench.executors.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_wish_and_the_second_an_order(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        assert not signals.stopped
        os.kill(os.getpid(), number)
        assert signals.stopped
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.stopped
    finally:
        signal.signal(signal.SIGHUP, before)
