"""Starts and deadlines on every day of the year, and clocks that jump."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esgbatch.deadline import Deadline, hour_has_begun, moment, reserve, today
from tests.simulated import SimulatedClock

CHICAGO = ZoneInfo("America/Chicago")
YEAR = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
SPRING, AUTUMN = date(2026, 3, 8), date(2026, 11, 1)
FIVE, NINE = time(5), time(9)
ZONES = [
    "America/Chicago",
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "America/St_Johns",
    "Africa/Casablanca",
]


def at(instant: datetime) -> SimulatedClock:
    return SimulatedClock(instant.timestamp())


def begun(instant: datetime, zone: ZoneInfo = CHICAGO, hour: time = FIVE) -> bool:
    return hour_has_begun(at(instant), zone, hour)


# --- wall clock and instants ------------------------------------------------------------------


@pytest.mark.parametrize("day", [date(2026, 3, 7), SPRING, date(2026, 7, 4), AUTUMN, date(2026, 11, 2)])
def test_five_and_nine_are_what_the_wall_clock_shows(day: date) -> None:
    for hour in (FIVE, NINE):
        shown = moment(day, hour, CHICAGO).astimezone(CHICAGO)
        assert (shown.date(), shown.time()) == (day, hour)
    assert moment(day, NINE, CHICAGO) - moment(day, FIVE, CHICAGO) == timedelta(hours=4)


def test_the_days_of_the_change_in_utc() -> None:
    assert moment(date(2026, 3, 7), FIVE, CHICAGO) == datetime(2026, 3, 7, 11, tzinfo=UTC)
    assert moment(SPRING, FIVE, CHICAGO) == datetime(2026, 3, 8, 10, tzinfo=UTC)
    assert moment(AUTUMN, FIVE, CHICAGO) == datetime(2026, 11, 1, 11, tzinfo=UTC)
    assert moment(date(2026, 10, 31), FIVE, CHICAGO) == datetime(2026, 10, 31, 10, tzinfo=UTC)


def test_an_hour_that_is_skipped_and_one_that_comes_twice() -> None:
    assert moment(SPRING, time(2, 30), CHICAGO) == datetime(2026, 3, 8, 8, 30, tzinfo=UTC)  # 3:30 CDT
    assert moment(AUTUMN, time(1, 30), CHICAGO) == datetime(2026, 11, 1, 6, 30, tzinfo=UTC)  # the first, CDT


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        (datetime(2026, 11, 24, 5, 59, 59, tzinfo=UTC), date(2026, 11, 23)),
        (datetime(2026, 11, 24, 6, tzinfo=UTC), date(2026, 11, 24)),
        (datetime(2026, 7, 1, 4, 59, 59, tzinfo=UTC), date(2026, 6, 30)),
        (datetime(2026, 7, 1, 5, tzinfo=UTC), date(2026, 7, 1)),
        (datetime(2027, 1, 1, 5, 59, tzinfo=UTC), date(2026, 12, 31)),
    ],
)
def test_the_business_date_is_the_zones_day(instant: datetime, day: date) -> None:
    assert today(at(instant), CHICAGO) == day


# --- --only-at --------------------------------------------------------------------------------


def starts_on(day: date, zone: ZoneInfo, hour: time, minute: int = 0) -> list[datetime]:
    """The hourly starts of a scheduler in UTC that the guard lets through, on one day of the zone."""
    first = datetime.combine(day, time(0, minute), tzinfo=UTC) - timedelta(hours=26)
    starts = [first + timedelta(hours=number) for number in range(76)]
    mine = [start for start in starts if begun(start, zone, hour)]
    return [start for start in mine if (start - moment(day, hour, zone)) // timedelta(hours=1) == 0]


def test_exactly_one_of_the_hourly_starts_counts_on_every_day_of_the_year() -> None:
    for day in YEAR:
        midnight = datetime.combine(day, time(0), tzinfo=UTC)
        counting = [hour for hour in range(24) if begun(midnight + timedelta(hours=hour))]
        assert len(counting) == 1, day
        shown = (midnight + timedelta(hours=counting[0])).astimezone(CHICAGO)
        assert (shown.date(), shown.hour, shown.minute) == (day, 5, 0)


def test_both_hours_of_the_crontab_make_one_run_a_day() -> None:
    """`0 10,11 * * *` on a host in UTC."""
    for day in YEAR:
        assert sum(begun(datetime.combine(day, time(hour), tzinfo=UTC)) for hour in (10, 11)) == 1, day


@given(
    st.dates(date(2024, 1, 1), date(2030, 12, 31)),
    st.sampled_from(ZONES),
    st.times().map(lambda each: each.replace(second=0, microsecond=0)),
    st.integers(0, 59),
)
@example(SPRING, "America/Chicago", time(2, 30), 0)
@example(AUTUMN, "America/Chicago", time(1, 30), 0)
@example(SPRING, "America/Chicago", time(2), 0)
@example(AUTUMN, "America/Chicago", time(1), 0)
@example(date(2026, 3, 8), "America/Chicago", time(23, 59), 30)
def test_in_any_zone_at_any_time_exactly_one_start_a_day_counts(
    day: date, zone: str, hour: time, minute: int
) -> None:
    assert len(starts_on(day, ZoneInfo(zone), hour, minute)) == 1


@given(st.dates(date(2024, 1, 1), date(2030, 12, 31)), st.sampled_from(ZONES), st.times())
def test_no_start_counts_that_belongs_to_no_day(day: date, zone: str, hour: time) -> None:
    place = ZoneInfo(zone)
    middle = moment(day, hour, place)
    hours = [middle + timedelta(hours=number, minutes=17) for number in range(-48, 49)]
    counting = [start for start in hours if begun(start, place, hour)]
    days = [day + timedelta(days=number) for number in range(-3, 4)]
    wanted = [
        start
        for start in hours
        if any(0 <= (start - moment(d, hour, place)).total_seconds() < 3600 for d in days)
    ]
    assert counting == wanted


def test_the_hour_begins_on_the_second_and_ends_before_the_next() -> None:
    five = moment(date(2026, 11, 24), FIVE, CHICAGO)
    for seconds, counts in ((-0.001, False), (0, True), (59, True), (3599.999, True), (3600, False)):
        assert begun(five + timedelta(seconds=seconds)) is counts, seconds


def test_an_hour_that_begins_before_midnight_reaches_over_it() -> None:
    late = time(23, 30)
    begin = moment(date(2026, 11, 24), late, CHICAGO)
    assert begun(begin + timedelta(minutes=45), hour=late)
    assert not begun(begin + timedelta(minutes=60), hour=late)
    assert not begun(begin - timedelta(minutes=1), hour=late)


# --- the deadline -----------------------------------------------------------------------------


def test_no_deadline_never_comes() -> None:
    deadline = Deadline(None, SimulatedClock())
    assert not deadline.binds
    assert deadline.remaining() == math.inf


def test_the_time_left_runs_out() -> None:
    clock = SimulatedClock()
    deadline = Deadline(clock.time() + 100, clock)
    assert deadline.binds
    assert deadline.remaining() == pytest.approx(100)
    clock.now = 99.5
    assert deadline.remaining() == pytest.approx(0.5)
    clock.now = 130
    assert deadline.remaining() == pytest.approx(-30)


class JumpingClock(SimulatedClock):
    """Somebody sets the wall clock; the monotonic one does not care."""

    jump = 0.0

    def time(self) -> float:
        return super().time() + self.jump


def test_a_clock_set_back_buys_no_time() -> None:
    clock = JumpingClock()
    deadline = Deadline(clock.time() + 100, clock)
    clock.now, clock.jump = 40, -3600
    assert deadline.remaining() == pytest.approx(60)
    clock.now = 101
    assert deadline.remaining() == pytest.approx(-1)


def test_a_clock_set_forward_is_believed() -> None:
    clock = JumpingClock()
    deadline = Deadline(clock.time() + 100, clock)
    clock.now, clock.jump = 40, 30
    assert deadline.remaining() == pytest.approx(30)


def test_a_deadline_that_has_passed_already() -> None:
    clock = SimulatedClock()
    assert Deadline(clock.time() - 5, clock).remaining() == pytest.approx(-5)


def test_what_is_kept_for_sealing_and_delivering() -> None:
    assert reserve(0, 14_400) == 30
    assert reserve(100_000, 14_400) == 35
    assert reserve(1_000_000, 14_400) == 80
    assert reserve(100_000, 60) == 15, "never more than a quarter"


@given(st.integers(0, 10_000_000), st.floats(0, 1e6))
def test_most_of_the_time_is_for_rating(rows: int, span: float) -> None:
    assert 0 <= reserve(rows, span) <= span / 4
