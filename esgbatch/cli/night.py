"""run, resume, rerun, deliver, approve."""

from __future__ import annotations

from datetime import time
from typing import TYPE_CHECKING, Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import BusinessDate, ConfigPath, DeadlineTime, parse_time, read_accounts

if TYPE_CHECKING:
    from esgbatch.config.model import Config
    from esgbatch.job import Job
    from esgbatch.operations.night import Result

app = typer.Typer()


@app.command(epilog=exits.epilog(exits.LATER))
def run(
    date: BusinessDate = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N active accounts: a trial.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the accounts; rate nothing, write nothing.")
    ] = False,
    only_at: Annotated[
        time | None,
        typer.Option(
            metavar="HH:MM",
            parser=parse_time,
            help="Exit 0 at once unless this hour has just begun in the job's zone.",
        ),
    ] = None,
    deadline: DeadlineTime = None,
    config: ConfigPath = None,
) -> None:
    """Do the whole job for one business date: list, rate, encrypt, deliver.

    Called again for a delivered date it says so; for a date that began and did not
    finish, it goes on like resume.
    """
    from esgbatch.cli.context import CLOCK, read_night_config, tell, the_date, working_job
    from esgbatch.deadline import hour_has_begun
    from esgbatch.operations import night
    from esgbatch.wiring import preflight

    settings = read_night_config(config, date)
    if only_at is not None and not hour_has_begun(CLOCK, settings.zone, only_at):
        tell(f"It is not {only_at:%H:%M} in {settings.job.timezone}: nothing to do.")
        return
    if dry_run:
        _dry_run(settings, limit)
        return
    with working_job(settings, the_date(settings, date)) as job:
        preflight(settings, job.listener, CLOCK)
        day = the_date(settings, date)
        result = night.run(job, day, limit=limit, deadline=night.choose_deadline(job, day, deadline, tell))
        _tidy(job, result)
    _print(settings, result)


@app.command(epilog=exits.epilog(exits.LATER))
def resume(date: BusinessDate = None, deadline: DeadlineTime = None, config: ConfigPath = None) -> None:
    """Go on from the last committed state of that date's run, also when its process died."""
    from esgbatch.cli.context import CLOCK, read_night_config, tell, the_date, working_job
    from esgbatch.operations import night
    from esgbatch.wiring import preflight

    settings = read_night_config(config, date)
    day = the_date(settings, date)
    with working_job(settings, day) as job:
        preflight(settings, job.listener, CLOCK)
        result = night.resume(job, day, deadline=night.choose_deadline(job, day, deadline, tell))
        _tidy(job, result)
    _print(settings, result)


@app.command(epilog=exits.epilog(exits.LATER))
def rerun(
    accounts: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|@FILE|-", help="IDs with commas between them, a file, or stdin (one ID a line)."
        ),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed accounts.")] = False,
    date: BusinessDate = None,
    deadline: DeadlineTime = None,
    config: ConfigPath = None,
) -> None:
    """Rate those accounts again, make the next revision of the whole file, deliver it."""
    from esgbatch.cli.context import CLOCK, read_night_config, tell, the_date, working_job
    from esgbatch.operations import night
    from esgbatch.wiring import preflight

    if (accounts is None) == (not failed):
        raise typer.BadParameter("give either --accounts or --failed")
    account_ids = None if accounts is None else read_accounts(accounts)
    settings = read_night_config(config, date)
    day = the_date(settings, date)
    with working_job(settings, day) as job:
        preflight(settings, job.listener, CLOCK)
        result = night.rerun(job, day, account_ids, deadline=night.choose_deadline(job, day, deadline, tell))
        _tidy(job, result)
    _print(settings, result)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 11, 14, 16, 17, 19, 22, 130, 143)))
def deliver(date: BusinessDate = None, config: ConfigPath = None) -> None:
    """Deliver the sealed file again, without calling the ESG API."""
    from esgbatch.cli.context import read_night_config, the_date, working_job
    from esgbatch.operations import night

    settings = read_night_config(config, date)
    day = the_date(settings, date)
    with working_job(settings, day) as job:
        result = night.deliver(job, day)
        _tidy(job, result)
    _print(settings, result)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 11, 15, 16, 17, 18, 19, 22, 130, 143)))
def approve(
    date: BusinessDate,
    by: Annotated[str, typer.Option(metavar="WHO", help="Who releases it; goes into manifest and audit.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; goes into manifest and audit.")],
    deadline: DeadlineTime = None,
    config: ConfigPath = None,
) -> None:
    """Release a file that a quality gate has withheld, and deliver it."""
    from esgbatch.cli.context import read_night_config, tell, the_date, working_job
    from esgbatch.operations import night

    if not by.strip() or not reason.strip():
        raise typer.BadParameter("--by and --reason must not be empty")
    if not (by + reason).isprintable():
        raise typer.BadParameter("--by and --reason must be printable text in UTF-8, on one line")
    settings = read_night_config(config, date)
    day = the_date(settings, date)
    with working_job(settings, day) as job:
        result = night.approve(
            job, day, by=by, reason=reason, deadline=night.choose_deadline(job, day, deadline, tell)
        )
        _tidy(job, result)
    _print(settings, result)


def _tidy(job: Job, result: Result) -> None:
    """Retention follows a run that was delivered just now."""
    from esgbatch.operations import retention

    if not result.already:
        retention.tidy(job, result.summary.run.business_date)


def _dry_run(settings: Config, limit: int | None) -> None:
    from esgbatch.cli.context import CLOCK
    from esgbatch.observability.progress import Broadcast
    from esgbatch.operations.dryrun import census
    from esgbatch.wiring import open_source, reveal_secrets

    reveal_secrets(settings.accounts)
    counted = census(open_source(settings, CLOCK, Broadcast([])), limit)
    seconds = counted.rows / settings.ratings.rate_limit
    print(
        f"Dry run: {counted.listed} listed, {counted.excluded} excluded ({counted.inactive} inactive, "
        f"{counted.duplicate} duplicate, {counted.refused} refused), {counted.rows} to rate; at "
        f"{settings.ratings.rate_limit:g} requests a second at least {seconds / 60:.1f} minutes. "
        "Nothing was rated, nothing was written."
    )


def _print(settings: Config, result: Result) -> None:
    from esgbatch.cli.context import tell
    from esgbatch.errors import WrongUsage
    from esgbatch.reporting.text import render

    try:
        if result.already:
            print(f"The file of {result.summary.run.business_date} was delivered by an earlier call.\n")
        print(render(result.summary, settings.zone), end="", flush=True)
    except WrongUsage as error:
        tell(str(error))  # the exit code is about the file, and that is delivered
