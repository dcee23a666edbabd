"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and base x 2^(n-1), at most `maximum`.

    Full jitter spreads accounts that failed together, so that their retries do not
    arrive together. All times are seconds.
    """

    base: float
    maximum: float
    random: random.Random = field(default_factory=random.Random)

    def delay(self, failures: int) -> float:
        """The wait after the `failures`-th failure in a row, from 1."""
        # 2.0**64 bounds the exponent: beyond it the maximum has long been reached.
        return self.random.uniform(0.0, min(self.maximum, self.base * 2.0 ** min(failures - 1, 64)))
