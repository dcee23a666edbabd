"""Latency percentiles in constant memory."""

from __future__ import annotations

import math
from collections import Counter

GROWTH = 1.05
SMALLEST = 1e-4


class LatencyHistogram:
    """Counts in buckets that grow by 5%: percentiles are right to within 2.5%. Seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._total = 0

    def add(self, seconds: float) -> None:
        self._buckets[int(math.log(max(seconds, SMALLEST) / SMALLEST, GROWTH))] += 1
        self._total += 1

    def copy(self) -> LatencyHistogram:
        """As it is now."""
        return self.since(LatencyHistogram())

    def since(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """Only what has come after `earlier`, a copy of this one."""
        later = LatencyHistogram()
        later._buckets = self._buckets - earlier._buckets
        later._total = self._total - earlier._total
        return later

    def percentile(self, share: float) -> float | None:
        """The latency that `share` (0 to 1) of all attempts did not exceed; None before the first."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self._total:
                return float(SMALLEST * GROWTH ** (bucket + 0.5))
        return None
