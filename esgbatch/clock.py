"""The machine's clock."""

from __future__ import annotations

import time as machine


class SystemClock:
    """Implements `ports.Clock`."""

    time = staticmethod(machine.time)
    monotonic = staticmethod(machine.monotonic)
    sleep = staticmethod(machine.sleep)
