"""The daily report as plain text, 80 columns, readable in a mail and without colour."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from zoneinfo import ZoneInfo

from esgbatch.errors import ExitCode
from esgbatch.model import Execution, Summary
from esgbatch.reporting.summary import next_step, verdict
from esgbatch.untrusted import printable


def render(summary: Summary, zone: ZoneInfo) -> str:
    """The report; times are in the job's zone."""
    return "".join(f"{printable(line)}\n" for line in _lines(summary, zone))


def _lines(summary: Summary, zone: ZoneInfo) -> Iterator[str]:
    run, tally = summary.run, summary.tally
    day = run.business_date
    yield f"ESG ratings of {run.business_date:%A, %d %B %Y}"
    yield verdict(summary)
    yield from _wrapped(f"Next: {next_step(summary)}")
    yield ""
    yield _line("Listed by the account system", run.census.listed)
    if run.census.excluded:
        yield _line("Excluded", run.census.excluded, spelled(run.census.excluded_by))
    yield _line("Rows in the file", tally.rows)
    yield _line(
        "Succeeded", tally.succeeded, f"{100 - tally.failed_percent:.2f}%" if tally.done == tally.rows else ""
    )
    yield _line("Failed", tally.failed, spelled({str(k): v for k, v in sorted(tally.failed_by.items())}))
    if tally.pending or tally.deferred:
        yield _line("Still to do", tally.pending + tally.deferred)
    if run.approval is not None:
        yield ""
        yield f"Approved by {run.approval.by}, {moment(run.approval.at, zone, day)}"
    if run.purged is not None:
        yield ""
        yield f"Names and scores were purged {moment(run.purged, zone, day)}; the figures stay"
    for revision in summary.revisions:
        yield ""
        state = f"delivered {moment(revision.delivered, zone, day)}" if revision.delivered else "not delivered"
        yield f"Revision {revision.number}, sealed {moment(revision.created, zone, day)}, {state}"
        if revision.location:
            yield f"  delivered to  {revision.location}"
        yield f"  archive       {revision.sealed.path}"
        yield f"  sha256        {revision.sealed.encrypted.sha256}"
        size = revision.sealed.encrypted.size
        yield f"  size          {size:,} bytes ({revision.sealed.plaintext.size:,} as CSV)"
    if summary.executions:
        yield ""
        yield "Worked on by"
        for line in execution_lines(summary.executions, zone, day):
            yield f"  {line}"


def _wrapped(text: str) -> list[str]:
    """Lines of 80 columns. A command between backticks stays on one, so that it can be copied."""
    held = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(held, 80, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\0", " ") for line in lines]


def _line(label: str, count: int, remark: str = "") -> str:
    return f"{label:<30}{count:>12,}{'   ' + remark if remark else ''}"


def spelled(counted: Mapping[str, int]) -> str:
    """Like inactive 180, duplicate 25; what is zero is left out."""
    return ", ".join(f"{name} {count:,}" for name, count in counted.items() if count)


def execution_lines(executions: Sequence[Execution], zone: ZoneInfo, day: date) -> Iterator[str]:
    """Who worked on it when, how long, and how it ended; one that another has followed is surely over."""
    for execution in executions:
        yield _execution(execution, zone, day, "at work, or died" if execution is executions[-1] else "died")


def _execution(execution: Execution, zone: ZoneInfo, day: date, without_end: str) -> str:
    start = f"{moment(execution.started, zone, day)}  {execution.command:<8}"
    if execution.ended is None or execution.exit_code is None:
        return f"{start} {without_end}: process {execution.pid} on {execution.host}"
    seconds = (execution.ended - execution.started).total_seconds()
    parts = [f"{start} {duration(seconds)}, code {execution.exit_code}"]
    if execution.attempts:
        parts.append(f"{execution.attempts:,} requests")
    if execution.latency_p50 is not None and execution.latency_p95 is not None:
        parts.append(f"latency {execution.latency_p50:.2f} s, 95% within {execution.latency_p95:.2f} s")
    if execution.exit_code != ExitCode.DELIVERED and execution.error:
        parts.append(execution.error)
    return ", ".join(parts)


def table(summaries: Sequence[Summary]) -> str:
    """Several days, a line each."""
    lines = [f"{'Date':<12}{'Rows':>10}{'Failed':>9}{'%':>8}  {'Rev':>3}  State"]
    for summary in summaries:
        tally, run = summary.tally, summary.run
        lines.append(
            f"{run.business_date.isoformat():<12}{tally.rows:>10,}{tally.failed:>9,}"
            f"{tally.failed_percent:>8.2f}  {run.revision:>3}  {state(summary)}"
        )
    return "\n".join(lines) + "\n"


def state(summary: Summary) -> str:
    """The stage, and whether what was delivered is only a part."""
    partial = summary.delivered is not None and summary.delivered.partial
    return f"{summary.run.stage}, partial" if partial else str(summary.run.stage)


def duration(seconds: float) -> str:
    """Like 48 s, 12 min 05 s, 3 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(moment: datetime | None, zone: ZoneInfo, day: date) -> str:
    """In the job's zone; with its date where that is not the business date."""
    if moment is None:
        return ""
    local = moment.astimezone(zone)
    return local.strftime("%H:%M:%S %Z" if local.date() == day else "%Y-%m-%d %H:%M:%S %Z")
