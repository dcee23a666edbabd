"""The next nights as a calendar: starts and deadlines in the job's zone and in UTC (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from esgbatch.deadline import moment
from esgbatch.manifest import rfc3339
from esgbatch.reporting.text import duration

SCHEMA = 1
LOOK_AHEAD = 400  # days: every zone with daylight saving changes its clocks twice in them


@dataclass(frozen=True, slots=True)
class Change:
    """The clocks of the zone go forward (`seconds` > 0) or back within this day."""

    day: date
    seconds: int

    def __str__(self) -> str:
        way = "forward" if self.seconds > 0 else "back"
        minutes = abs(self.seconds) // 60
        return f"clocks go {way} {f'{minutes // 60} h' if minutes % 60 == 0 else f'{minutes} min'}"


@dataclass(frozen=True, slots=True)
class Night:
    """One business date. Both instants are in UTC."""

    day: date
    start: datetime
    deadline: datetime
    change: Change | None


def nights(now: datetime, count: int, zone: ZoneInfo, start: time, deadline: time) -> Sequence[Night]:
    """The next `count` business dates whose deadline is ahead, tonight's included while it is."""
    first = now.astimezone(zone).date() - timedelta(days=1)
    each = (night(first + timedelta(days=number), zone, start, deadline) for number in range(count + 3))
    return [night for night in each if max(night.start, night.deadline) > now][:count]


def night(day: date, zone: ZoneInfo, start: time, deadline: time) -> Night:
    return Night(day, moment(day, start, zone), moment(day, deadline, zone), change(day, zone))


def change(day: date, zone: ZoneInfo) -> Change | None:
    """What becomes of the zone's offset from UTC between this midnight and the next."""
    seconds = (_offset(day + timedelta(days=1), zone) - _offset(day, zone)).total_seconds()
    return Change(day, round(seconds)) if seconds else None


def next_change(day: date, zone: ZoneInfo) -> Change | None:
    """The first one on this day or later; None where the zone has none."""
    days = (day + timedelta(days=number) for number in range(LOOK_AHEAD))
    return next((found for each in days if (found := change(each, zone))), None)


def _offset(day: date, zone: ZoneInfo) -> timedelta:
    offset = datetime.combine(day, time(0), zone).utcoffset()
    assert offset is not None
    return offset


def as_dict(found: Sequence[Night], zone: ZoneInfo, now: datetime) -> dict[str, Any]:
    """The JSON of `schedule`, schema 1, described in docs/scheduling.md."""
    later = next_change(found[-1].day + timedelta(days=1), zone)
    return {
        "schema": SCHEMA,
        "timezone": zone.key,
        "now": rfc3339(now),
        "nights": [
            {
                "business_date": each.day.isoformat(),
                "start": _both(each.start, zone),
                "deadline": _both(each.deadline, zone),
                "seconds": round((each.deadline - each.start).total_seconds()),
                "clock_change_seconds": each.change.seconds if each.change else 0,
            }
            for each in found
        ],
        "next_clock_change": None
        if later is None
        else {"business_date": later.day.isoformat(), "seconds": later.seconds},
    }


def _both(at: datetime, zone: ZoneInfo) -> dict[str, str]:
    return {"local": at.astimezone(zone).isoformat(), "utc": rfc3339(at)}


def render(found: Sequence[Night], zone: ZoneInfo, now: datetime) -> str:
    """The same for people, within 80 columns."""
    return "".join(f"{line}\n" for line in _lines(found, zone, now))


def _lines(found: Sequence[Night], zone: ZoneInfo, now: datetime) -> Iterator[str]:
    yield f"Times in {zone.key} and in UTC; * is a day on which clocks change."
    yield ""
    yield f"  {'Business date':<16}{'Start':<13}{'UTC':<12}{'Deadline':<13}{'UTC':<12}Time"
    for each in found:
        seconds = (each.deadline - each.start).total_seconds()
        yield (
            f"{'*' if each.change else ' '} {each.day:%a %Y-%m-%d}  "
            f"{_local(each.start, zone):<13}{_utc(each.start, each.day):<12}"
            f"{_local(each.deadline, zone):<13}{_utc(each.deadline, each.day):<12}"
            f"{duration(seconds) if seconds > 0 else 'none'}"
        )
        if each.change:
            yield f"{'':18}{each.change}"
    yield ""
    if found[0].deadline <= found[0].start:
        yield "The deadline is before the start: correct job.start or job.deadline."
    yield _next(found[0], now)
    if later := next_change(found[-1].day + timedelta(days=1), zone):
        start = found[0].start.astimezone(zone).time()
        after = moment(later.day + timedelta(days=1), start, zone)
        yield f"{later.day:%a %Y-%m-%d}: {later}; the start moves to {_utc(after)} UTC."


def _next(night: Night, now: datetime) -> str:
    to_start = (night.start - now).total_seconds()
    if to_start > 0:
        return f"The next start is in {duration(to_start)}."
    return f"Tonight's start has been; its deadline is in {duration((night.deadline - now).total_seconds())}."


def _local(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%H:%M %Z}"


def _utc(at: datetime, day: date | None = None) -> str:
    """HH:MM, with the weekday where it is another day there."""
    utc = at.astimezone(UTC)
    return f"{utc:%H:%M}" if day in (None, utc.date()) else f"{utc:%a %H:%M}"
