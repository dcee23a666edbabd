"""Latency percentiles in constant memory."""

from __future__ import annotations

import math
from collections import Counter

GROWTH = 1.05
SMALLEST = 1e-4
WIDTH = math.log(GROWTH)
# What the metrics tell apart, in seconds; ESG APIs answer within 0.7 to 13 s.
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)


class LatencyHistogram:
    """Counts in buckets that grow by 5%: percentiles are right to within 2.5%. Seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._total = 0
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[int(math.log(max(seconds, SMALLEST) / SMALLEST) / WIDTH)] += 1
        self._total += 1
        self.sum += seconds

    def within(self) -> dict[str, int]:
        """How many did not exceed each of `BOUNDS`, and `+Inf`, as Prometheus counts them."""
        below = {f"{bound:g}": 0 for bound in BOUNDS}
        for bucket, count in self._buckets.items():
            middle = SMALLEST * GROWTH ** (bucket + 0.5)
            for bound in BOUNDS:
                if middle <= bound:
                    below[f"{bound:g}"] += count
        return below | {"+Inf": self._total}

    def copy(self) -> LatencyHistogram:
        """As it is now."""
        return self.since(LatencyHistogram())

    def since(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """Only what has come after `earlier`, a copy of this one."""
        later = LatencyHistogram()
        later._buckets = self._buckets - earlier._buckets
        later._total = self._total - earlier._total
        later.sum = self.sum - earlier.sum
        return later

    def percentile(self, share: float) -> float | None:
        """The latency that `share` (0 to 1) of all attempts did not exceed; None before the first."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self._total:
                return float(SMALLEST * GROWTH ** (bucket + 0.5))
        return None
