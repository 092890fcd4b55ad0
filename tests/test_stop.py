"""Stopping on request, and leaving at once."""

import os
import signal
import subprocess
import sys

import pytest

from jaxalign.hosts import stop


def test_a_handler_that_python_does_not_know_gives_way_to_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {}

    def install(number: int, handler: object) -> None:  # answers None, as for handlers that C code has installed
        installed[number] = handler

    monkeypatch.setattr(signal, "signal", install)
    with stop.stop_on_signal():
        assert installed.keys() == {signal.SIGTERM, signal.SIGINT}
    assert set(installed.values()) == {signal.SIG_DFL}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_the_old_handlers_return(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop.stop_on_signal() as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested()
    assert signal.getsignal(number) is before


INSIST = """
import os, signal
from jaxalign.hosts import stop
with stop.stop_on_signal():
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("never")
"""


def test_the_second_interrupt_kills() -> None:
    found = subprocess.run([sys.executable, "-c", INSIST], capture_output=True, text=True, timeout=60)
    assert found.returncode == -signal.SIGINT
    assert found.stdout == "still here\n"


LEAVE = """
import threading, time
from jaxalign.hosts import stop
threading.Thread(target=time.sleep, args=(300,)).start()
print("last words")
stop.leave(5)
"""


def test_leaving_waits_for_no_thread_and_loses_no_words() -> None:
    found = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (5, "last words\n")
