"""Long-running commands end cleanly when they are told to, and leave the process as they found it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from apps.lib.stop_signals import stopped_by_signals


def test_the_first_signal_asks_and_the_second_insists() -> None:
    stop = threading.Event()
    with stopped_by_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.value.code == 128 + signal.SIGINT


def test_the_handlers_of_before_come_back_whatever_happens() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ValueError, match="broken"), stopped_by_signals(threading.Event()):
        raise ValueError("broken")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_that_cannot_have_signals_leaves_them_alone() -> None:
    seen = []

    def run() -> None:
        with stopped_by_signals(threading.Event()):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
