"""What can happen in a run, in one table: how grave it is, how it reads, which stage it begins.

`docs/logging.md` shows the same table to those who read the logs by machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from esgbatch.errors import BatchError, StopRequested
from esgbatch.model import Stage

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


@dataclass(frozen=True, slots=True)
class Event:
    """`text` is filled with the event's fields; `stage` is the one that this event begins."""

    level: Level
    text: str
    stage: Stage | None = None


# What concerns one account is INFO at most: WARNING is for the job as a whole, and reaches people.
EVENTS: Mapping[str, Event] = {
    "preflight_warning": Event("WARNING", "{error}"),
    "run_started": Event("INFO", "{command} started"),
    "taken_over": Event("WARNING", "the run is taken over from a process that died: {previous}"),
    "accounts_page": Event("DEBUG", "page {page} of the account list: {rows:,} rows", Stage.LISTING),
    "accounts_unnamed": Event("WARNING", "page {page} of the account list has {rows:,} rows and no name"),
    "accounts_retry": Event(
        "WARNING", "the account system failed ({error}), attempt {attempt}; again in {wait:.1f} s"
    ),
    "accounts_enrolled": Event(
        "INFO",
        "{rows:,} accounts enrolled of {listed:,} listed: "
        "{inactive:,} inactive, {duplicate:,} duplicate, {refused:,} refused",
    ),
    "duplicate_name_differs": Event("INFO", "account {account_id} is listed again with another name"),
    "waiting_for_turn": Event(
        "WARNING", "another date's run asks the ESG API: this one waits for its end, so that the limit holds"
    ),
    "rating_started": Event("INFO", "{pending:,} accounts to rate", Stage.RATING),
    "rating_finished": Event(
        "INFO",
        "rating ended after {seconds:.1f} s and {attempts:,} attempts: "
        "{succeeded:,} succeeded, {failed:,} failed, {pending:,} still open",
    ),
    "last_pass_started": Event("INFO", "last pass over {accounts:,} accounts"),
    "account_failed": Event("INFO", "account {account_id} failed: {reason}, attempts: {attempts}"),
    "throttled": Event("INFO", "the ESG API asks everybody to wait {seconds:.0f} s"),
    "circuit_opened": Event(
        "WARNING", "the ESG API is down: {accounts} accounts failed, none succeeded ({error})"
    ),
    "circuit_probe": Event("INFO", "probe of the ESG API: {result}"),
    "circuit_closed": Event("INFO", "the ESG API is back after {seconds:.0f} s"),
    "deadline_at_risk": Event(
        "WARNING",
        "the deadline will be missed by {late:,.0f} s at this pace of {rate:.1f} accounts a second: "
        "{fits:,} of {total:,} accounts would fit",
    ),
    "deadline_safe": Event("INFO", "the deadline is within reach again"),
    "cluster_worker_joined": Event("INFO", "the worker {worker} has joined"),
    "cluster_worker_lost": Event(
        "WARNING", "the worker {worker} is lost; its {attempts} attempts are made again"
    ),
    "cluster_trouble": Event("WARNING", "{error}"),
    "concurrency_changed": Event("DEBUG", "up to {value} requests in flight"),
    "sealing_started": Event("INFO", "encrypting the file", Stage.SEALING),
    "sealed_file_missing": Event(
        "WARNING", "the sealed file of revision {revision} is not on this host: it is sealed again"
    ),
    "sealed": Event("INFO", "the encrypted file is whole: {rows:,} rows, {plaintext_bytes:,} bytes of text"),
    "gate_withheld": Event(
        "WARNING", 'the gate "{gate}" withholds the file: {figure:.2f}, allowed is {limit:g}', Stage.WITHHELD
    ),
    "delivery_started": Event("INFO", "bringing the file to the drop folder", Stage.DELIVERING),
    "delivery_step": Event("INFO", "delivery: {step}"),
    "delivery_attempt_failed": Event("WARNING", "delivery attempt {attempt} failed: {error}"),
    "delivery_leftover_removed": Event(
        "INFO", "removed from the drop folder, left by an attempt before: {file}"
    ),
    "delivery_cleanup_failed": Event("WARNING", "leftovers may remain in the drop folder: {error}"),
    "delivered": Event("INFO", "file and manifest are in place: {location}", Stage.DELIVERED),
    "audit_anchored": Event("INFO", "the audit trail ends with {anchor}"),
    "stage_ended": Event("INFO", "{part} ended after {seconds:.1f} s"),
    "purged": Event("INFO", "retention: removed {removed:,} of what was too old, on hold {held:,}"),
    "purge_failed": Event("WARNING", "retention: {error}; `esgbatch purge` tries again"),
    "run_finished": Event("INFO", "run finished"),
    "run_failed": Event("ERROR", "run ended with code {exit_code}: {error}"),
    "report_sent": Event("INFO", "the report is mailed to {recipients} recipient(s)"),
    "report_not_sent": Event("WARNING", "the report could not be mailed: {error}"),
    "already_delivered": Event("INFO", "an earlier call has delivered the file", Stage.DELIVERED),
    "expiring": Event("WARNING", "{what} in {source} expires on {expires}, in {days} days"),
    "expiry_checked": Event("DEBUG", "keys and certificates looked at; expiring soon: {expiring}"),
    "alert_opened": Event("INFO", "alert: {summary}"),
    "alert_resolved": Event("INFO", "alert {alert} is over: {why}"),
    "alert_sent": Event("INFO", "{channel} took the alert {alert}"),
    "alert_not_sent": Event("WARNING", "{channel} did not take an alert, which is kept: {error}"),
    "alert_outbox_failed": Event("WARNING", "alerts cannot be kept in the state folder: {error}"),
    "heartbeat_failed": Event("WARNING", "the dead man's switch did not take {ping}: {error}"),
    "progress": Event("INFO", "{done:,} of {total:,} accounts, {rate:.1f}/s, {failed:,} failed"),
    "metrics_failed": Event("WARNING", "the metrics cannot be given to the {target}: {error}; the job goes on"),
    "metrics_back": Event("INFO", "the {target} takes the metrics again"),
    "listener_failed": Event("ERROR", "{listener} failed ({error}); it is told once, the job goes on"),
    "log_gap": Event("WARNING", "{lines:,} lines before this one could not be written"),
}

# Their texts are made of code, never of data; those of others may quote an account name or a score.
_TEXT_IS_CODE = (
    AttributeError,
    ImportError,
    MemoryError,
    NameError,
    NotImplementedError,
    RecursionError,
    TypeError,
)


def level(name: str) -> Level:
    """How grave the event is; one that the table does not know is `INFO`."""
    return EVENTS[name].level if name in EVENTS else "INFO"


def describe(name: str, fields: Mapping[str, object]) -> str:
    """The event as a sentence. `fields` have been through `plain`; a wrong set of them is shown as it is."""
    if name in EVENTS:
        try:
            return EVENTS[name].text.format_map(fields)
        except (KeyError, ValueError, TypeError):
            pass
    return " ".join([name, *(f"{key}={value}" for key, value in fields.items())])


def plain(value: object) -> object:
    """`value` as JSON knows it. Anything else may hold a score or a name: only its type is kept."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, BaseException):
        return error_text(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return f"<{type(value).__name__}>"


def error_text(error: BaseException) -> str:
    """What an exception may say in a log: never data. Our own errors hold none by their own rule."""
    if isinstance(error, (BatchError, StopRequested)):
        return str(error)
    kind = type(error).__name__
    if isinstance(error, OSError):
        return f"{kind}: {error.strerror}" if error.strerror else kind
    if isinstance(error, _TEXT_IS_CODE):
        return f"{kind}: {error}"
    return f"{kind} (text withheld: it may quote data)"


def rfc3339(moment: datetime) -> str:
    """RFC 3339, 5.6, in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(at: float | None) -> str | None:
    """Seconds since the epoch as `rfc3339`; None where there are none, or beyond the calendar."""
    try:
        return None if at is None else rfc3339(datetime.fromtimestamp(at, UTC))
    except (OverflowError, ValueError, OSError):
        return None
