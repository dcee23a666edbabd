"""From what happens in a run to the conditions that people are told of. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from esgbatch.alerting.conditions import Change, Cleared, Condition, Name
from esgbatch.config.model import Alerts
from esgbatch.config.secrets import redact
from esgbatch.errors import BatchError, ExitCode, StopRequested
from esgbatch.model import Snapshot

LONG_OUTAGE = 600.0

# What a scheduler sees as done, or is the caller's own mistake.
NO_ALERT = frozenset((ExitCode.DELIVERED, ExitCode.USAGE, ExitCode.HELD, ExitCode.NOTHING))
OF_THEIR_OWN = {
    ExitCode.WITHHELD: Name.WITHHELD,
    ExitCode.DELIVERY: Name.DELIVERY_FAILED,
    ExitCode.DEADLINE: Name.DEADLINE_PASSED,
    ExitCode.AUDIT: Name.AUDIT_BROKEN,
}
ENDED_BY_DELIVERY = (
    Name.JOB_FAILED,
    Name.DEADLINE_PASSED,
    Name.DEADLINE_AT_RISK,
    Name.OUTAGE,
    Name.WITHHELD,
    Name.DELIVERY_FAILED,
    Name.NOT_STARTED,
    Name.CONFIGURATION,
)


class Rules:
    """The rules for one process at work on one business date.

    `deadline` is that date's, in seconds since the epoch, whether or not it binds the process.
    """

    def __init__(self, settings: Alerts, business_date: date, zone: ZoneInfo, deadline: float) -> None:
        self._most_failed = settings.failed_percent
        self._scope = business_date.isoformat()
        self._zone = zone
        self._deadline = deadline
        self._last: Snapshot | None = None
        self._held_since: float | None = None
        self._outage_told = False
        self._seen_well = False
        self._expiring: set[str] = set()
        self._encryption = f"{self._scope} encryption"

    def event(self, name: str, fields: Mapping[str, object], now: float) -> Iterator[Change]:
        """What an event changes; `now` is in seconds since the epoch."""
        match name:
            case "run_started":
                yield self._cleared(Name.NOT_STARTED, Name.CONFIGURATION, why="the run has started")
            case "rating_finished" if not fields.get("pending"):
                failed, succeeded = _count(fields.get("failed")), _count(fields.get("succeeded"))
                yield self._failed_accounts(failed, failed + succeeded)
            case "deadline_at_risk":
                yield self._at_risk(fields)
            case "deadline_safe":
                yield self._cleared(Name.DEADLINE_AT_RISK, why="the forecast is before the deadline again")
            case "delivered":
                yield self._failed_accounts(_count(fields.get("failed")), _count(fields.get("rows")))
                yield self._partial(_count(fields.get("not_attempted")), _count(fields.get("rows")))
            case "sealed":
                yield Cleared((Name.EXPIRING,), self._encryption, "the file was encrypted after all")
            case "run_finished" | "already_delivered":
                yield self._cleared(*ENDED_BY_DELIVERY, why="the file is delivered")
            case "run_failed":
                error = fields.get("error")
                if isinstance(error, BaseException):
                    yield from self.ended(error, now)
            case "preflight_warning":
                yield self._unusable_key(str(fields.get("error")))
            case "expiring":
                yield self._expires(fields)
            case "expiry_checked":
                yield Cleared(
                    (Name.EXPIRING,), None, "it was renewed or replaced", but=frozenset(self._expiring)
                )

    def progress(self, snapshot: Snapshot) -> Iterator[Change]:
        """What a second of rating changes: an outage, or any other hold, has lasted too long, or is over."""
        self._last = snapshot
        if not snapshot.held:
            self._held_since = None
            if self._outage_told or not self._seen_well:
                self._outage_told, self._seen_well = False, True
                yield self._cleared(Name.OUTAGE, why="accounts are rated again")
            return
        if self._held_since is None:
            self._held_since = snapshot.at
        if snapshot.at - self._held_since > LONG_OUTAGE and not self._outage_told:
            self._outage_told = True
            yield self._outage(snapshot, self._held_since)

    def ended(self, error: BaseException, now: float) -> Iterator[Change]:
        """What the end of the process changes, also where no run had begun."""
        code = error.code if isinstance(error, BatchError | StopRequested) else ExitCode.BUG
        if code in NO_ALERT:
            return
        name = OF_THEIR_OWN.get(code, Name.JOB_FAILED)
        if code in (ExitCode.SIGINT, ExitCode.SIGTERM) and now >= self._deadline:
            name = Name.DEADLINE_PASSED  # the watchdog ended what had not ended by itself
        figures: dict[str, object] = {"exit_code": int(code)}
        if self._last is not None:
            figures |= {"done": self._last.done, "accounts": self._last.total, "failed": self._last.failed}
        yield Condition(
            name,
            self._scope,
            f"{self._happened(name, code)}: {_words(error)}",
            self._advice(error),
            figures,
            variant=str(int(code)) if name is Name.JOB_FAILED else "",
        )
        yield self._cleared(Name.DEADLINE_AT_RISK, why=f"the run ended with code {code}", quietly=True)
        if name in (Name.WITHHELD, Name.DELIVERY_FAILED):
            yield self._cleared(Name.JOB_FAILED, why=f"the run went further, to code {code}", quietly=True)
        if name is Name.DELIVERY_FAILED:
            yield self._cleared(Name.WITHHELD, why="the file was released", quietly=True)

    def _happened(self, name: Name, code: ExitCode) -> str:
        return {
            Name.WITHHELD: f"The file of {self._scope} is withheld",
            Name.DELIVERY_FAILED: f"The file of {self._scope} is made, but could not be delivered",
            Name.DEADLINE_PASSED: f"The deadline of {self._scope} passed without a file",
            Name.AUDIT_BROKEN: "The audit trail is broken",
        }.get(name, f"The job of {self._scope} failed with code {int(code)}")

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, BatchError | StopRequested):
            return redact(error.advice.replace("{date}", self._scope))
        return f"report it with the log's lines; `esgbatch resume --date {self._scope}` may go on"

    def _failed_accounts(self, failed: int, rows: int) -> Change:
        percent = 100.0 * failed / rows if rows else 0.0
        if percent <= self._most_failed:
            return self._cleared(
                Name.FAILED_ACCOUNTS, why=f"{failed:,} of {rows:,} accounts are without a rating now"
            )
        return Condition(
            Name.FAILED_ACCOUNTS,
            self._scope,
            f"{failed:,} of {rows:,} accounts have no rating: {percent:.2f}%, more than {self._most_failed:g}%",
            f"`esgbatch report --date {self._scope}` shows why; "
            f"`esgbatch rerun --failed --date {self._scope}` tries them again",
            {"failed": failed, "accounts": rows, "failed_percent": round(percent, 2)},
        )

    def _partial(self, not_attempted: int, rows: int) -> Change:
        if not not_attempted:
            return self._cleared(Name.PARTIAL_DELIVERY, why="every account of the file was asked for")
        return Condition(
            Name.PARTIAL_DELIVERY,
            self._scope,
            f"The file of {self._scope} was delivered in time, but in part: {not_attempted:,} of {rows:,} "
            "accounts were not attempted and stand in it as failed",
            f"`esgbatch rerun --failed --date {self._scope}` rates them and delivers the next revision",
            {"not_attempted": not_attempted, "accounts": rows},
        )

    def _at_risk(self, fields: Mapping[str, object]) -> Condition:
        rate, needed = _number(fields.get("rate")) or 0.0, _number(fields.get("rate_needed"))
        late, fits, total = _number(fields.get("late")) or 0.0, _count(fields.get("fits")), fields.get("total")
        more = f", {needed:,.1f} are needed" if needed is not None else ""
        then = (
            "the file goes out in time without the rest"
            if fields.get("partial")
            else "the run stops there and keeps what is done"
        )
        return Condition(
            Name.DEADLINE_AT_RISK,
            self._scope,
            f"At this pace the run ends {self._time(fields.get('ends'))}, {_minutes(late)} late; "
            f"{fits:,} accounts of {_count(total):,} would fit by {self._time(fields.get('fits_by'))}",
            f"`esgbatch status --date {self._scope} --watch` shows what holds it up; {then}",
            {
                "forecast": self._time(fields.get("ends")),
                "deadline": self._time(fields.get("deadline")),
                "late_minutes": round(late / 60),
                "done": _count(fields.get("done")),
                "accounts": _count(total),
                "would_fit": fits,
                "pace": f"{rate:,.1f} accounts a second{more}",
            },
        )

    def _outage(self, snapshot: Snapshot, since: float) -> Condition:
        what = "The ESG API is down" if snapshot.held == "outage" else "The ESG API lets us wait"
        return Condition(
            Name.OUTAGE,
            self._scope,
            f"{what} since {self._time(since)}, for more than {LONG_OUTAGE / 60:.0f} minutes; "
            "the run waits and goes on by itself",
            f"ask the API's owner; `esgbatch status --date {self._scope}` shows until when is waited",
            {"held": snapshot.held, "done": snapshot.done, "accounts": snapshot.total},
        )

    def _unusable_key(self, error: str) -> Condition:
        self._expiring.add(self._encryption)
        return Condition(
            Name.EXPIRING,
            self._encryption,
            f"Tonight's file cannot be encrypted as things are: {error}",
            f"correct it while the accounts are rated, then `esgbatch resume --date {self._scope}`",
        )

    def _expires(self, fields: Mapping[str, object]) -> Condition:
        expires, days = fields.get("expires"), _count(fields.get("days"))
        day = expires.date().isoformat() if isinstance(expires, datetime) else str(expires)
        scope = f"{day} {fields.get('what')}"
        self._expiring.add(scope)
        return Condition(
            Name.EXPIRING,
            scope,
            f"{fields.get('what')} ({fields.get('source')}) expires on {day}, in {days} days",
            "ask its owner for a renewed one, put it in the file's place, then `esgbatch doctor`",
            {"expires": day, "days": days},
            variant="soon" if days > 7 else "very soon",
        )

    def _cleared(self, *names: Name, why: str, quietly: bool = False) -> Cleared:
        return Cleared(names, self._scope, why, quietly)

    def _time(self, moment: object) -> str:
        if isinstance(moment, float | int):
            moment = datetime.fromtimestamp(moment, UTC)
        if not isinstance(moment, datetime):
            return "unknown"
        local = moment.astimezone(self._zone)
        return f"{local:%H:%M}" if local.date().isoformat() == self._scope else f"{local:%a %d %b %H:%M}"


def _words(error: BaseException) -> str:
    """An exception's text, where it is one of ours; another's may quote data."""
    told = str(error) if isinstance(error, BatchError | StopRequested) else f"a bug, {type(error).__name__}"
    return redact(" ".join(told.split())).rstrip(".")


def _minutes(seconds: float) -> str:
    whole = max(1, round(seconds / 60))
    if whole >= 7 * 24 * 60:
        return "more than a week"
    return f"{whole} minutes" if whole > 1 else "a minute"


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
