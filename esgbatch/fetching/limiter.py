"""The rate limit: a semaphore with a clock."""

from __future__ import annotations

import math
import threading

CATCH_UP = 0.004


class RateLimiter:
    """Permits for requests: at most `limit` in any one-second window, at most `in_flight` at once.

    A `BoundedSemaphore` caps what is in flight; a schedule of next slots caps the rate.
    Slots are evenly spaced: the schedule starts empty, so that there is no burst at the
    start, and a late caller catches up by 4 ms at most. The spacing is a little wider
    than 1 / limit, because the promise holds where requests *arrive*: over any window
    the network and the scheduler may squeeze them together by about 8 ms at high
    limits and 17 ms at low ones before one request too many falls into a second.

    Args:
        limit: requests a second; a fraction above one is rounded down, since a window
            holds whole requests.
        in_flight: the most permits held at the same time.
    """

    def __init__(self, limit: float, in_flight: int) -> None:
        whole = math.floor(limit) if limit >= 1 else limit
        margin = min(0.011 + 0.5 / whole, 0.025)
        self.spacing = (1 + margin) / whole
        self._next = -math.inf
        self._permits = threading.BoundedSemaphore(in_flight)

    def delay(self, now: float) -> float:
        """Seconds from `now` (monotonic) until the next slot; 0 when it is there."""
        return max(0.0, self._next - now)

    def acquire(self, now: float) -> bool:
        """Take a permit if a slot and a place are free at `now`."""
        if self._next > now or not self._permits.acquire(blocking=False):
            return False
        self._next = max(self._next, now - CATCH_UP) + self.spacing
        return True

    def release(self) -> None:
        """Give the place back; the slot is spent."""
        self._permits.release()
