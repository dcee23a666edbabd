"""How many requests to keep in flight."""

from __future__ import annotations

import math

START = 8
PERIOD = 1.0
TOLERANCE = 2.0


class FixedConcurrency:
    """The configured number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def observe(self, latency: float) -> None:
        """Nothing to learn."""

    def adjust(self, now: float, *, starved: bool) -> bool:  # noqa: ARG002 - the shared interface
        return False


class AutoConcurrency:
    """Found by Little's law: in flight = rate x latency, with what the latency tells.

    It grows by half each second while permits are spare only for want of a place in
    flight, and as long as latency stays within twice its long-term level (then more in
    flight would only queue at the server); it shrinks in proportion when latency rises
    above that. A slow API with a high quota is found within seconds, and an overloaded
    one is not pushed further.
    """

    def __init__(self, maximum: int) -> None:
        self.value = min(START, maximum)
        self._maximum = maximum
        self._level: float | None = None
        self._sum = 0.0
        self._count = 0
        self._next = -math.inf

    def observe(self, latency: float) -> None:
        """Learn from one answered attempt; seconds."""
        self._sum += latency
        self._count += 1

    def adjust(self, now: float, *, starved: bool) -> bool:
        """Once a second, set a new `value`; `starved`: a permit was free but no place in flight was."""
        if now < self._next or not self._count:
            return False
        self._next = now + PERIOD
        latency = self._sum / self._count
        self._sum, self._count = 0.0, 0
        if self._level is None:
            self._level = latency
        # Slowly up, quickly down: the level is that of an API that is not crowded.
        self._level += (latency - self._level) * (0.05 if latency > self._level else 0.5)
        before = self.value
        if latency > TOLERANCE * self._level:
            self.value = max(START, int(before * TOLERANCE * self._level / latency))
        elif starved:
            self.value = before + max(4, before // 2)
        self.value = min(self.value, self._maximum)
        return self.value != before
