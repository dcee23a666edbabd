"""Business dates, starts and deadlines in the job's time zone."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from esgbatch.ports import Clock


def moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, of a wall-clock time.

    A time that a change to daylight saving skips is taken as that much later; one that
    happens twice is the first (PEP 495, fold=0).
    """
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def today(clock: Clock, zone: ZoneInfo) -> date:
    """The business date: the calendar day in the job's zone."""
    return datetime.fromtimestamp(clock.time(), zone).date()


def hour_has_begun(clock: Clock, zone: ZoneInfo, at: time) -> bool:
    """Whether `at` was within the last hour in the zone: the guard for schedulers that know no zones.

    Such a scheduler starts the job at every UTC hour that may be the right one; exactly
    one of these starts falls into this hour, on every day of the year.
    """
    now = datetime.fromtimestamp(clock.time(), UTC)
    local_day = now.astimezone(zone).date()
    starts = (moment(day, at, zone) for day in (local_day, local_day - timedelta(days=1)))
    return any(start <= now < start + timedelta(hours=1) for start in starts)


class Deadline:
    """The instant at which the run must be over, or none.

    What is left is the smaller of two readings, wall clock and monotonic, so that a
    clock set back in the night does not buy time.
    """

    def __init__(self, at: float | None, clock: Clock) -> None:
        self.at = at
        self._clock = clock
        self._monotonic = math.inf if at is None else clock.monotonic() + at - clock.time()

    @property
    def binds(self) -> bool:
        return self.at is not None

    def remaining(self) -> float:
        """Seconds left, negative when it has passed, infinite without a deadline."""
        if self.at is None:
            return math.inf
        return min(self.at - self._clock.time(), self._monotonic - self._clock.monotonic())


def reserve(rows: int, span: float) -> float:
    """Seconds to keep for sealing and delivering `rows` rows, of `span` seconds in all.

    Half a minute and 50 µs a row (several times what was measured), but never more than
    a quarter of the time there was.
    """
    return min(30.0 + rows * 50e-6, span / 4)
