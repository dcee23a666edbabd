"""run, resume, rerun, deliver, approve."""

from __future__ import annotations

from datetime import time
from typing import Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import BusinessDate, ConfigPath, DeadlineTime, RequiredDate, parse_time, read_accounts

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
    from esgbatch.cli.actions import night

    night.run(config, date, deadline, limit=limit, dry_run=dry_run, only_at=only_at)


@app.command(epilog=exits.epilog(exits.LATER))
def resume(date: BusinessDate = None, deadline: DeadlineTime = None, config: ConfigPath = None) -> None:
    """Go on from the last committed state of that date's run, also when its process died."""
    from esgbatch.cli.actions import night

    night.resume(config, date, deadline)


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
    from esgbatch.cli.actions import night

    if (accounts is None) == (not failed):
        raise typer.BadParameter("give either --accounts or --failed")
    night.rerun(config, date, deadline, None if accounts is None else read_accounts(accounts))


@app.command(epilog=exits.epilog((0, 1, 2, 10, 11, 14, 16, 17, 19, 22, 130, 143)))
def deliver(date: BusinessDate = None, config: ConfigPath = None) -> None:
    """Deliver the sealed file again, without calling the ESG API."""
    from esgbatch.cli.actions import night

    night.deliver(config, date)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 11, 15, 16, 17, 18, 19, 22, 130, 143)))
def approve(
    date: RequiredDate,
    by: Annotated[str, typer.Option(metavar="WHO", help="Who releases it; goes into manifest and audit.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; goes into manifest and audit.")],
    deadline: DeadlineTime = None,
    config: ConfigPath = None,
) -> None:
    """Release a file that a quality gate has withheld, and deliver it."""
    from esgbatch.cli.actions import night

    if not by.strip() or not reason.strip():
        raise typer.BadParameter("--by and --reason must not be empty")
    if not (by + reason).isprintable():
        raise typer.BadParameter("--by and --reason must be printable text in UTF-8, on one line")
    night.approve(config, date, deadline, by=by, reason=reason)
