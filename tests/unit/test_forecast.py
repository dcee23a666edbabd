"""Nights in simulated time: a miss is told in the first tenth of a night, once, and never in a good one."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, time

import pytest

from esgbatch.deadline import moment, reserve
from esgbatch.fetching.forecast import Forecaster
from esgbatch.fetching.ticket import Ended
from esgbatch.model import (
    Answer,
    Verdict,
)
from tests.nightwatch import AUTUMN, CHICAGO, DAY, DOWN, FOUR_HOURS, RATED, SPRING, Night
from tests.simulated import Api
from tests.summaries import RUN


def steady(latency: float) -> Api:
    return lambda _account, _now: (latency, RATED)


def long_tailed(mean: float, sigma: float = 1.0) -> Api:
    """Latencies as real ESG APIs have them: a few take ten times the mean."""
    dice = random.Random(7)
    mu = math.log(mean) - sigma**2 / 2
    return lambda _account, _now: (dice.lognormvariate(mu, sigma), RATED)


@pytest.mark.parametrize("day", [DAY, SPRING, AUTUMN], ids=str)
def test_a_night_that_cannot_be_finished_is_told_in_its_first_tenth(day: date) -> None:
    """8 in flight at 13 s are 0.6 accounts a second: 8,860 by nine, not 12,000."""
    night = Night(steady(13.0), 12_000, limit=2.0, concurrency=8, day=day)
    night.live(first_turn=True)
    ((at, name, told),) = night.turns
    assert name == "deadline_at_risk"
    assert at < FOUR_HOURS / 10
    nine = moment(day, time(9), CHICAGO)
    assert told["deadline"] == nine
    assert told["fits_by"] == datetime.fromtimestamp(nine.timestamp() - reserve(12_000, FOUR_HOURS), UTC)
    assert told["late"] == pytest.approx(12_000 / (8 / 13) + reserve(12_000, FOUR_HOURS) - FOUR_HOURS, rel=0.2)
    assert told["fits"] == pytest.approx(FOUR_HOURS * 8 / 13, rel=0.1)
    assert night.board.shown[-1].at_risk


def test_where_the_limit_alone_forbids_it_nothing_is_awaited() -> None:
    night = Night(steady(0.1), 30_000, limit=2.0)
    night.live(first_turn=True)
    assert night.turns[0][0] < 90


@pytest.mark.parametrize("concurrency", [None, 64], ids=["auto", "fixed"])
def test_a_night_that_can_be_finished_is_left_in_peace(concurrency: int | None) -> None:
    """Long-tailed answers, and nine tenths of what the limit allows."""
    night = Night(long_tailed(13.0), 12_900, limit=1.0, concurrency=concurrency)
    assert night.live() is Ended.COMPLETE
    assert night.names == []
    assert night.clock.now < FOUR_HOURS
    shown = night.board.shown[len(night.board.shown) // 2]
    assert shown.forecast == pytest.approx(night.clock.time(), abs=900)


def test_an_outage_that_leaves_time_is_no_missed_deadline() -> None:
    def api(_account: str, now: float) -> tuple[float, Answer]:
        return (0.5, DOWN) if 900 <= now < 1800 else (0.5, RATED)

    night = Night(api, 9_000, limit=4.0, hours=1)
    assert night.live() is Ended.COMPLETE
    assert night.listener.named("circuit_opened")
    assert night.names == []


def test_an_outage_that_goes_on_too_long_is_told_while_it_lasts() -> None:
    """9,000 accounts at four a second need 2,250 of the 3,600 seconds: 1,300 may be lost."""
    night = Night(lambda _account, now: (0.5, DOWN if now >= 900 else RATED), 9_000, limit=4.0, hours=1)
    night.live(first_turn=True)
    assert night.names == ["deadline_at_risk"]
    assert 900 + 1000 < night.turns[0][0] < 900 + 1600


def test_an_api_that_asks_for_a_rest_again_and_again_is_as_slow_as_that() -> None:
    """50 accounts, then 50 seconds of Retry-After: half the limit, though never held for long."""
    asked = 0

    def api(_account: str, now: float) -> tuple[float, Answer]:
        nonlocal asked
        asked += 1
        if asked % 25 == 0:
            return 0.1, Answer(Verdict.THROTTLED, http_status=429, retry_after=25.0)
        return 0.1, RATED

    night = Night(api, 10_000, limit=1.0)
    night.live(first_turn=True)
    assert night.turns
    assert night.turns[0][0] < FOUR_HOURS / 10


def test_a_night_that_recovers_is_told_once_and_taken_back_once() -> None:
    night = Night(lambda _account, now: (20.0 if now < 2400 else 1.0, RATED), 12_000, limit=1.5, concurrency=8)
    assert night.live() is Ended.COMPLETE
    assert night.names == ["deadline_at_risk", "deadline_safe"]


def test_a_night_on_the_edge_does_not_change_its_mind_every_minute() -> None:
    """The pace swings by a fifth around what is needed, every seven minutes."""
    night = Night(
        lambda _account, now: (9.0 if (now // 420) % 2 else 11.0, RATED), 11_400, limit=2.0, concurrency=8
    )
    night.live()
    assert len(night.names) <= 2, night.names


def test_the_start_is_not_the_night() -> None:
    """The first five minutes are a tenth of the pace."""
    night = Night(lambda _account, now: (80.0 if now < 120 else 8.0, RATED), 12_000, limit=1.0, concurrency=16)
    night.live()
    assert night.names == []


def test_the_last_pass_is_never_late() -> None:
    def api(account: str, now: float) -> tuple[float, Answer]:
        return (5.0, DOWN) if account.endswith("7") else (1.0, RATED)

    night = Night(api, 900, limit=1.0, hours=0.5)
    night.live()
    assert night.outcomes.tally(RUN).pending == 0
    assert night.names == []


def test_without_a_deadline_there_is_a_forecast_and_no_alarm() -> None:
    forecaster = Forecaster(limit=10.0, span=float("inf"), reserve=30.0)
    for second in range(200):
        forecaster.observe(float(second), second * 5, held=False)
    forecast = forecaster.project(1000, float("inf"))
    assert (forecast.ends_in, forecast.rate, forecast.needed) == (pytest.approx(230), pytest.approx(5), None)
    assert forecast.fits == 1000
    assert not forecaster.turned(300.0, forecast)


def test_a_short_night_is_judged_as_early() -> None:
    night = Night(steady(1.0), 600, limit=20.0, concurrency=4, hours=1 / 60)
    night.live(first_turn=True)
    assert night.turns
    assert night.turns[0][0] < 8.0
