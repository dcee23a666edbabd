"""The calendar of the next nights: right on the days on which the clocks change, and readable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esgbatch.operations.schedule import Change, Night, as_dict, next_change, night, nights, render

CHICAGO = ZoneInfo("America/Chicago")
FIVE, NINE = time(5), time(9)
ROOT = Path(__file__).parents[2]


def at(day: date, hour: int, minute: int = 0, zone: ZoneInfo = CHICAGO) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)


def test_a_week_with_the_change_to_daylight_saving() -> None:
    now = at(date(2026, 3, 6), 20)
    found = nights(now, 3, CHICAGO, FIVE, NINE)
    assert render(found, CHICAGO, now) == (
        "Times in America/Chicago and in UTC; * is a day on which clocks change.\n"
        "\n"
        "  Business date   Start        UTC         Deadline     UTC         Time\n"
        "  Sat 2026-03-07  05:00 CST    11:00       09:00 CST    15:00       4 h 00 min\n"
        "* Sun 2026-03-08  05:00 CDT    10:00       09:00 CDT    14:00       4 h 00 min\n"
        "                  clocks go forward 1 h\n"
        "  Mon 2026-03-09  05:00 CDT    10:00       09:00 CDT    14:00       4 h 00 min\n"
        "\n"
        "The next start is in 9 h 00 min.\n"
        "Sun 2026-11-01: clocks go back 1 h; the start moves to 11:00 UTC.\n"
    )


def test_the_same_for_machines() -> None:
    now = at(date(2026, 10, 31), 7)
    found = nights(now, 2, CHICAGO, FIVE, NINE)
    told = json.loads(json.dumps(as_dict(found, CHICAGO, now)))
    assert told["schema"] == 1
    assert told["timezone"] == "America/Chicago"
    assert [each["business_date"] for each in told["nights"]] == ["2026-10-31", "2026-11-01"]
    assert told["nights"][1] == {
        "business_date": "2026-11-01",
        "start": {"local": "2026-11-01T05:00:00-06:00", "utc": "2026-11-01T11:00:00Z"},
        "deadline": {"local": "2026-11-01T09:00:00-06:00", "utc": "2026-11-01T15:00:00Z"},
        "seconds": 14400,
        "clock_change_seconds": -3600,
    }
    assert told["next_clock_change"] == {"business_date": "2027-03-14", "seconds": 3600}


@pytest.mark.parametrize(
    ("hour", "first"),
    [(0, 24), (4, 24), (5, 24), (8, 24), (9, 25), (23, 25)],
)
def test_a_night_is_shown_until_its_deadline(hour: int, first: int) -> None:
    now = at(date(2026, 11, 24), hour)
    found = nights(now, 1, CHICAGO, FIVE, NINE)
    assert [each.day for each in found] == [date(2026, 11, first)]
    assert ("Tonight's start has been; its deadline" in render(found, CHICAGO, now)) is (5 <= hour < 9)


def test_a_start_in_the_changing_hour_itself() -> None:
    """Work allowed is what really passes: a 1:30 start has an hour less in spring, one more in autumn."""
    spring, autumn = date(2026, 3, 8), date(2026, 11, 1)
    allowed = {
        day: (each.deadline - each.start).total_seconds() / 3600
        for day in (spring, autumn, date(2026, 7, 1))
        if (each := night(day, CHICAGO, time(1, 30), NINE))
    }
    assert allowed == {spring: 6.5, autumn: 8.5, date(2026, 7, 1): 7.5}


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Asia/Kathmandu", None),
        ("UTC", None),
        ("Australia/Lord_Howe", Change(date(2027, 4, 4), -1800)),
        ("Europe/Berlin", Change(date(2027, 3, 28), 3600)),
    ],
)
def test_other_zones(zone: str, change: Change | None) -> None:
    assert next_change(date(2026, 11, 24), ZoneInfo(zone)) == change


def test_half_an_hour_is_said_in_minutes() -> None:
    assert str(Change(date(2027, 4, 4), -1800)) == "clocks go back 30 min"


def test_a_deadline_before_the_start_is_said() -> None:
    now = at(date(2026, 11, 24), 12)
    text = render(nights(now, 1, CHICAGO, NINE, FIVE), CHICAGO, now)
    assert "correct job.start or job.deadline" in text


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)).map(lambda each: each.replace(tzinfo=UTC)),  # noqa: DTZ001
    st.sampled_from(["America/Chicago", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Kiritimati"]),
    st.integers(1, 40),
)
def test_so_many_days_one_after_the_other_none_over_and_80_columns(
    now: datetime, zone: str, count: int
) -> None:
    place = ZoneInfo(zone)
    found = nights(now, count, place, FIVE, NINE)
    assert [each.day for each in found] == [found[0].day + timedelta(days=number) for number in range(count)]
    assert all(each.deadline > now for each in found)
    before = night(found[0].day - timedelta(days=1), place, FIVE, NINE)
    assert before.deadline <= now
    for each in found:
        assert isinstance(each, Night)
        assert each.start.astimezone(place).time() == FIVE
    assert max(map(len, render(found, place, now).splitlines())) <= 80


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esgbatch", "schedule", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_reads_the_configuration(tmp_path: Path) -> None:
    template = ROOT / "esgbatch" / "config" / "template.toml"
    overrides: Mapping[str, str] = {"ESGBATCH_JOB__START": "04:30"}
    shown = run(tmp_path, "--days", "3", "--config", str(template), **overrides)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(" 04:30 C") == 3
    told = json.loads(run(tmp_path, "--json", "--config", str(template)).stdout)
    assert len(told["nights"]) == 7


def test_without_a_configuration_it_says_what_to_do(tmp_path: Path) -> None:
    shown = run(tmp_path)
    assert shown.returncode == 10
    assert "esgbatch init" in shown.stderr
    assert run(tmp_path, "--days", "0").returncode == 2
