"""The samples of a night: dense enough to see it, few enough to keep."""

from __future__ import annotations

import itertools

from esgbatch.fetching.sampling import Sampler
from esgbatch.fetching.ticket import Pace
from esgbatch.model import Snapshot, Stage, Verdict

SNAPSHOT = Snapshot(at=0.0, stage=Stage.RATING, done=0, total=5, in_flight=3, held="outage", deadline=9.0)


def test_a_minute_has_its_curve_and_a_night_a_few_hundred_rows() -> None:
    sampler, pace = Sampler(100.0), Pace()
    taken = [second for second in range(4 * 3600) if sampler.take(100.0 + second, pace, SNAPSHOT)]
    assert taken[:60] == list(range(60))
    assert max(later - earlier for earlier, later in itertools.pairwise(taken)) <= 31
    assert len(taken) < 800


def test_latencies_are_those_since_the_sample_before() -> None:
    sampler, pace = Sampler(0.0), Pace(attempts=2)
    pace.answers[Verdict.TRANSIENT] += 1
    pace.latency.add(0.1)
    first = sampler.take(0.0, pace, SNAPSHOT)
    assert first is not None
    assert (first.attempts, first.errors, first.in_flight) == (2, 1, 3)
    assert (first.held, first.deadline) == ("outage", 9.0)
    assert first.latency_p50 is not None
    assert abs(first.latency_p50 - 0.1) < 0.01
    second = sampler.take(1.0, pace, SNAPSHOT)
    assert second is not None
    assert (second.latency_p50, second.latency_p95) == (None, None)
    pace.latency.add(2.0)
    third = sampler.take(2.0, pace, SNAPSHOT)
    assert third is not None
    assert third.latency_p50 is not None
    assert abs(third.latency_p50 - 2.0) < 0.1
