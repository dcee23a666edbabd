"""What there is to tell of a night, and what can be read from its samples. Pure: values in, values out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from esgbatch.model import Histogram, Reason, Revision, Sample, Summary
from esgbatch.reporting.history import Day
from esgbatch.reporting.text import duration

# From what share on something is what bounded the night.
LISTING_SHARE, HELD_SHARE, FULL_SHARE, BUSY_SHARE = 0.5, 0.3, 0.9, 0.8


@dataclass(frozen=True, slots=True)
class FailedAccounts:
    """The IDs of the accounts that failed for one reason; `more` were left out for the report's size."""

    ids: tuple[str, ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Night:
    """Everything the daily report shows. `before` is the last file delivered for an earlier date.

    `means` and `histograms` are the date's own scores, also where no file was made of them.
    """

    summary: Summary
    zone: ZoneInfo
    now: datetime
    deadline: datetime
    rate_limit: float
    most_in_flight: int
    tolerated_percent: float
    samples: Sequence[Sample]
    means: Sequence[float | None]
    histograms: Sequence[Histogram]
    before: Revision | None
    failures: Mapping[Reason, FailedAccounts]
    days: Sequence[Day]
    anchor: str
    error_file: str


class Tone(StrEnum):
    """How the night went, in a word and a colour."""

    GOOD = "Delivered"
    MIXED = "Delivered, with gaps"
    OPEN = "Under way"
    BAD = "Not delivered"


def tone(night: Night) -> Tone:
    """Good is: delivered, whole, and not more failures than are alerted."""
    summary = night.summary
    delivered = summary.delivered
    if delivered is not None:
        whole = not delivered.partial and summary.tally.failed_percent <= night.tolerated_percent
        return Tone.GOOD if whole else Tone.MIXED
    at_work = summary.executions and summary.executions[-1].ended is None
    return Tone.OPEN if at_work and night.now < night.deadline else Tone.BAD


# --- from samples to curves -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pace:
    """What went on between two samples: per second, and as shares of the time between them."""

    begin: float
    end: float
    requests: float
    errors: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def lives(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples, one list a process: each counts from its own start."""
    found: list[list[Sample]] = []
    for sample in samples:
        if not found or sample.attempts < found[-1][-1].attempts or sample.at < found[-1][-1].at:
            found.append([])
        found[-1].append(sample)
    return found


def paces(life: Sequence[Sample]) -> list[Pace]:
    """How fast it went between each two samples of one process."""
    return [
        Pace(
            earlier.at,
            later.at,
            (later.attempts - earlier.attempts) / (later.at - earlier.at),
            (later.errors - earlier.errors) / (later.at - earlier.at),
            (later.cpu - earlier.cpu) / (later.at - earlier.at),
        )
        for earlier, later in itertools.pairwise(life)
        if later.at > earlier.at
    ]


def holds(samples: Sequence[Sample]) -> list[tuple[float, float, str]]:
    """The periods in which nothing was asked, and why: throttled, outage."""
    found: list[tuple[float, float, str]] = []
    for life in lives(samples):
        for earlier, later in itertools.pairwise(life):
            if not earlier.held:
                continue
            if found and found[-1][1] == earlier.at and found[-1][2] == earlier.held:
                found[-1] = (found[-1][0], later.at, earlier.held)
            else:
                found.append((earlier.at, later.at, earlier.held))
    return found


def bound(night: Night) -> str:
    """What the night's length came from, in one line: limit, API, this machine or the account system."""
    seconds: dict[str, float] = {}
    for execution in night.summary.executions:
        for stage, spent in execution.stages.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    steps = [pace for life in lives(night.samples) for pace in paces(life)]
    asked = sum(pace.seconds for pace in steps)
    listing, whole = seconds.get("listing", 0.0), sum(seconds.values())
    if whole > 1 and listing > LISTING_SHARE * whole:
        return f"The account system: reading its list took {duration(listing)} of {duration(whole)}."
    if asked < 1:
        return "The night was too short to say."
    held = sum(end - begin for begin, end, _ in holds(night.samples))
    if held > HELD_SHARE * asked:
        why = " and ".join(sorted({why for _, _, why in holds(night.samples)}))
        return f"The ESG API: it kept us waiting for {duration(held)} of {duration(asked)} ({why})."
    free = asked - held
    rate = sum(pace.requests * pace.seconds for pace in steps) / free
    used = f"{rate:,.0f} of {night.rate_limit:,.0f} requests a second were used"
    if rate >= FULL_SHARE * night.rate_limit:
        return f"The request limit: on average {used}."
    busy = sum(pace.cpu * pace.seconds for pace in steps) / free
    if busy >= BUSY_SHARE:
        return f"This machine: the job kept {busy:.1f} processors busy; {used}."
    in_flight = sum(sample.in_flight for sample in night.samples) / len(night.samples)
    slowest = [each.latency_p50 for each in night.samples if each.latency_p50 is not None]
    latency = f", each about {sum(slowest) / len(slowest):.2f} s" if slowest else ""
    if in_flight >= FULL_SHARE * night.most_in_flight:
        return (
            f"The ESG API's latency: all {night.most_in_flight} places in flight were taken{latency}; {used}."
        )
    return f"The ESG API's latency: {in_flight:.0f} requests in flight{latency}; more brought no more; {used}."
