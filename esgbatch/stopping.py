"""Ending in good order when a signal comes or the deadline passes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from esgbatch.errors import ExitCode, StopRequested


class StopSignal:
    """One place where SIGINT, SIGTERM and the deadline arrive.

    In a `cooperative` section the request is kept in `requested` and the section is
    woken. Everywhere else `StopRequested` is raised in the main thread, whatever it
    waits for: every stage is safe to leave at any point, as it is against SIGKILL.
    """

    def __init__(self) -> None:
        self.requested: StopRequested | None = None
        self._wake: Callable[[], None] | None = None

    @contextmanager
    def installed(self, seconds: float | None = None) -> Iterator[None]:
        """Listen for signals, and for the deadline `seconds` from now; main thread only."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def cooperative(self, wake: Callable[[], None]) -> Iterator[None]:
        """While this lasts, a request wakes instead of interrupting; it is raised at the end."""
        self._wake = wake
        try:
            yield
        finally:
            self._wake = None
        if self.requested is not None:
            raise self.requested

    def request(self, stop: StopRequested) -> None:
        """Ask to stop; a second request does not wait for cooperation."""
        first = self.requested is None
        self.requested = stop
        if self._wake is None or not first:
            raise stop
        self._wake()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGALRM:
            self.request(StopRequested("the deadline passed", ExitCode.DEADLINE))
        else:
            self.request(StopRequested.by_signal(signum))
