"""The rate limit: a semaphore with a clock, and a guard where requests leave."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

CATCH_UP = 0.004
GUARDED_CATCH_UP = 0.009


def whole_requests(limit: float) -> float:
    """The limit as a number of requests that fits into a second; below one a second it stays a fraction."""
    return math.floor(limit) if limit >= 1 else limit


def margin(limit: float) -> float:
    """Seconds by which `limit` requests are spread over more than a second."""
    return min(0.011 + 0.5 / whole_requests(limit), 0.025)


class RateLimiter:
    """Permits for requests: at most `limit` in any one-second window, at most `in_flight` at once.

    A `BoundedSemaphore` caps what is in flight; a schedule of next slots caps the rate.
    Slots are evenly spaced: the schedule starts empty, so that there is no burst at the
    start, and a late caller catches up by a few milliseconds at most. The spacing is a little wider
    than 1 / limit, because the promise holds where requests *arrive*: over any window
    the network and the scheduler may squeeze them together by about 8 ms at high
    limits and 17 ms at low ones before one request too many falls into a second.

    Args:
        limit: requests a second; a fraction above one is rounded down, since a window
            holds whole requests.
        in_flight: the most permits held at the same time.
        validity: seconds that may pass between a permit and its request. Those of a second
            and of that time more may then leave in one second, so they are spread over both.
        catch_up: seconds by which a late caller catches up. A commit takes longer than 4 ms, but only
            where a `WindowGuard` stands before the network may it be made up for.
    """

    def __init__(
        self, limit: float, in_flight: int, *, validity: float = 0.0, catch_up: float = CATCH_UP
    ) -> None:
        self.spacing = (1 + margin(limit) + validity) / whole_requests(limit)
        self._catch_up = catch_up
        self._slow = (self.spacing, -math.inf)
        self._next = -math.inf
        self._permits = threading.BoundedSemaphore(in_flight)

    def begin(self, now: float) -> None:
        """Take it that another process spent a slot this very moment.

        A run that was killed is gone on with at once, and both lives are under one limit:
        with a full spacing between them their schedules are one.
        """
        self._next = now + self.spacing

    def slow_down(self, spacing: float, until: float) -> None:
        """Leave at least so many seconds between two slots until then; the last word counts.

        It is never less than the configured limit's.
        """
        self._slow = (spacing, until)

    def _spacing(self, now: float) -> float:
        spacing, until = self._slow
        return max(self.spacing, spacing) if now < until else self.spacing

    def delay(self, now: float) -> float:
        """Seconds from `now` (monotonic) until the next slot; 0 when it is there."""
        return max(0.0, self._next - now)

    def acquire(self, now: float) -> bool:
        """Take a permit if a slot and a place are free at `now`."""
        if self._next > now or not self._permits.acquire(blocking=False):
            return False
        self._next = max(self._next, now - self._catch_up) + self._spacing(now)
        return True

    def release(self) -> None:
        """Give the place back; the slot is spent."""
        self._permits.release()


class WindowGuard:
    """Holds a request back that would be one too many in the second before it.

    The limiter paces permits, but what follows a permit takes its time: a thread waits for
    the processor, or all of them for one renewed token, and then many requests leave
    together. Here, at the last moment before it is sent, each waits until the one that is
    `limit` places ahead of it was sent a second ago, and most of the margin more for the
    network. In an undisturbed night nobody waits. Whoever waits keeps the others out, and
    notes when it woke up, not when it should have: a busy machine wakes some late.
    """

    def __init__(
        self,
        limit: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period = (1 + 0.8 * margin(limit)) * max(1.0, 1 / limit)
        self._sent = deque([-math.inf] * max(1, math.floor(limit)))
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._sleep = sleep

    def wait(self) -> None:
        """Return when a request may leave; at once, but for a disturbance."""
        with self._lock:
            at = self._sent.popleft() + self._period
            while (now := self._monotonic()) < at:
                self._sleep(at - now)
            self._sent.append(now)
