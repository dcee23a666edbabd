"""Past days for analysts: one flat record a day, as CSV and as JSON. docs/history.md describes every column."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from esgbatch.manifest import rfc3339
from esgbatch.model import Reason, Summary, Tally
from esgbatch.reporting import summary
from esgbatch.rows import FORMULA_STARTS

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Day:
    """One business date in figures. `deadline` is the configured one; durations are in seconds.

    `delivered` is when the date's first file reached the drop folder; what a later rerun
    made better is in the counts, which are those of the last revision.
    """

    summary: Summary
    deadline: datetime

    @property
    def date(self) -> date:
        return self.summary.run.business_date

    @property
    def tally(self) -> Tally:
        return self.summary.tally

    @property
    def means(self) -> Mapping[str, float | None]:
        """The score columns' means in the last sealed file."""
        revisions = self.summary.revisions
        means = revisions[-1].means if revisions else ()
        return dict(zip(self.summary.run.columns, means, strict=False))

    @property
    def success_percent(self) -> float | None:
        """Succeeded accounts in percent of all; None while accounts have no outcome."""
        tally = self.tally
        return 100.0 - tally.failed_percent if tally.rows and tally.done == tally.rows else None

    @property
    def started(self) -> datetime | None:
        executions = self.summary.executions
        return executions[0].started if executions else None

    @property
    def delivered(self) -> datetime | None:
        return min((each.delivered for each in self.summary.revisions if each.delivered), default=None)

    @property
    def duration(self) -> float | None:
        started, delivered = self.started, self.delivered
        return (delivered - started).total_seconds() if started and delivered else None

    @property
    def headroom(self) -> float | None:
        """How long before the deadline the file was there; negative where it came after."""
        return (self.deadline - self.delivered).total_seconds() if self.delivered else None


def record(day: Day) -> dict[str, Any]:
    """The day as one flat record: the columns of the CSV, and the JSON's fields."""
    told, run, tally = day.summary, day.summary.run, day.tally
    busiest = max(told.executions, key=lambda each: each.attempts, default=None)
    last = told.revisions[-1] if told.revisions else None
    return {
        "business_date": run.business_date.isoformat(),
        "run_id": run.run_id,
        "stage": str(run.stage),
        "revision": run.revision,
        "partial": bool(last and last.partial),
        "approved_by": run.approval.by if run.approval else None,
        "listed": run.census.listed,
        "inactive": run.census.inactive,
        "duplicate": run.census.duplicate,
        "refused": run.census.refused,
        "erased": run.census.erased,
        "rows": tally.rows,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "failed_percent": round(tally.failed_percent, 4),
        **{f"failed_{reason}": tally.failed_by.get(reason, 0) for reason in Reason},
        "started": rfc3339(day.started) if day.started else None,
        "delivered": rfc3339(day.delivered) if day.delivered else None,
        "deadline": rfc3339(day.deadline),
        "duration_seconds": _rounded(day.duration),
        "headroom_seconds": _rounded(day.headroom),
        "requests": sum(each.attempts for each in told.executions),
        "latency_p50": _rounded(busiest.latency_p50 if busiest else None),
        "latency_p95": _rounded(busiest.latency_p95 if busiest else None),
        "encrypted_bytes": last.sealed.encrypted.size if last else None,
        **{f"mean {column}": _rounded(mean) for column, mean in day.means.items()},
    }


def as_dict(days: Sequence[Day]) -> dict[str, Any]:
    """The JSON of `report --days`, schema 1: each day's report, and with it the flat record of the CSV."""
    return {
        "schema": SCHEMA,
        "days": [summary.as_dict(day.summary) | {"record": record(day)} for day in days],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def as_csv(days: Sequence[Day]) -> str:
    """RFC 4180: a header, then a line a day. An empty cell is what is not known yet.

    A text that a spreadsheet would run begins with a `'`; figures, negative ones too, are never touched.
    """
    records = [record(day) for day in days]
    names = list(dict.fromkeys(name for each in records for name in each))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(map(_cell, names))
    for each in records:
        writer.writerow(_cell(each.get(name)) for name in names)
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value[:1] in FORMULA_STARTS:
        return f"'{value}"
    return "" if value is None else value
