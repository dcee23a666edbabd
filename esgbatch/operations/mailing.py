"""The daily report by mail: text to read at once, and the page attached."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from esgbatch.alerting.email import Attachment, send_mail
from esgbatch.config.model import Config
from esgbatch.errors import ConfigError, StopRequested
from esgbatch.job import Job
from esgbatch.model import Run
from esgbatch.operations import daily
from esgbatch.records import Records
from esgbatch.reporting import text
from esgbatch.reporting.summary import verdict

# What a mail server may keep a delivered run waiting for.
PATIENCE = 60.0


def send(
    records: Records,
    config: Config,
    run: Run,
    *,
    now: datetime,
    days: int = daily.TREND_DAYS,
    limit: float | None = None,
) -> Sequence[str]:
    """Mail the report of a run; returns the recipients.

    Raises:
        ConfigError: there is nobody to send it to.
        ChannelError: the mail server did not take it.
    """
    email = config.alerts.email
    if email is None or not email.report_recipients:
        raise ConfigError(
            "Nobody is configured to get the report by mail.",
            advice="set alerts.email.report_recipients, then `esgbatch report --send --date {date}`",
        )
    from esgbatch.reporting import html  # with its charts: not needed where nobody gets it

    night = daily.gather(records, config, run, now=now, days=days)
    environment = config.job.environment
    page = html.render(night, environment=environment)
    send_mail(
        email,
        recipients=email.report_recipients,
        subject=f"[{environment}] ESG ratings of {run.business_date}: {verdict(night.summary)}",
        text=f"{text.render(night.summary, config.zone)}\nAudit anchor  {night.anchor}\n",
        attachments=[
            Attachment(f"esgbatch-report-{run.business_date:%Y%m%d}.html", page.encode(), "text/html")
        ],
        limit=limit,
    )
    return email.report_recipients


def send_after(job: Job, run: Run) -> None:
    """Mail the report of a run that has just been delivered, where somebody is to get it.

    Whatever goes wrong here is told in the log: the file is delivered, and that is what
    the exit code says.
    """
    email = job.config.alerts.email
    if email is None or not email.report_recipients:
        return
    now = datetime.fromtimestamp(job.clock.time(), UTC)
    try:
        recipients = send(job.records, job.config, run, now=now, limit=PATIENCE)
    except (Exception, StopRequested, KeyboardInterrupt) as error:  # noqa: BLE001 see above
        job.listener.event("report_not_sent", error=error)
    else:
        job.listener.event("report_sent", recipients=len(recipients))
