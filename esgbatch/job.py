"""The whole job, in one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from esgbatch import manifest, quality
from esgbatch.config.model import Config
from esgbatch.deadline import Deadline
from esgbatch.draft import Draft
from esgbatch.errors import BatchError, DeadlinePassed, EncryptionError, SealedFileMissing, Withheld
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.stage import Rating
from esgbatch.fetching.ticket import Ended, Pace
from esgbatch.fetching.turn import turn
from esgbatch.files import private_folder, replacing
from esgbatch.memory import give_back
from esgbatch.model import Package, Reason, Revision, Run, Stage, Step, Tally
from esgbatch.ports import (
    AccountSource,
    Audit,
    Clock,
    Courier,
    Encryptor,
    Listener,
)
from esgbatch.records import Records
from esgbatch.reporting import errorfile
from esgbatch.rows import CsvFile
from esgbatch.stopping import StopSignal


class MakeDispatcher(Protocol):
    """Dispatchers are made when they are needed, since each owns threads."""

    def __call__(self, *, deadline_binds: bool, tick: Callable[[Pace], None]) -> Dispatcher: ...


@dataclass(slots=True)
class Measured:
    """What an execution measured, for its record."""

    stages: dict[str, float] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Job:
    """The job with everything it needs; `wiring.build_job` makes it.

    `own(business_date, command, until)` holds the run against other hosts; `until` is its deadline.
    """

    config: Config
    config_sha256: str
    open_source: Callable[[], AccountSource]
    make_dispatcher: MakeDispatcher
    encryptor: Encryptor
    courier: Courier
    records: Records
    audit: Audit
    listener: Listener
    clock: Clock
    stop: StopSignal
    own: Callable[[date, str, float | None], AbstractContextManager[None]] = lambda _date, _command, _until: (
        nullcontext()
    )
    measured: Measured = field(default_factory=Measured)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage; the next one gets the memory that it has freed."""
        began = self.clock.monotonic()
        try:
            yield
        finally:
            seconds = self.measured.stages[name] = round(self.clock.monotonic() - began, 3)
            self.listener.event("stage_ended", part=name, seconds=seconds)
            give_back()

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.time(), UTC)

    def draft(self, run: Run) -> Draft:
        """The run's file in the making."""
        low, high = map(float, self.config.ratings.score_range)
        return Draft(
            run,
            self.records.outcomes,
            CsvFile(self.config.header, guard_formulas=self.config.csv.guard_formulas),
            quality.Scores(len(run.columns), low, high),
            self.config.job.state_dir,
        )


def run_job(job: Job, run: Run, deadline: Deadline) -> Run:
    """List the active accounts, rate each, encrypt one file, deliver it.

    Each stage asks the checkpoint what is left to do, so `run`, `resume`, `rerun` and
    `deliver` are this one function. One account's failure is data; only a failure of
    the whole job raises.

    Raises:
        BatchError: the run stands where the checkpoint says, and can go on from there.
        StopRequested: likewise, because somebody asked for it.
    """
    if run.stage is Stage.LISTING:
        with job.stage("listing"):
            run = list_accounts(job, run)
    with job.draft(run) as draft:
        if run.stage is Stage.RATING:
            audit_list(job, run)
            with job.stage("rating"):
                rate(job, run, deadline, draft)
                run = job.records.runs.advance(run, Stage.SEALING)
        if run.stage in (Stage.SEALING, Stage.WITHHELD):
            with job.stage("checking"):
                scores = check(job, run, draft)
            with job.stage("sealing"):
                run = seal(job, run, draft, scores)
        with job.stage("delivering"):
            return deliver(job, run)


def list_accounts(job: Job, run: Run) -> Run:
    """Freeze the list. A restart never lists again, so the file is of one moment."""
    return job.records.runs.enrol(run, job.open_source().accounts())


def audit_list(job: Job, run: Run) -> None:
    """Tell the trail of the list; here, since a crash may have come after it was frozen."""
    census = run.census
    job.audit.append(
        "accounts_enrolled",
        once=True,
        business_date=run.business_date,
        run_id=run.run_id,
        listed=census.listed,
        rows=census.rows,
        excluded=census.excluded,
    )


def rate(job: Job, run: Run, deadline: Deadline, draft: Draft) -> None:
    """Give every account an outcome, and write the failed ones to the error file.

    What is final goes into the draft meanwhile.

    Raises:
        DeadlinePassed: accounts are left, and no partial file is wanted.
        RatingsError, StopRequested: accounts are left.
    """
    partial = job.config.job.on_deadline == "deliver_partial"
    with turn(job.config.job.state_dir, job.clock, job.listener):
        ended, tally = _rate(job, run, deadline, draft, partial=partial)
    _write_error_file(job, run, tally)
    if ended is not Ended.COMPLETE and not partial:
        raise DeadlinePassed(f"The deadline passed with {tally.done} of {tally.rows} accounts done.")


def _rate(job: Job, run: Run, deadline: Deadline, draft: Draft, *, partial: bool) -> tuple[Ended, Tally]:
    stage = Rating(
        run,
        job.records,
        job.listener,
        job.clock,
        deadline,
        draft.make,
        partial_at_deadline=partial,
        rate_limit=job.config.ratings.rate_limit,
    )
    dispatcher = job.make_dispatcher(deadline_binds=deadline.binds, tick=stage.tick)
    try:
        with job.stop.cooperative(dispatcher.wake):
            return stage.run(dispatcher), stage.tally
    except BaseException:
        # What ended the rating is the news; an error file that cannot be written as well is not.
        with suppress(BatchError):
            _write_error_file(job, run)
        raise
    finally:
        job.measured.pace = dispatcher.pace
        dispatcher.close()


def check(job: Job, run: Run, draft: Draft) -> quality.Distribution:
    """Finish the draft, and keep it back where it looks wrong, unless it was approved; returns its scores.

    Raises:
        Withheld: with the figures.
    """
    draft.finish()
    tally, scores = draft.tally, draft.scores
    before = None if _is_partial(run, tally) else job.records.ledger.last_delivered_before(run)
    found = quality.findings(
        tally,
        quality.Comparison(tally.rows, scores.means),
        None if before is None else quality.Comparison.of(before),
        job.config.quality,
        run.columns,
    )
    if found and run.approval is None:
        for finding in found:
            job.listener.event("gate_withheld", gate=finding.gate, figure=finding.figure, limit=finding.limit)
        if run.stage is not Stage.WITHHELD:
            _audit(job, run, "withheld", gates=[finding.gate for finding in found])
            job.records.runs.advance(run, Stage.WITHHELD)
        raise Withheld(f"The file is withheld: {'; '.join(finding.text for finding in found)}.")
    return scores


def seal(job: Job, run: Run, draft: Draft, scores: quality.Distribution) -> Run:
    """Encrypt the finished draft into the archive, and register the file with its manifest."""
    job.listener.event("sealing_started")
    tally = draft.tally
    sealed = job.encryptor.seal(
        draft.chunks(),
        rows=lambda: quality.require_rows(draft.rows, tally),
        name=manifest.plain_name(run.business_date),
        target=_archive_path(job.config.job.state_dir, run),
    )
    partial = _is_partial(run, tally)
    anchor = _audit(
        job,
        run,
        "sealed",
        plaintext_sha256=sealed.plaintext.sha256,
        encrypted_sha256=sealed.encrypted.sha256,
        rows=sealed.rows,
        recipients=list(sealed.recipients),
    )
    content = manifest.build(
        run,
        tally,
        sealed,
        created=job.now,
        supersedes=_before(job, run),
        partial=partial,
        config_sha256=job.config_sha256,
        audit_anchor=str(anchor),
    )
    _archive_manifest(sealed.path.with_name(manifest.manifest_name(run.business_date)), content)
    revision = Revision(
        run.revision, job.now, sealed, content, scores.means, partial, histograms=scores.histograms
    )
    job.records.ledger.sealed(run, revision)
    job.listener.event(
        "sealed",
        rows=sealed.rows,
        plaintext_bytes=sealed.plaintext.size,
        encrypted_sha256=sealed.encrypted.sha256,
    )
    return replace(run, stage=Stage.DELIVERING)


def seal_again(job: Job, run: Run, lost: Revision) -> Run:
    """Make the sealed file once more from the committed rows: the host that had it is gone.

    It is the same revision, since the old file reached nobody: the drop folder was looked
    at first. The gates have been passed, and are not asked again.
    """
    job.listener.event("sealed_file_missing", revision=lost.number)
    with job.draft(run) as draft:
        draft.finish()
        return seal(job, run, draft, quality.Distribution(lost.means, lost.histograms))


def deliver(job: Job, run: Run) -> Run:
    """Bring the revision in the making to the drop folder, once, and record it."""
    revision = job.records.ledger.revisions(run)[-1]
    package = Package(
        path=revision.sealed.path,
        name=manifest.sealed_name(run.business_date),
        digest=revision.sealed.encrypted,
        manifest_name=manifest.manifest_name(run.business_date),
        manifest=revision.manifest,
        token=f"{run.run_id[:12]}-r{revision.number}-{revision.sealed.encrypted.sha256[:8]}",
    )
    repeated = run.stage is Stage.DELIVERED
    began = job.now
    job.listener.event("delivery_started", revision=revision.number)

    def note(step: Step, detail: str) -> None:
        job.records.ledger.note(run, step, detail)
        job.listener.event("delivery_step", step=step, detail=detail)

    try:
        receipt = job.courier.deliver(package, done=job.records.ledger.steps(run), note=note)
    except SealedFileMissing:
        if repeated:
            raise
        return deliver(job, seal_again(job, run, revision))
    _audit(
        job,
        run,
        "delivery_repeated" if repeated else "delivered",
        once=not repeated,
        location=receipt.location,
        encrypted_sha256=package.digest.sha256,
        verified_by=receipt.verified_by,
        **({"began": manifest.rfc3339(began)} if repeated else {}),
    )
    job.records.ledger.delivered(run, receipt)
    tally = manifest.tally(revision.manifest) or job.records.outcomes.tally(run)
    job.listener.event(
        "delivered",
        location=receipt.location,
        encrypted_sha256=package.digest.sha256,
        attempts=receipt.attempts,
        rows=tally.rows,
        failed=tally.failed,
        not_attempted=tally.failed_by.get(Reason.NOT_ATTEMPTED, 0),
    )
    return replace(run, stage=Stage.DELIVERED)


def _before(job: Job, run: Run) -> Revision | None:
    """The sealed file that the one in the making supersedes."""
    earlier = [each for each in job.records.ledger.revisions(run) if each.number < run.revision]
    return earlier[-1] if earlier else None


def _archive_path(state_dir: Path, run: Run) -> Path:
    """Where a revision's sealed file is kept; its manifest lies beside it."""
    folder = state_dir / "archive" / f"{run.business_date:%Y%m%d}" / f"r{run.revision}"
    for each in (folder, folder.parent, folder.parent.parent):
        if each.is_symlink():
            raise EncryptionError(
                f"{each} is a symbolic link, which this program never makes.",
                advice="find out who put it there, remove it, then `esgbatch resume --date {date}`",
            )
    try:
        return private_folder(folder) / manifest.sealed_name(run.business_date)
    except OSError as error:
        raise EncryptionError(f"The archive folder {folder} cannot be made: {error.strerror}.") from None


def _archive_manifest(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise EncryptionError(f"The manifest {path} cannot be written: {error.strerror}.") from None


def _write_error_file(job: Job, run: Run, tally: Tally | None = None) -> None:
    """With a `tally` that knows of none, no failure is looked for."""
    failures = () if tally is not None and not tally.failed else job.records.outcomes.failures(run)
    errorfile.write(job.config.logging.directory, run, failures)


def _is_partial(run: Run, tally: Tally) -> bool:
    return run.limit is not None or Reason.NOT_ATTEMPTED in tally.failed_by


def _audit(job: Job, run: Run, action: str, *, once: bool = False, **details: object) -> object:
    return job.audit.append(
        action,
        once=once,
        business_date=run.business_date,
        run_id=run.run_id,
        revision=run.revision,
        **details,
    )
