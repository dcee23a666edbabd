"""How much of the API's quota is used, counted where requests arrive."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.bench_rows.figures import Figure, Scale, measured, row
from scripts.bench_rows.site import site

USUAL_LATENCY = 0.02
# Before the first request, and after the last one that counts.
START_SECONDS = 5
SPARE_SECONDS = 1
# It may be delivered by then, or just ending.
ENDS = (0, 143, -signal.SIGTERM)
SMOOTH_SECONDS = 10


@row("quota-50", "quota used at 50 requests a second")
def quota_50(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _steady(scale, folder, 50, 0.975)


@row("quota-500", "quota used at 500 requests a second")
def quota_500(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _steady(scale, folder, 500, 0.985)


@row("quota-2000", "quota used at 2,000 requests a second")
def quota_2000(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield _steady(scale, folder, 2000, 0.985)


@row("latency-1s", "quota used at 500 requests a second where each takes a second")
def latency_1s(scale: Scale, folder: Path) -> Iterator[Figure]:
    yield from _found(scale, folder, "latency-1s", 500, "1 s latency", (f"--latency={scale.latency(1)}",))


@row("latency-tail", "quota used at 50 a second with 4.3 s latency, a long tail and 7% failures")
def latency_tail(scale: Scale, folder: Path) -> Iterator[Figure]:
    faults = (f"--latency={scale.latency(4.3)}", "--latency-sigma=0.8", "--error-rate=0.07")
    yield from _found(scale, folder, "latency-tail", 50, "4.3 s latency, 7% failures", faults)


def _steady(scale: Scale, folder: Path, limit: int, target: float) -> Figure:
    seconds = scale.seconds(120)
    arrivals, most, _ = _watched(folder, limit, seconds, (f"--latency={USUAL_LATENCY}",))
    used = _used(arrivals, limit, 0, int(seconds))
    return measured(
        f"quota-{limit}",
        f"quota used at {limit:,}/s, {seconds:.0f} s",
        arrivals,
        f"{used:.1%}, at most {most:,} in a second",
        scale=scale,
        target=f"≥ {target:.1%}, ≤ {limit:,}",
        met=used >= target and most <= limit,
    )


def _found(
    scale: Scale, folder: Path, name: str, limit: int, what: str, faults: Sequence[str]
) -> Iterator[Figure]:
    """The job has to find its concurrency by itself, within two minutes."""
    until = scale.seconds(120)
    end = until + scale.seconds(80)
    arrivals, most, peak = _watched(folder, limit, end, faults, RATINGS__MAX_CONCURRENCY=1024)
    used = _used(arrivals, limit, int(until), int(end))
    reached = _reached(arrivals, limit)
    yield measured(
        name,
        f"quota used at {limit}/s with {what}, from second {until:.0f} to {end:.0f}",
        arrivals,
        f"{used:.1%}, at most {most:,} in a second",
        scale=scale,
        result=f"found after {reached} s" if reached is not None else "not found",
        target=f"≥ 97.0%, ≤ {limit:,}",
        met=used >= 0.97 and most <= limit,
    )
    yield measured(f"{name}-memory", "peak memory of the same", [peak], f"{peak:.0f} MiB", scale=scale)


def _watched(
    folder: Path, limit: int, seconds: float, faults: Sequence[str], **overrides: object
) -> tuple[list[int], int, float]:
    """Arrivals by second, the most in any one-second window, and the peak memory."""
    whole = seconds + SPARE_SECONDS
    with site(folder, int(limit * whole), *faults) as place:
        overrides = {"RATINGS__RATE_LIMIT": limit, "RATINGS__CONCURRENCY": "auto", **overrides}
        used = place.job(
            "state", "run", codes=ENDS, stop_when=lambda age: age > START_SECONDS + whole, **overrides
        )
        counted = place.esg()
    return counted["arrivals_by_second"], counted["max_per_second"], used.peak


def _used(arrivals: Sequence[int], limit: int, begin: int, end: int) -> float:
    return sum(arrivals[begin:end]) / (limit * (end - begin))


def _reached(arrivals: Sequence[int], limit: int) -> int | None:
    """The first second from which ten seconds together use 97%."""
    width = min(SMOOTH_SECONDS, len(arrivals) // 2 or 1)
    starts = range(len(arrivals) - width)
    return next((second for second in starts if _used(arrivals, limit, second, second + width) >= 0.97), None)
