"""When the file will be there, reckoned from the first minutes on: early enough to do something about it.

The pace is the better of two windows, so that neither the start, where concurrency is still
being found, nor a slow minute is taken for the night. Of a single long hold (an outage, a
`Retry-After`) only the first half minute counts as time at work: it says nothing of the pace
afterwards. Short holds that come again and again count in full: they are the pace.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

WARM_UP = 120.0
CONFIRM_RISK = 60.0
CONFIRM_SAFETY = 600.0
WINDOW = 600.0
LONG_HOLD = 30.0
LATE_MARGIN = 60.0
SAFE_MARGIN = 0.05
LONGEST = 7 * 86_400.0
GROWING = 1.1


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes of it at this pace.

    `ends_in` are the seconds until delivery, a week at most; `late` those after the deadline,
    negative before it and minus infinity without one; `fits` the accounts that would be done in
    time; `rate` and `needed` are accounts a second, None where no deadline or no time is left.
    """

    ends_in: float
    late: float
    fits: int
    rate: float
    needed: float | None


class Forecaster:
    """Watches one rating stage.

    Args:
        limit: requests a second; more accounts cannot be done.
        span: seconds from the beginning of the stage to the deadline, infinite without one. All
            patience is a share of it, so that a short night is judged as early as a long one.
        reserve: seconds that sealing and delivery need.
    """

    def __init__(self, *, limit: float, span: float, reserve: float) -> None:
        self._limit = limit
        self._span = span
        self._reserve = reserve
        self._window = max(5.0, min(WINDOW, span / 20))
        self._long_hold = max(2.0, min(LONG_HOLD, self._window / 20))
        self._samples: deque[tuple[float, int]] = deque()
        self._active = 0.0
        self._last: float | None = None
        self._held_for = 0.0
        self._doubtful_since: float | None = None
        self.at_risk = False

    def observe(self, now: float, processed: int, *, held: bool) -> None:
        """Take in how many accounts are through by `now` (monotonic), and whether all wait at the moment."""
        if self._last is not None:
            step = max(0.0, now - self._last)
            counted = step if not held else min(step, max(0.0, self._long_hold - self._held_for))
            self._held_for = self._held_for + step if held else 0.0
            self._active += counted
        self._last = now
        if self._samples and self._samples[-1][0] == self._active:
            self._samples.pop()
        self._samples.append((self._active, processed))
        while len(self._samples) > 2 and self._samples[1][0] <= self._active - self._window:
            self._samples.popleft()

    def project(self, left: int, remaining: float, hold: float = 0.0) -> Forecast:
        """The forecast for `left` accounts with `remaining` seconds to the deadline, `hold` of them waited."""
        rate = self._rate()
        time = left / rate if rate > 0 else math.inf if left else 0.0
        ends_in = min(hold + time + self._reserve, LONGEST)
        usable = max(0.0, remaining - self._reserve - hold)
        fits = left if usable == math.inf else min(left, int(usable * rate))
        needed = left / usable if 0 < usable < math.inf else None
        return Forecast(ends_in, ends_in - remaining, fits, rate, needed)

    def turned(self, now: float, forecast: Forecast) -> bool:
        """Whether the deadline came in danger just now, or out of it: see `at_risk`.

        It must look so for a while, longer for good news than for bad, so that a forecast near
        the deadline does not change its mind every few minutes.
        """
        certain = forecast.needed is None or forecast.needed > self._limit
        error = 0.0 if certain else self._error()
        margin = max(min(LATE_MARGIN, self._span / 240), forecast.ends_in * error)
        if self.at_risk:
            doubtful = forecast.late < -SAFE_MARGIN * forecast.ends_in
            patience = min(CONFIRM_SAFETY, self._span / 24)
        else:
            doubtful = forecast.late > margin and (certain or self._knows())
            patience = min(CONFIRM_RISK, self._span / 80)
        if not doubtful:
            self._doubtful_since = None
            return False
        if self._doubtful_since is None:
            self._doubtful_since = now
        if now - self._doubtful_since < patience:
            return False
        self.at_risk, self._doubtful_since = not self.at_risk, None
        return True

    def _knows(self) -> bool:
        """Whether the pace is known well enough to call for help: measured, and not growing any more."""
        if self._active < min(WARM_UP, self._span / 40):
            return False
        grows = self._over(self._window / 4) > GROWING * self._over(self._window)
        return not grows or self._active > self._span / 15

    def _error(self) -> float:
        """How far off the pace may be, as a share of it: twice the deviation of a count (Poisson)."""
        counted = self._samples[-1][1] - self._samples[0][1]
        return min(0.25, 2 / math.sqrt(counted)) if counted else 0.25

    def _rate(self) -> float:
        if not self._samples or self._samples[-1][1] == self._samples[0][1] == 0:
            return self._limit  # nothing has come through yet: what is possible at best
        return min(self._limit, max(self._over(self._window), self._over(self._window / 4)))

    def _over(self, seconds: float) -> float:
        """Accounts a second over the last seconds at work."""
        until, after = self._samples[-1]
        since, before = next(
            (each for each in reversed(self._samples) if each[0] <= until - seconds), self._samples[0]
        )
        return (after - before) / (until - since) if until > since else 0.0
