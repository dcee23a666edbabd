"""run, resume, rerun, deliver and approve: the job with its logs and alerts, and its summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, time
from pathlib import Path

from esgbatch.cli.context import CLOCK, read_night_config, tell, the_date, working_job
from esgbatch.config.model import Config
from esgbatch.deadline import Deadline, hour_has_begun
from esgbatch.errors import WrongUsage
from esgbatch.job import Job
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import night, retention
from esgbatch.operations.dryrun import census
from esgbatch.operations.night import Result
from esgbatch.reporting.text import render
from esgbatch.wiring import open_source, preflight, reveal_secrets

Rating = Callable[[Job, date, Deadline], Result]


def run(
    config_path: Path | None,
    given: date | None,
    deadline: time | None,
    *,
    limit: int | None,
    dry_run: bool,
    only_at: time | None,
) -> None:
    config = read_night_config(config_path, given)
    if only_at is not None and not hour_has_begun(CLOCK, config.zone, only_at):
        tell(f"It is not {only_at:%H:%M} in {config.job.timezone}: nothing to do.")
    elif dry_run:
        _dry_run(config, limit)
    else:
        if given is not None and given > the_date(config, None):
            tell(f"warning: {given} has not begun in {config.job.timezone}; its own run will find it done.")
        _rate(config, given, deadline, lambda job, day, until: night.run(job, day, limit=limit, deadline=until))


def resume(config_path: Path | None, given: date | None, deadline: time | None) -> None:
    config = read_night_config(config_path, given)
    _rate(config, given, deadline, lambda job, day, until: night.resume(job, day, deadline=until))


def rerun(
    config_path: Path | None, given: date | None, deadline: time | None, account_ids: Sequence[str] | None
) -> None:
    config = read_night_config(config_path, given)
    _rate(config, given, deadline, lambda job, day, until: night.rerun(job, day, account_ids, deadline=until))


def deliver(config_path: Path | None, given: date | None) -> None:
    config = read_night_config(config_path, given)
    _work(config, given, night.deliver)


def approve(
    config_path: Path | None, given: date | None, deadline: time | None, *, by: str, reason: str
) -> None:
    config = read_night_config(config_path, given)

    def approve(job: Job, day: date) -> Result:
        until = night.choose_deadline(job, day, deadline, tell)
        return night.approve(job, day, by=by, reason=reason, deadline=until)

    _work(config, given, approve)


def _rate(config: Config, given: date | None, deadline: time | None, rating: Rating) -> None:
    """Work that calls the ESG API: its secrets and keys are looked at before anything is asked."""

    def rate(job: Job, day: date) -> Result:
        preflight(config, job.listener, CLOCK)
        return rating(job, day, night.choose_deadline(job, day, deadline, tell))

    _work(config, given, rate)


def _work(config: Config, given: date | None, work: Callable[[Job, date], Result]) -> None:
    day = the_date(config, given)
    with working_job(config, day) as job:
        result = work(job, day)
        if not result.already:
            retention.tidy(job, result.summary.run.business_date)
    try:
        if result.already:
            print(f"The file of {result.summary.run.business_date} was delivered by an earlier call.\n")
        print(render(result.summary, config.zone), end="", flush=True)
    except WrongUsage as error:
        tell(str(error))  # the exit code is about the file, and that is delivered


def _dry_run(config: Config, limit: int | None) -> None:
    reveal_secrets(config.accounts)
    counted = census(open_source(config, CLOCK, Broadcast([])), limit)
    seconds = counted.rows / config.ratings.rate_limit
    print(
        f"Dry run: {counted.listed} listed, {counted.excluded} excluded ({counted.inactive} inactive, "
        f"{counted.duplicate} duplicate, {counted.refused} refused), {counted.rows} to rate; at "
        f"{config.ratings.rate_limit:g} requests a second at least {seconds / 60:.1f} minutes. "
        "Nothing was rated, nothing was written."
    )
