"""How many requests to keep in flight."""

from __future__ import annotations

import math

# What it begins with: the limit's need at this latency in seconds, between these two.
FAST = 0.025
FEW, MANY = 8, 32
PERIOD = 1.0
ENOUGH = 150  # answers that tell a throughput to 8% (Poisson), where the API is fast
HEADROOM = 1.25
WORTH = 0.2
PAUSE = 10.0
LONGEST_PAUSE = 60.0
SMOOTHING = 0.1


class FixedConcurrency:
    """The configured number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def observe(self, latency: float) -> None:
        """Nothing to learn."""

    def starved(self) -> None:
        """Nothing to learn."""

    def adjust(self, now: float) -> bool:  # noqa: ARG002 - the shared interface
        return False


class AutoConcurrency:
    """Found by measuring: doubled while that pays, up to what Little's law can use.

    In flight = rate x latency, so more than `limit` x latency, and a quarter of headroom,
    is never needed. Below that, it grows while permits are spare only for want of a
    place in flight, and only if the last growth brought a fair part of the throughput it
    promised. An API that is saturated answers no faster for being crowded: then the step
    is taken back, and tried again after 10, 20 … 60 seconds. A latency limit would need a
    level of "not crowded" to compare with, and that drifts. It begins with what the limit
    needs of an API that answers in 25 ms, at least 8 and at most 32: the first seconds of a
    large quota are as dear as the others.

    Args:
        maximum: the most requests in flight.
        limit: requests a second.
    """

    def __init__(self, maximum: int, limit: float) -> None:
        self.value = min(max(FEW, math.ceil(limit * FAST)), MANY, maximum)
        self._maximum = maximum
        self._limit = limit
        self._latency = 0.0
        self._answers = 0
        self._since: float | None = None
        self._settled = -math.inf
        self._starved = False
        self._before: tuple[int, float] | None = None
        self._again_at = -math.inf
        self._pause = PAUSE

    def observe(self, latency: float) -> None:
        """Learn from one answered attempt; seconds."""
        self._latency += (latency - self._latency) * (SMOOTHING if self._latency else 1.0)
        self._answers += 1

    def starved(self) -> None:
        """Learn that a permit was free, but no place in flight."""
        self._starved = True

    def adjust(self, now: float) -> bool:
        """Measure, and perhaps set a new `value`; whether it changed. Monotonic seconds."""
        if self._since is None or now < self._settled:
            # What was in flight before the last change is still coming in.
            self._since, self._answers = now, 0
            return False
        seconds = now - self._since
        if not self._answers or seconds < self._latency or (seconds < PERIOD and self._answers < ENOUGH):
            return False
        throughput = self._answers / seconds
        starved = self._starved
        self._since, self._answers, self._starved = now, 0, False
        if self._did_not_pay(throughput, now):
            return True
        return starved and now >= self._again_at and self._grow(throughput, now)

    def _grow(self, throughput: float, now: float) -> bool:
        useful = math.ceil(self._limit * self._latency * HEADROOM) + FEW
        value = min(self.value * 2, useful, self._maximum)
        if value <= self.value:
            return False
        self._before = (self.value, throughput)
        self.value = value
        self._settled = now + self._latency
        return True

    def _did_not_pay(self, throughput: float, now: float) -> bool:
        if self._before is None:
            return False
        value, before = self._before
        self._before = None
        if throughput >= before * (1 + WORTH * (self.value / value - 1)):
            self._pause = PAUSE
            return False
        self.value = value
        self._again_at = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True
