"""A few hundred of the nights that `scripts/simulate` lives through by the thousand."""

from __future__ import annotations

from datetime import date, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from esgbatch.deadline import moment
from tests.simulator.campaign import Report, on_disk, simulate
from tests.simulator.invariants import deadline_by_hand

NIGHTS = range(160)


@pytest.fixture(scope="module")
def lived() -> Report:
    total = Report()
    with on_disk() as disk:
        for seed in NIGHTS:
            total.add(simulate(seed, disk)[0])
    return total


def test_nothing_is_lost_in_any_night(lived: Report):
    again = [f"scripts/simulate --replay {seed} --verbose: {told}" for seed, told in lived.failures.items()]
    assert not again


def test_the_nights_were_bad_ones(lived: Report):
    """The invariants prove nothing where nothing happens."""
    for trouble in ("kills", "signals", "failed commits", "outages detected", "deadlines passed", "401", "403"):
        assert lived.counts[trouble] >= 5, trouble
    assert lived.counts["of them delivered"] >= 0.9 * lived.counts["nights"]
    assert lived.counts["of them compared byte for byte"] >= 0.3 * lived.counts["nights"]


def test_a_seed_is_always_the_same_night():
    with on_disk() as disk:
        first, second = ([simulate(seed, disk)[1] for seed in range(20, 30)] for _ in range(2))
    stories = [
        [(str(each), each.starts) for night in nights for each in night.executions]
        for nights in (first, second)
    ]
    assert stories[0] == stories[1]
    assert any("killed" in story for story, _ in stories[0])
    assert sum(len(starts) for _, starts in stories[0]) > 500


def test_the_deadline_by_hand_is_the_deadline_of_the_time_zone_database():
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    zone = ZoneInfo("America/Chicago")
    for at in (time(0, 30), time(1, 30), time(2, 30), time(9)):
        assert [deadline_by_hand(day, at) for day in days] == [
            moment(day, at, zone).timestamp() for day in days
        ]
