"""Gathers what the daily report tells, from checkpoint, archive and audit trail; changes nothing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from html import escape
from pathlib import Path

from esgbatch import manifest, quality
from esgbatch.compliance.audit import FILE_NAME, AuditTrail, load_or_create_key
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import BatchError
from esgbatch.model import Reason, Run, Summary
from esgbatch.records import Records
from esgbatch.reporting import errorfile
from esgbatch.reporting.history import Day
from esgbatch.reporting.night import FailedAccounts, Night

TREND_DAYS = 30
# Of the page's 300 kB, and of the reader's patience.
MOST_IDS, MOST_ID_BYTES = 2000, 60_000


def gather(records: Records, config: Config, run: Run, *, now: datetime, days: int = TREND_DAYS) -> Night:
    """The night of a run, with the `days` days up to it."""
    summary = records.summary(run)
    before = records.ledger.last_delivered_before(run)
    scores = _scores(records, config, summary)
    most = config.ratings.concurrency
    return Night(
        summary=summary,
        zone=config.zone,
        now=now,
        deadline=_deadline(config, run.business_date),
        rate_limit=config.ratings.rate_limit,
        most_in_flight=config.ratings.max_concurrency if most == "auto" else most,
        tolerated_percent=config.alerts.failed_percent,
        samples=records.history.samples(run),
        means=scores.means,
        histograms=scores.histograms,
        before=before,
        failures=_failures(records, run) if summary.tally.failed else {},
        days=history(records, config, run.business_date, days),
        anchor=anchor(config.job.state_dir),
        error_file=str(errorfile.path(config.logging.directory, run)),
    )


def _scores(records: Records, config: Config, summary: Summary) -> quality.Distribution:
    """The scores in figures: those of the sealed file, or else of what has been rated so far."""
    run = summary.run
    last = summary.revisions[-1] if summary.revisions else None
    if last is not None and (last.number == run.revision or run.purged):
        return quality.Distribution(last.means, last.histograms)
    low, high = map(float, config.ratings.score_range)
    scored = () if run.purged else records.outcomes.scored(run)
    return quality.describe((scores for _, scores in scored), len(run.columns), low, high)


def history(records: Records, config: Config, until: date, days: int) -> list[Day]:
    """The days with a run among the `days` up to `until`, oldest first."""
    found = []
    for each in records.history.dates(until - timedelta(days=days - 1), until):
        run = records.runs.find(each)
        if run is not None:
            found.append(Day(_settled(records, run), _deadline(config, each)))
    return found


def _settled(records: Records, run: Run) -> Summary:
    """The summary, counted by the manifest where there is one: a month of accounts is not counted again."""
    revisions = records.ledger.revisions(run)
    last = revisions[-1] if revisions else None
    tally = manifest.tally(last.manifest) if last is not None and last.number == run.revision else None
    executions = records.history.executions(run)
    return Summary(run, records.outcomes.tally(run) if tally is None else tally, revisions, executions)


def _deadline(config: Config, day: date) -> datetime:
    return moment(day, config.job.deadline, config.zone)


def _failures(records: Records, run: Run) -> dict[Reason, FailedAccounts]:
    """As many IDs as a page can bear, and how many more there are."""
    ids: dict[Reason, list[str]] = {}
    more: dict[Reason, int] = {}
    number = size = 0
    for failure in records.outcomes.failures(run):
        length = len(escape(failure.account_id).encode(errors="replace"))
        if number < MOST_IDS and size + length <= MOST_ID_BYTES:
            ids.setdefault(failure.reason, []).append(failure.account_id)
            number, size = number + 1, size + length
        else:
            more[failure.reason] = more.get(failure.reason, 0) + 1
    return {reason: FailedAccounts(tuple(ids.get(reason, ())), more.get(reason, 0)) for reason in {*ids, *more}}


def anchor(state_dir: Path) -> str:
    """The audit trail's head as `N:HASH`, or why there is none."""
    path = state_dir / FILE_NAME
    if not path.exists():
        return "There is no audit trail."
    try:
        head = AuditTrail(path, load_or_create_key(state_dir)).head()
    except BatchError as error:
        return str(error)
    return "The audit trail is empty." if head is None else str(head)
