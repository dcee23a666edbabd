"""What an operator can do with a business date: run, resume, rerun, deliver, approve.

Each takes the lease, decides whether there is something to do, and lets `run_job` do it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from esgbatch import deadline as deadlines
from esgbatch.deadline import Deadline
from esgbatch.errors import (
    BatchError,
    CheckpointError,
    ConfigError,
    DeadlinePassed,
    ExitCode,
    NothingToDo,
    StopRequested,
    Withheld,
    WrongUsage,
)
from esgbatch.job import Job, check, run_job
from esgbatch.model import Approval, Run, Stage, Summary, by_name
from esgbatch.operations.holding import hold


@dataclass(frozen=True, slots=True)
class Result:
    """What a command came to: the run's summary, and whether there was nothing left to do."""

    summary: Summary
    already: bool = False


def run(job: Job, business_date: date, *, limit: int | None, deadline: Deadline) -> Result:
    """Do the date's whole job; go on where an earlier call left off; say so where it is done."""
    with hold(job, business_date, "run", deadline):
        found = job.records.runs.find(business_date)
        if found is None:
            found = job.records.runs.create(business_date, _columns(job), limit)
        elif limit is not None and found.limit != limit:
            raise WrongUsage(f"The run of {business_date} has begun with another --limit.")
        if found.stage is Stage.DELIVERED:
            return _already(job, found)
        if found.stage is not Stage.DELIVERING:
            _require_ratings(found)
        return _execute(job, found, "run", deadline)


def resume(job: Job, business_date: date, *, deadline: Deadline) -> Result:
    """Go on from the last committed state."""
    with hold(job, business_date, "resume", deadline):
        found = _find(job, business_date)
        if found.stage is Stage.DELIVERED:
            return _already(job, found)
        if found.stage is not Stage.DELIVERING:
            _require_ratings(found)
        return _execute(job, found, "resume", deadline)


def rerun(job: Job, business_date: date, account_ids: Sequence[str] | None, *, deadline: Deadline) -> Result:
    """Rate some accounts again (None: all failed ones) and make the next revision of the file."""
    with hold(job, business_date, "rerun", deadline):
        found = _find(job, business_date)
        if found.stage in (Stage.LISTING, Stage.RATING):
            raise WrongUsage(
                f"The run of {business_date} has not rated every account yet.",
                advice=f"`esgbatch resume --date {business_date}` first",
            )
        _require_ratings(found)
        # First the trail: what is taken back must be in it, even where the process dies in between.
        job.audit.append(
            "rerun",
            business_date=business_date,
            run_id=found.run_id,
            revision=found.revision,
            accounts="failed" if account_ids is None else len(account_ids),
        )
        try:
            found = job.records.runs.reopen(found, account_ids)
        except WrongUsage:
            _require_not_erased(job, found, account_ids or ())
            raise
        return _execute(job, found, "rerun", deadline)


def deliver(job: Job, business_date: date) -> Result:
    """Deliver the sealed file, again if it was delivered before; the ESG API is not called."""
    deadline = Deadline(None, job.clock)
    with hold(job, business_date, "deliver", deadline):
        found = _find(job, business_date)
        if found.stage is Stage.WITHHELD:
            with job.draft(found) as draft:
                check(job, found, draft)
            raise Withheld("The file was withheld by a quality gate, which would let it through now.")
        if found.stage not in (Stage.DELIVERING, Stage.DELIVERED):
            raise NothingToDo(
                f"Revision {found.revision} of {business_date} is not sealed yet; its stage is {found.stage}.",
                advice=f"`esgbatch resume --date {business_date}`",
            )
        if erased := job.records.privacy.nameless(found):
            raise NothingToDo(
                f"The file of {business_date} holds {erased} account(s) that were erased since: it is not "
                "delivered again.",
                advice=f"`esgbatch rerun --accounts ID --date {business_date}`, with any other account, makes "
                "and delivers a revision without them",
            )
        return _execute(job, found, "deliver", deadline)


def approve(job: Job, business_date: date, *, by: str, reason: str, deadline: Deadline) -> Result:
    """Release a withheld file, and send it on its way."""
    with hold(job, business_date, "approve", deadline):
        found = _find(job, business_date)
        if found.stage is not Stage.WITHHELD:
            raise NothingToDo(f"No file of {business_date} is withheld; the run's stage is {found.stage}.")
        _require_ratings(found)
        # First the trail: a file that nobody answers for must not go out after a crash between the two.
        job.audit.append("approved", business_date=business_date, run_id=found.run_id, by=by, reason=reason)
        found = job.records.runs.approve(found, Approval(by, reason, job.now))
        return _execute(job, found, "approve", deadline)


def choose_deadline(
    job: Job, business_date: date, override: time | None, tell: Callable[[str], None]
) -> Deadline:
    """The date's deadline where it is still ahead; after it, none, unless the operator names one."""
    now = job.clock.time()
    if override is not None:
        zone = job.config.zone
        day = datetime.fromtimestamp(now, zone).date()
        at = deadlines.moment(day, override, zone).timestamp()
        if at <= now:
            at = deadlines.moment(day + timedelta(days=1), override, zone).timestamp()
        return Deadline(at, job.clock)
    at = deadlines.moment(business_date, job.config.job.deadline, job.config.zone).timestamp()
    if at > now:
        return Deadline(at, job.clock)
    passed = datetime.fromtimestamp(at, UTC).astimezone(job.config.zone)
    tell(
        f"The deadline of {business_date}, {passed:%H:%M %Z}, has passed: this call has none "
        "(--deadline sets one)."
    )
    return Deadline(None, job.clock)


def _find(job: Job, business_date: date) -> Run:
    found = job.records.runs.find(business_date)
    if found is None:
        raise NothingToDo(f"There is no run of {business_date}.")
    return found


def _already(job: Job, found: Run) -> Result:
    job.listener.event("already_delivered", run_id=found.run_id, revision=found.revision)
    return Result(job.records.summary(found), already=True)


def _require_ratings(found: Run) -> None:
    if found.purged is not None:
        raise NothingToDo(
            f"Names and scores of {found.business_date} were purged on {found.purged:%Y-%m-%d}, as [retention] "
            "says: no file can be made of them any more.",
            advice=f"`esgbatch report --date {found.business_date}` shows what is left",
        )


def _require_not_erased(job: Job, found: Run, account_ids: Sequence[str]) -> None:
    erasures = job.records.privacy.erasures()
    for account_id in account_ids if erasures else ():
        at = erasures.get(job.audit.pseudonym(account_id))
        if at is not None and job.records.outcomes.held(found, account_id) is None:
            raise WrongUsage(
                f"The account {account_id!a} was erased on {at:%Y-%m-%d}: it is not in the run of "
                f"{found.business_date}. Nothing was changed.",
                advice="leave it out of the list of accounts",
            )


def _columns(job: Job) -> list[str]:
    return [score.column for score in job.config.ratings.scores]


def _execute(job: Job, found: Run, command: str, deadline: Deadline) -> Result:
    if list(found.columns) != _columns(job):
        raise ConfigError(
            f"The score columns have changed since the run of {found.business_date} began "
            f"(it has {', '.join(found.columns)}).",
            advice="restore [[ratings.scores]] for this date",
        )
    tally = job.records.outcomes.tally(found)
    execution = job.records.history.begin(found, command)
    code: ExitCode = ExitCode.BUG
    error: BaseException | None = None
    job.listener.event(
        "run_started",
        command=command,
        run_id=found.run_id,
        revision=found.revision,
        stage=found.stage,
        deadline=deadline.at,
        pending=tally.pending,
        deferred=tally.deferred,
        succeeded=tally.succeeded,
        failed_by=by_name(tally.failed_by),
    )
    try:
        with job.stop.installed(deadline.remaining() if deadline.binds else None):
            finished = run_job(job, found, deadline)
        code = ExitCode.DELIVERED
    except (BatchError, StopRequested) as failure:
        code, error = failure.code, failure
        if failure.code is ExitCode.DEADLINE and isinstance(failure, StopRequested):
            raise DeadlinePassed("The deadline passed before the file was delivered.") from None
        raise
    except BaseException as bug:
        error = bug
        raise
    finally:
        # A broken database has its own error on the way; the record of the end must not hide it.
        with suppress(CheckpointError):
            _record_end(job, execution, code, error)
        name = "run_finished" if code is ExitCode.DELIVERED else "run_failed"
        job.listener.event(name, exit_code=code, error=error)
    _mail_report(job, finished)
    return Result(job.records.summary(finished))


def _mail_report(job: Job, finished: Run) -> None:
    if job.config.alerts.email is not None:
        from esgbatch.operations import mailing  # not needed before, and by many never

        mailing.send_after(job, finished)


def _record_end(job: Job, execution: int, code: ExitCode, error: BaseException | None) -> None:
    pace = job.measured.pace
    job.records.history.measured(
        execution,
        job.measured.stages,
        attempts=pace.attempts,
        latency_p50=pace.latency.percentile(0.5),
        latency_p95=pace.latency.percentile(0.95),
    )
    told = str(error) if isinstance(error, BatchError | StopRequested) else type(error).__name__
    job.records.history.end(execution, code, None if error is None else told)
