"""Many nights: how they went, and which ones did not hold."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from esgbatch import model
from esgbatch.errors import RatingsError
from esgbatch.model import Verdict
from tests.simulator.disk import Disk
from tests.simulator.invariants import broken
from tests.simulator.night import Night, live
from tests.simulator.plan import FALL_BACK, SPRING_FORWARD, draw

MEMORY = Path("/dev/shm")
CHUNK = 10
HOUR = 3600.0


@dataclass
class Report:
    """One night, or many added up; `failures` by seed."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[int, list[str]] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        self.counts.update(other.counts)
        self.failures.update(other.failures)

    def table(self, wall: float) -> str:
        rows = [(name, f"{self.counts[name]:,}") for name in ROWS]
        rows[-1] = ("simulated hours", f"{self.counts['simulated hours'] / HOUR:,.0f}")
        rows += [
            ("seconds it took", f"{wall:,.0f}"),
            ("nights in which something did not hold", f"{len(self.failures):,}"),
        ]
        return "\n".join(f"{name:42} {value:>12}" for name, value in rows)


ROWS = (
    "nights",
    "of them delivered",
    "of them compared byte for byte",
    "of them on a daylight-saving change",
    "accounts",
    "processes",
    "attempts",
    "kills",
    "signals",
    "failed commits",
    "outages detected",
    "stopped by the API as a whole",
    "429 and 503 with a wait",
    "401",
    "403",
    "redirects",
    "deadlines met",
    "deadlines passed",
    "files that arrived",
    "simulated hours",
)


def simulate(seed: int, disk: Disk) -> tuple[Report, Night]:
    """Live through the night of a seed, and through its undisturbed twin where there is one; judge it."""
    plan = draw(seed)
    # Few accounts have many pages then; the twin's file is made of others.
    with patch.object(
        model, "PAGE_ROWS", random.Random(f"page {seed}").choice((1, 3, 10, 50, model.PAGE_ROWS))
    ):
        night = live(plan, disk)
    complaints = broken(night, live(plan.undisturbed(), disk) if plan.steady else None)
    report = Report(_counts(night))
    if complaints:
        report.failures[seed] = complaints
    return report, night


def _counts(night: Night) -> Counter[str]:
    executions, verdicts = night.executions, night.api.verdicts
    bound = [each for each in executions if each.deadline is not None]
    blows = Counter(blow.partition(" at ")[0] for each in executions for blow in each.struck)
    return Counter(
        {
            "nights": 1,
            "of them delivered": int(night.delivered),
            "of them compared byte for byte": int(night.plan.steady),
            "of them on a daylight-saving change": int(night.plan.day in (SPRING_FORWARD, FALL_BACK)),
            "accounts": len(night.plan.active),
            "processes": len(executions),
            "attempts": sum(verdicts.values()),
            "kills": sum(each.outcome == "killed" for each in executions),
            "signals": blows["SIGTERM"] + blows["SIGTERM twice"] + blows["SIGINT"],
            "failed commits": blows["database"] + blows["lost commit"],
            "outages detected": sum(len(each.events("circuit_opened")) for each in executions),
            "stopped by the API as a whole": sum(isinstance(each.error, RatingsError) for each in executions),
            "429 and 503 with a wait": verdicts[Verdict.THROTTLED],
            "401": verdicts[Verdict.UNAUTHORIZED],
            "403": verdicts[Verdict.FORBIDDEN],
            "redirects": verdicts[Verdict.REDIRECTED],
            "deadlines met": sum(each.outcome == "delivered" for each in bound),
            "deadlines passed": sum(each.outcome == "DeadlinePassed" for each in bound),
            "files that arrived": sum(not each.name.endswith(".json") for each in night.firm.arrivals),
            "simulated hours": round(night.clock.now),
        }
    )


@contextmanager
def on_disk() -> Iterator[Disk]:
    """A folder for nights, in memory where the system has such a place: every commit is synced."""
    with tempfile.TemporaryDirectory(prefix="nights-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Disk(Path(folder))


def campaign(seeds: Sequence[int], processes: int) -> Iterator[Report]:
    """The nights of many seeds, in any order, on several processors."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    if processes == 1:
        yield from map(_chunk, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_chunk, chunks)


def _chunk(seeds: Sequence[int]) -> Report:
    total = Report()
    with on_disk() as disk:
        for seed in seeds:
            total.add(simulate(seed, disk)[0])
    return total
