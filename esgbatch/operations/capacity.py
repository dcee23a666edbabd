"""What a number of accounts needs: concurrency, minutes, machines. From past nights, by Little's law."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from esgbatch.config.model import Ratings
from esgbatch.deadline import reserve
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.model import Summary

SCHEMA = 1

# docs/scaling.md tells how these were found. They are for planning, and on the careful side.
WORKER_RATE = 2_000.0  # attempts a second that one process makes
WORKER_IN_FLIGHT = 1_000  # attempts that one process has in flight, a thread each
COORDINATOR_RATE = 4_000.0  # attempts a second that one coordinator hands out and records
HEADROOM = 1.25


@dataclass(frozen=True, slots=True)
class Measured:
    """What past nights tell; latencies in seconds. `nights` is 0 where all of it was given by hand."""

    nights: int
    accounts: int
    attempts_per_account: float
    latency_p50: float
    latency_p95: float
    rate: float | None

    @property
    def latency(self) -> float:
        """The mean, for which the two percentiles are taken as those of a lognormal distribution."""
        sigma = math.log(max(1.0, self.latency_p95 / self.latency_p50)) / 1.645
        return self.latency_p50 * math.exp(sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Plan:
    """A night with so many accounts. `rate` is what the quota lets through, in attempts a second."""

    accounts: int
    attempts: int
    quota: float
    rate: float
    in_flight: int
    seconds: float
    window: float
    needed_quota: int
    workers: int
    coordinators: int

    @property
    def fits(self) -> bool:
        return self.seconds <= self.window


def measured(summaries: Sequence[Summary]) -> Measured | None:
    """What the nights have measured, each weighted by its attempts; None where none has."""
    found = list(_nights(summaries))
    attempts = sum(each.attempts for each in found)
    if not attempts:
        return None
    accounts = sum(each.accounts for each in found)
    return Measured(
        nights=len(found),
        accounts=max(each.accounts for each in found),
        attempts_per_account=attempts / accounts,
        latency_p50=sum(each.p50 * each.attempts for each in found) / attempts,
        latency_p95=sum(each.p95 * each.attempts for each in found) / attempts,
        rate=attempts / seconds if (seconds := sum(each.seconds for each in found)) > 0 else None,
    )


def plan(accounts: int, past: Measured, ratings: Ratings, *, quota: float, span: float) -> Plan:
    """The night for `accounts` accounts at `quota` requests a second, `span` seconds from start to deadline."""
    attempts = math.ceil(accounts * past.attempts_per_account)
    window = span - reserve(accounts, span)
    rate = effective(quota, ratings)
    in_flight = math.ceil(rate * past.latency * HEADROOM)
    return Plan(
        accounts=accounts,
        attempts=attempts,
        quota=quota,
        rate=rate,
        in_flight=in_flight,
        seconds=attempts / rate + past.latency,
        window=window,
        needed_quota=_quota_for(attempts / max(1.0, window - past.latency), ratings),
        workers=max(1, math.ceil(rate / WORKER_RATE), math.ceil(in_flight / WORKER_IN_FLIGHT)),
        coordinators=max(1, math.ceil(rate / COORDINATOR_RATE)),
    )


def effective(quota: float, ratings: Ratings) -> float:
    """Attempts a second that the limiter gives out: the quota less its margins."""
    on_cluster = ratings.engine == "dask" and ratings.dask is not None
    validity = ratings.dask.permit_seconds if on_cluster and ratings.dask else 0.0
    return 1.0 / RateLimiter(quota, 1, validity=validity).spacing


def as_dict(past: Measured, found: Plan) -> dict[str, Any]:
    """The JSON of `forecast`, schema 1, described in docs/scaling.md. Times are seconds."""
    return {
        "schema": SCHEMA,
        "measured": {
            "nights": past.nights,
            "attempts_per_account": round(past.attempts_per_account, 4),
            "latency_mean": round(past.latency, 4),
            "latency_p50": round(past.latency_p50, 4),
            "latency_p95": round(past.latency_p95, 4),
            "rate": None if past.rate is None else round(past.rate, 2),
        },
        "accounts": found.accounts,
        "attempts": found.attempts,
        "rate_limit": found.quota,
        "rate": round(found.rate, 2),
        "concurrency": found.in_flight,
        "seconds": round(found.seconds),
        "window": round(found.window),
        "fits": found.fits,
        "rate_limit_needed": found.needed_quota,
        "worker_processes": found.workers,
        "coordinators": found.coordinators,
    }


def render(past: Measured, found: Plan, ratings: Ratings) -> str:
    """The same for people."""
    return "".join(f"{line}\n" for line in _lines(past, found, ratings))


def _lines(past: Measured, found: Plan, ratings: Ratings) -> Iterator[str]:
    yield f"Forecast for {found.accounts:,} accounts"
    where = f"{past.nights} past night(s), the largest of {past.accounts:,}" if past.nights else "given by hand"
    yield f"  from          {where}"
    yield (
        f"  latency       {past.latency:.2f} s on average, 95% within {past.latency_p95:.2f} s; "
        f"{past.attempts_per_account:.3f} attempts an account"
    )
    yield f"  quota         {found.quota:g} requests a second, of which {found.rate:.1f} are used"
    yield f"  rating takes  {found.seconds / 60:,.0f} of {found.window / 60:,.0f} minutes"
    enough = "" if found.in_flight <= ratings.max_concurrency else " (raise ratings.max_concurrency to it)"
    yield f"  concurrency   {found.in_flight:,} requests in flight{enough}"
    if found.coordinators > 1:
        yield (
            f"  machines      beyond one coordinator, which does about {COORDINATOR_RATE:,.0f} a second: "
            f"{found.coordinators} jobs with a part of the accounts and of the quota each"
        )
    elif found.workers > 1:
        yield f"  machines      {found.workers} worker processes: a cluster (docs/scaling.md)"
    else:
        yield "  machines      one"
    if not found.fits:
        yield (
            f"This does not fit: a quota of {found.needed_quota:,} requests a second would, or a longer night, "
            "or fewer accounts."
        )


@dataclass(frozen=True, slots=True)
class _Night:
    accounts: int
    attempts: int
    seconds: float
    p50: float
    p95: float


def _nights(summaries: Sequence[Summary]) -> Iterator[_Night]:
    """Nights that were rated to the end; what a rerun asked again would only blur them."""
    for summary in summaries:
        first = [each for each in summary.executions if each.revision == 1 and each.latency_p50]
        attempts = sum(each.attempts for each in first)
        if attempts and not summary.tally.pending and not summary.tally.deferred:
            yield _Night(
                summary.tally.rows,
                attempts,
                sum(each.stages.get("rating", 0.0) for each in first),
                sum((each.latency_p50 or 0.0) * each.attempts for each in first) / attempts,
                sum((each.latency_p95 or 0.0) * each.attempts for each in first) / attempts,
            )


def _quota_for(rate: float, ratings: Ratings) -> int:
    """The smallest whole quota whose effective rate is enough."""
    quota = max(1, math.floor(rate))
    while effective(quota, ratings) < rate:
        quota += max(1, quota // 1000)
    return quota
