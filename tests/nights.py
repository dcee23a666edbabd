"""A night with everything there is to draw: throttled, an outage, a resume, failed accounts, a month before."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from esgbatch.deadline import moment
from esgbatch.model import Histogram, Reason, Revision, Sample, Stage, Summary, Tally
from esgbatch.reporting.history import Day
from esgbatch.reporting.night import FailedAccounts, Night
from tests.summaries import EXECUTION, FIRST, NASTY, RUN, SECOND, SUMMARY

CHICAGO = ZoneInfo("America/Chicago")
COLUMNS = ("Environmental Score", "Social Score", "Governance Score", "Overall ESG Score")
DAY = date(2026, 11, 24)
DEADLINE = moment(DAY, time(9), CHICAGO)
START = datetime(2026, 11, 24, 11, 0, 5, tzinfo=UTC)
ROWS = 100_000


def samples(start: float = START.timestamp(), first: int = 0, seconds: int = 2100) -> list[Sample]:
    """One process at 50 requests a second, held once for three minutes."""
    found, done, attempts, errors = [], first, 0, 0
    for second in range(0, seconds, 10):
        held = "throttled" if 600 <= second < 780 else ""
        if not held:
            done, attempts = min(ROWS, done + 470), attempts + 480 + second % 7
            errors += second % 7
        found.append(
            Sample(
                at=start + second,
                done=done,
                failed=done // 400,
                attempts=attempts,
                errors=errors,
                in_flight=0 if held else 30 + second % 11,
                concurrency=64,
                latency_p50=0.4 + 0.1 * math.sin(second / 90),
                latency_p95=1.1 + 0.5 * math.sin(second / 60),
                cpu=second * 0.2,
                held=held,
                forecast=start + second + (ROWS - done) / 47,
                deadline=DEADLINE.timestamp(),
            )
        )
    return found


def histogram(centre: float, rows: int = ROWS) -> Histogram:
    weights = [math.exp(-(((step + 0.5) * 5 - centre) ** 2) / 400) for step in range(20)]
    return Histogram(0.0, 100.0, tuple(round(rows * weight / sum(weights)) for weight in weights))


MEANS = (71.24, 64.1, 80.05, 71.8)
BEFORE = replace(
    FIRST, means=(70.1, 64.4, 79.5, 71.3), histograms=tuple(map(histogram, (70.1, 64.4, 79.5, 71.3)))
)
WHOLE = replace(SECOND, means=MEANS, histograms=tuple(map(histogram, MEANS)))
STAGES = {"listing": 21.3, "rating": 2080.0, "checking": 1.1, "sealing": 2.4, "delivering": 1.2}


def past(days: int = 30) -> list[Day]:
    return [_day(DAY - timedelta(days=ago), ago) for ago in range(days - 1, -1, -1)]


def _day(day: date, ago: int) -> Day:
    start = moment(day, time(5), CHICAGO)
    ended = start + timedelta(minutes=38 + ago % 6, seconds=11 * ago)
    run = replace(RUN, business_date=day, columns=COLUMNS, revision=1, stage=Stage.DELIVERED)
    execution = replace(EXECUTION, started=start, ended=ended, stages=STAGES)
    means = tuple(mean + math.sin(ago / 3) for mean in MEANS)
    revision = replace(FIRST, delivered=ended, means=means)
    tally = Tally(succeeded=ROWS - 280 - 3 * ago, failed_by={Reason.NO_RATING: 280 + 3 * ago})
    deadline = moment(day, time(9), CHICAGO)
    return Day(Summary(run, tally, (revision,), (execution,)), deadline)


def night() -> Night:
    executions = (
        replace(EXECUTION, started=START, exit_code=143, stages={"listing": 21.3, "rating": 1300.0}),
        replace(
            EXECUTION,
            command="resume",
            started=START + timedelta(seconds=1500),
            stages={"rating": 800.0, "checking": 9.1, "sealing": 24.0, "delivering": 11.0},
        ),
    )
    run = replace(RUN, columns=COLUMNS)
    revision: Revision = WHOLE
    early = samples(seconds=1300)
    return Night(
        summary=replace(SUMMARY, run=run, revisions=(revision,), executions=executions),
        zone=CHICAGO,
        now=START + timedelta(hours=1),
        deadline=DEADLINE,
        rate_limit=50.0,
        most_in_flight=256,
        tolerated_percent=1.0,
        samples=[*early, *samples(START.timestamp() + 1500, early[-1].done, 800)],
        means=MEANS,
        histograms=WHOLE.histograms,
        before=BEFORE,
        failures={
            Reason.NO_RATING: FailedAccounts(tuple(f"A-{n:06d}" for n in range(200))),
            Reason.UNAVAILABLE: FailedAccounts((NASTY, "<script>alert(1)</script>"), 78),
        },
        days=past(),
        anchor="4711:" + "ab" * 32,
        error_file="/var/log/esgbatch/errors-20261124.jsonl",
    )
