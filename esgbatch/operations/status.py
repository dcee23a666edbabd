"""How a date's run stands, for another shell: reads the checkpoint, disturbs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from esgbatch.checkpoint.lease import Owner, holder
from esgbatch.manifest import rfc3339
from esgbatch.model import Run, Snapshot, Stage, Tally
from esgbatch.records import Records
from esgbatch.reporting.text import duration
from esgbatch.untrusted import printable

SCHEMA = 1
FRESH_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Status:
    """A run, and the process at work on it; `live` is that process's last word, if it is recent."""

    run: Run
    tally: Tally
    owner: Owner | None
    live: Snapshot | None
    deadline: float

    @property
    def rate_needed(self) -> float | None:
        """Accounts a second that would meet the deadline; None once it has passed."""
        if self.live is not None and self.live.rate_needed is not None:
            return self.live.rate_needed
        if self.live is None or self.deadline <= self.live.at:
            return None
        return (self.tally.rows - self.tally.done) / (self.deadline - self.live.at)


def look(
    records: Records,
    state_dir: Path,
    run: Run,
    *,
    now: float,
    deadline: float,
    elsewhere: Owner | None = None,
) -> Status:
    """The status at `now`; times are seconds since the epoch.

    `elsewhere` is who holds the run on whatever host shares the checkpoint.
    """
    owner = holder(state_dir, run.business_date) or elsewhere
    live = records.history.snapshot(run) if owner is not None else None
    if live is not None and (live.at < now - FRESH_SECONDS or run.stage is not Stage.RATING):
        live = None
    return Status(run, records.outcomes.tally(run), owner, live, deadline)


def as_dict(status: Status) -> dict[str, Any]:
    """The JSON of `status`, schema 1, described in docs/operations.md."""
    run, tally, live = status.run, status.tally, status.live
    return {
        "schema": SCHEMA,
        "business_date": run.business_date.isoformat(),
        "run_id": run.run_id,
        "revision": run.revision,
        "stage": run.stage,
        "running": status.owner is not None,
        "owner": None if status.owner is None else {"pid": status.owner.pid, "host": status.owner.host},
        "done": tally.done,
        "total": tally.rows,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "failed_by": {str(reason): count for reason, count in sorted(tally.failed_by.items())},
        "deferred": tally.deferred,
        "rate": live.rate if live else None,
        "rate_needed": status.rate_needed,
        "in_flight": live.in_flight if live else None,
        "concurrency": live.concurrency if live else None,
        "retries_waiting": live.retries_waiting if live else None,
        "latency_p50": live.latency_p50 if live else None,
        "latency_p95": live.latency_p95 if live else None,
        "held": (live.held or None) if live else None,
        "held_until": _moment(live.held_until) if live else None,
        "eta": _moment(live.eta) if live else None,
        "deadline": _moment(live.deadline if live and live.deadline else status.deadline),
        "forecast": _moment(live.forecast) if live else None,
        "at_risk": live.at_risk if live else None,
        "fits": live.fits if live else None,
    }


def render(status: Status, zone: ZoneInfo) -> str:
    """The same for people, in the job's zone."""
    shown = [headline(status), *(f"  {label:<12} {text}" for label, text in lines(status, zone))]
    return "".join(f"{printable(line)}\n" for line in shown)


def headline(status: Status) -> str:
    run = status.run
    return f"{run.business_date}, revision {run.revision}: {run.stage}"


def lines(status: Status, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    """What there is to tell, each with its label."""
    run, tally, live = status.run, status.tally, status.live
    if status.owner is not None:
        yield "at work", str(status.owner)
    elif run.stage not in (Stage.DELIVERED, Stage.WITHHELD):
        yield "at work", f"nobody: `esgbatch resume --date {run.business_date}` goes on"
    percent = f"  ({100 * tally.done / tally.rows:.1f}%)" if tally.rows else ""
    yield "done", f"{tally.done:,} of {tally.rows:,}{percent}"
    failed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(tally.failed_by.items()))
    yield "failed", f"{tally.failed:,}{'  (' + failed + ')' if failed else ''}"
    if tally.deferred:
        yield "last pass", f"{tally.deferred:,} accounts wait for it"
    if live is not None:
        yield from _live_lines(status, live, zone)


def _live_lines(status: Status, live: Snapshot, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    needed = f", needed {status.rate_needed:,.1f}" if status.rate_needed is not None else ""
    yield "rate", f"{live.rate:,.1f} accounts a second{needed}"
    if live.rate_limit:
        share = 100 * live.request_rate / live.rate_limit
        yield "requests", f"{live.request_rate:,.1f} a second, {share:.0f}% of the limit"
    yield "in flight", f"{live.in_flight} of {live.concurrency}, {live.retries_waiting:,} retries waiting"
    if live.latency_p50 is not None and live.latency_p95 is not None:
        yield "latency", f"{live.latency_p50:.2f} s, 95% within {live.latency_p95:.2f} s"
    if live.held:
        until = f" until {_local(live.held_until, zone)}" if live.held_until else ""
        yield "held", f"{live.held}{until}"
    ends = live.eta if live.forecast is None else live.forecast
    if ends is not None:
        left = duration(max(0.0, ends - live.at))
        limit = f"deadline {_local(live.deadline, zone)}" if live.deadline else "no deadline binds"
        yield "ends about", f"{_local(ends, zone)}, in {left}; {limit}"
    if live.at_risk and live.fits is not None:
        yield "AT RISK", f"{live.fits:,} accounts would be done in time, not {live.total:,}"


def _local(moment: float | None, zone: ZoneInfo) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, zone).strftime("%H:%M:%S %Z")


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
