"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `ports.Clock`."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
