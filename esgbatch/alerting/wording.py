"""How an alert reads: subject, text and HTML of a mail, and a pager's summary."""

from __future__ import annotations

from datetime import datetime
from html import escape
from zoneinfo import ZoneInfo

from esgbatch.alerting.outbox import Entry

LATE_SECONDS = 300.0


def subject(entry: Entry) -> str:
    state = "" if entry.ended is None else "RESOLVED: "
    return f"[esgbatch {entry.environment}] {state}{entry.name.words}, {entry.scope}"


def facts(entry: Entry, zone: ZoneInfo) -> list[tuple[str, str]]:
    """The alert as labels and values, in the order in which one asks for them."""
    rows = [("What", f"{entry.summary}.")]
    if entry.ended is not None:
        rows.append(("Resolved", f"{_time(entry.ended, zone)}: {entry.why}."))
    rows.append(("Since", _time(entry.opened, zone)))
    rows += [(key.replace("_", " ").capitalize(), _figure(value)) for key, value in entry.figures.items()]
    if entry.ended is None:
        rows.append(("Next", entry.advice))
        rows.append(("Runbook", entry.name.runbook))
    rows.append(("Where", f"{entry.host}, environment {entry.environment}"))
    rows.append(("Severity", entry.severity))
    rows.append(("Alert", entry.key))
    return rows


def text(entry: Entry, zone: ZoneInfo, now: float) -> str:
    """The mail's plain part."""
    lines = [f"{label + ':':<14} {value}" for label, value in facts(entry, zone)]
    return "\n".join([*lines, *_remarks(entry, now)]) + "\n"


def html(entry: Entry, zone: ZoneInfo, now: float) -> str:
    """The mail's HTML part: the same, with nothing to load and nothing to run."""
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top;padding:2px 12px 2px 0">{escape(label)}</th>'
        f'<td style="padding:2px 0">{escape(value)}</td></tr>'
        for label, value in facts(entry, zone)
    )
    remarks = "".join(f"<p>{escape(each)}</p>" for each in _remarks(entry, now) if each)
    body = f'<body style="font-family:sans-serif"><table>{rows}</table>{remarks}</body>'
    return f"<!doctype html><html>{body}</html>"


def _remarks(entry: Entry, now: float) -> list[str]:
    if now - (entry.opened if entry.ended is None else entry.ended) < LATE_SECONDS:
        return []
    return ["", "This comes late: it could not be sent before."]


def _time(moment: float, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(moment, zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
