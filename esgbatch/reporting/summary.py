"""A run as data: the JSON of `report` and `run`, schema 1, described in docs/json.md."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from esgbatch.errors import ExitCode
from esgbatch.manifest import rfc3339
from esgbatch.model import Execution, Reason, Revision, Stage, Summary

SCHEMA = 1


def as_dict(summary: Summary) -> dict[str, Any]:
    """Everything the daily report tells, without a name or a score."""
    run, tally = summary.run, summary.tally
    return {
        "schema": SCHEMA,
        "business_date": run.business_date.isoformat(),
        "run_id": run.run_id,
        "stage": run.stage,
        "delivered": summary.delivered is not None,
        "revision": run.revision,
        "counts": {
            "listed": run.census.listed,
            "excluded": run.census.excluded,
            "rows": tally.rows,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "pending": tally.pending + tally.deferred,
        },
        "excluded_by": run.census.excluded_by,
        "failed_by": {str(reason): count for reason, count in sorted(tally.failed_by.items())},
        "failed_percent": round(tally.failed_percent, 4),
        "approved": None if run.approval is None else run.approval.by,
        "next": next_step(summary),
        "ratings_purged": _optional(run.purged),
        "revisions": [_revision(revision) for revision in summary.revisions],
        "executions": [_execution(execution) for execution in summary.executions],
    }


def _revision(revision: Revision) -> dict[str, Any]:
    sealed = revision.sealed
    return {
        "revision": revision.number,
        "sealed": rfc3339(revision.created),
        "archive": str(sealed.path),
        "rows": sealed.rows,
        "plaintext": {"sha256": sealed.plaintext.sha256, "bytes": sealed.plaintext.size},
        "encrypted": {"sha256": sealed.encrypted.sha256, "bytes": sealed.encrypted.size},
        "recipients": list(sealed.recipients),
        "partial": revision.partial,
        "delivered": _optional(revision.delivered),
        "location": revision.location,
    }


def _execution(execution: Execution) -> dict[str, Any]:
    return {
        "command": execution.command,
        "revision": execution.revision,
        "host": execution.host,
        "pid": execution.pid,
        "user": execution.user,
        "started": rfc3339(execution.started),
        "ended": _optional(execution.ended),
        "exit_code": execution.exit_code,
        "error": execution.error,
        "attempts": execution.attempts,
        "latency_p50": execution.latency_p50,
        "latency_p95": execution.latency_p95,
        "stages": dict(execution.stages),
    }


def _optional(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def verdict(summary: Summary) -> str:
    """The run in one sentence."""
    run, tally = summary.run, summary.tally
    delivered = summary.delivered
    if delivered is not None:
        failed = (
            f"{tally.failed:,} of {tally.rows:,} accounts without a rating"
            if tally.failed
            else "every account rated"
        )
        partial = " It is partial." if delivered.partial else ""
        return f"Revision {delivered.number} is delivered, {failed}.{partial}"
    return {
        Stage.LISTING: "The account list has not been read yet.",
        Stage.RATING: f"{tally.done:,} of {tally.rows:,} accounts are done; the file is not made yet.",
        Stage.SEALING: "Every account is done; the file is not made yet.",
        Stage.WITHHELD: _withheld(summary),
    }.get(run.stage, f"Revision {run.revision} is sealed, but not delivered.")


def _withheld(summary: Summary) -> str:
    """In the words of the command that found it, which name the gate and its figures."""
    told = (each.error for each in reversed(summary.executions) if each.exit_code == ExitCode.WITHHELD)
    return next(filter(None, told), "A quality gate withholds the file.")


def next_step(summary: Summary) -> str:
    """What to do, with the command to type between backticks."""
    run, tally = summary.run, summary.tally
    day = run.business_date
    if run.stage is Stage.DELIVERED and tally.failed:
        again = f"`esgbatch rerun --failed --date {day}` asks again for the accounts without a rating"
        if set(tally.failed_by) & {Reason.UNAVAILABLE, Reason.NOT_ATTEMPTED, Reason.FORBIDDEN}:
            return f"When the ESG API is well, {again}."
        return f"Ask the ESG API's owner about the reasons below; after that, {again}."
    if run.stage is Stage.DELIVERED and summary.delivered is not None and summary.delivered.partial:
        return "Nothing; it was a trial with a few accounts, and that date's run is over with it."
    if run.stage is Stage.DELIVERED:
        return "Nothing; the file is in the drop folder."
    if run.stage is Stage.WITHHELD:
        return (
            f"Look at the figures. `esgbatch rerun --failed --date {day}` tries again; "
            f"`esgbatch approve --date {day} --by WHO --reason TEXT` releases the file as it is."
        )
    if summary.executions and summary.executions[-1].ended is None:
        return f"It is at work, or died: `esgbatch status --date {day}` tells."
    if run.stage is Stage.DELIVERING:
        return f"`esgbatch deliver --date {day}` brings the sealed file."
    return f"`esgbatch resume --date {day}` goes on from there."
