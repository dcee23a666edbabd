"""CPU and throughput: the whole job against whole programs that others would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.bench_rows.figures import Figure, Scale, compared, measured, row
from scripts.bench_rows.processes import Used
from scripts.bench_rows.site import Site, lines, site

MICRO = 1e6
WHAT = "CPU an account over TLS, whole job"


@row("cpu-aiohttp", "CPU, accounts a second and connections, against asyncio + aiohttp + batched sqlite")
def cpu_aiohttp(scale: Scale, folder: Path) -> Iterator[Figure]:
    accounts = scale.accounts(100_000)
    ours: list[_Run] = []
    theirs: list[_Run] = []
    for mine, other in _rounds(folder, accounts, "aiohttp_sqlite", scale.rounds(5)):
        ours.append(mine)
        theirs.append(other)
    yield compared(
        "cpu-aiohttp",
        WHAT,
        [each.used.cpu / accounts * MICRO for each in ours],
        [each.used.cpu / accounts * MICRO for each in theirs],
        scale=scale,
        unit="µs",
        peer="asyncio + aiohttp + batched sqlite",
        at_most=0.8,
    )
    yield compared(
        "throughput",
        "accounts a second, no throttle",
        [each.per_second for each in ours],
        [each.per_second for each in theirs],
        scale=scale,
        unit="/s",
        peer="asyncio + aiohttp + batched sqlite",
        at_least=1.5,
    )
    connections = [each.connections / accounts * 1000 for each in ours]
    yield measured(
        "connections",
        "new HTTP connections in 1,000 requests",
        connections,
        f"{median(connections):.2f}",
        scale=scale,
    )


@row("cpu-requests", "CPU against ThreadPoolExecutor + requests, a commit a row")
def cpu_requests(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _against(
        scale, folder, "cpu-requests", "threads_requests", "threads + requests, a commit a row", 0.25
    )


@row("cpu-scrapy", "CPU against a Scrapy spider with JOBDIR and CSV feed")
def cpu_scrapy(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _against(scale, folder, "cpu-scrapy", "scrapy_spider", "Scrapy with JOBDIR", 0.1)


@row("cpu-dlt", "CPU against a dlt pipeline")
def cpu_dlt(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _against(scale, folder, "cpu-dlt", "dlt_pipeline", "dlt", 0.1)


def _against(scale: Scale, folder: Path, name: str, peer: str, called: str, at_most: float) -> Figure:
    accounts = scale.accounts(50_000)
    rounds = list(_rounds(folder, accounts, peer, scale.rounds(3)))
    return compared(
        name,
        WHAT,
        [mine.used.cpu / accounts * MICRO for mine, _ in rounds],
        [other.used.cpu / accounts * MICRO for _, other in rounds],
        scale=scale,
        unit="µs",
        peer=called,
        at_most=at_most,
    )


@dataclass(frozen=True)
class _Run:
    """What a run used, and what the ESG API saw of it."""

    used: Used
    connections: int
    per_second: float


def _rounds(folder: Path, accounts: int, peer: str, rounds: int) -> Iterator[tuple[_Run, _Run]]:
    """The job and the peer in turn; what they deliver must be the same."""
    with site(folder, accounts) as place:
        expected = place.expected()
        for number in range(rounds):
            mine = _seen(place, lambda state=f"state{number}": place.job(state, "run"))
            assert place.delivered() == expected, "the job's file is wrong"
            other = _seen(place, lambda target=f"peer{number}": place.peer(peer, target))
            assert lines(place.folder / f"peer{number}" / "ratings.csv") == expected, "the peer's file is wrong"
            yield mine, other


def _seen(place: Site, start: Callable[[], Used]) -> _Run:
    place.server.switch(forget_arrivals=True)
    before = place.esg()["connections"]
    used = start()
    counted = place.esg()
    seconds = counted["last_arrival"] - counted["first_arrival"]
    return _Run(used, counted["connections"] - before, place.accounts / seconds)
