"""Real signals in a real process: they interrupt, wake, or come twice, and are handled in order."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from esgbatch.errors import ExitCode, StopRequested
from esgbatch.stopping import StopSignal

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0

BEGIN = """
import os, select, signal, sys, threading, time
from esgbatch.errors import StopRequested
from esgbatch.stopping import StopSignal

stop = StopSignal()
woken = threading.Event()
def say(*words):
    # print is not reentrant, and a handler says things, too.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def end(error):
    say(type(error).__name__, int(error.code), error)
"""

WAITING = """
try:
    with stop.installed():
        say("ready")
        {wait}
except StopRequested as error:
    end(error)
"""

COOPERATIVE = """
try:
    with stop.installed({seconds}):
        with stop.cooperative(woken.set):
            say("ready")
            assert woken.wait(30)
            say("woken", stop.requested.code.value)
            say("last commit")
        say("never here")
except StopRequested as error:
    end(error)
"""

STUBBORN = """
try:
    with stop.installed():
        with stop.cooperative(lambda: say("woken")):
            say("ready")
            while True:
                time.sleep(30)
except StopRequested as error:
    end(error)
"""

RESTORED = """
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
with stop.installed(30):
    pass
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
try:
    say("ready")
    time.sleep(30)
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""


class Process:
    """A Python process that says "ready" when a signal may come."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + program], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        # One that does not stop ends here, and its test fails.
        self._patience = threading.Timer(PATIENCE, self._process.kill)
        self._patience.start()
        self.hears("ready")

    def hears(self, wanted: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().rstrip("\n") == wanted

    def ends(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        self._process.stdout.close()
        self._patience.cancel()
        assert self._process.wait(PATIENCE) == 0
        return said.rstrip("\n")

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "wait",
    ["time.sleep(30)", "select.select([], [], [], 30)", "threading.Lock().acquire() and woken.wait(30)"],
)
def test_a_signal_interrupts_whatever_the_main_thread_waits_for(signum: int, code: int, wait: str) -> None:
    process = Process(WAITING.format(wait=wait))
    sent = time.monotonic()
    process.send(signum)
    name = signal.Signals(signum).name
    assert process.ends() == f"StopRequested {code} Stopped by {name}; everything done is kept."
    assert time.monotonic() - sent < 2.0


def test_a_cooperative_section_is_woken_and_comes_to_its_end_first() -> None:
    process = Process(COOPERATIVE.format(seconds=""))
    process.send(signal.SIGTERM)
    process.hears("woken 143")
    process.hears("last commit")
    assert process.ends() == "StopRequested 143 Stopped by SIGTERM; everything done is kept."


def test_a_second_signal_does_not_wait_for_cooperation() -> None:
    process = Process(STUBBORN)
    process.send(signal.SIGTERM)
    process.hears("woken")
    process.send(signal.SIGINT)
    assert process.ends() == "StopRequested 130 Stopped by SIGINT; everything done is kept."


def test_the_deadline_is_a_signal_like_the_others() -> None:
    process = Process(COOPERATIVE.format(seconds="0.05"))
    process.hears("woken 18")
    process.hears("last commit")
    assert process.ends().startswith("StopRequested 18 ")


@pytest.mark.parametrize("seconds", [0.0, -3600.0])
def test_a_deadline_that_has_passed_comes_at_once(seconds: float) -> None:
    stop = StopSignal()
    with pytest.raises(StopRequested) as raised, stop.installed(seconds):
        threading.Event().wait(PATIENCE)
    assert raised.value.code is ExitCode.DEADLINE


def test_everything_is_as_before_afterwards() -> None:
    process = Process(RESTORED)
    process.send(signal.SIGINT)
    assert process.ends() == "KeyboardInterrupt"


def test_handlers_are_restored_after_a_stop_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopRequested), StopSignal().installed(30):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_without_a_request_nothing_is_raised() -> None:
    stop = StopSignal()
    with stop.installed(), stop.cooperative(lambda: None):
        pass
    assert stop.requested is None


def test_a_failure_in_the_section_is_not_hidden_by_a_request() -> None:
    stop = StopSignal()

    def fail() -> None:
        with stop.cooperative(lambda: None):
            stop.request(StopRequested.by_signal(signal.SIGTERM))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stop.requested is not None


def test_after_the_section_a_request_interrupts_again() -> None:
    stop = StopSignal()
    woken: list[int] = []
    with stop.cooperative(lambda: woken.append(1)):
        pass
    with pytest.raises(StopRequested):
        stop.request(StopRequested.by_signal(signal.SIGINT))
    assert not woken


def test_no_ordinary_handler_of_failures_keeps_a_stop() -> None:
    assert not issubclass(StopRequested, Exception)
