"""How the night goes, kept in a few hundred samples for the report."""

from __future__ import annotations

import math
import time

from esgbatch.fetching.latency import LatencyHistogram
from esgbatch.fetching.ticket import Pace
from esgbatch.model import Sample, Snapshot

SHORTEST, LONGEST = 1.0, 30.0
SHARE = 60


class Sampler:
    """Takes a sample each second at first, and less and less often as the run gets longer, to every 30 s.

    So a trial of a minute has its curve, and a night of hours no more than a few hundred rows.
    """

    def __init__(self, now: float) -> None:
        self._began = now
        self._due = now
        self._latency = LatencyHistogram()
        self._cpu = time.process_time()

    def take(self, now: float, pace: Pace, snapshot: Snapshot) -> Sample | None:
        """The sample of this moment, where one is due. `now` is monotonic."""
        if now < self._due:
            return None
        self._due = now + min(max((now - self._began) / SHARE, SHORTEST), LONGEST)
        forecast = snapshot.forecast
        recent = pace.latency.since(self._latency)
        self._latency = pace.latency.copy()
        return Sample(
            at=snapshot.at,
            done=snapshot.done,
            failed=snapshot.failed,
            attempts=pace.attempts,
            errors=pace.errors,
            in_flight=snapshot.in_flight,
            concurrency=snapshot.concurrency,
            waiting=snapshot.retries_waiting,
            latency_p50=recent.percentile(0.5),
            latency_p95=recent.percentile(0.95),
            cpu=round(time.process_time() - self._cpu, 3),
            held=snapshot.held,
            forecast=forecast if forecast is not None and math.isfinite(forecast) else None,
            deadline=snapshot.deadline,
        )
