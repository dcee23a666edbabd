"""status, report, schedule, forecast: looking never changes anything."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import AsJson, BusinessDate, ConfigPath

app = typer.Typer()


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    HTML = "html"
    CSV = "csv"


@app.command(epilog=exits.epilog(exits.LOOK, "shown"))
def status(
    date: BusinessDate = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds.")] = False,
    json: AsJson = False,
    config: ConfigPath = None,
) -> None:
    """Show how that date's run stands: stage, done, rate, ETA, held until when."""
    from esgbatch.cli.actions import status

    status.show(config, date, watch=watch, as_json=json)


@app.command(epilog=exits.epilog(exits.LOOK, "reported"))
def report(
    date: BusinessDate = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=36500, metavar="N", help="The last N days up to the date, a line each."),
    ] = None,
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.TEXT,  # noqa: A002 - the option's name
    output: Annotated[Path | None, typer.Option(metavar="F", help="Write to F instead of stdout.")] = None,
    send: Annotated[
        bool, typer.Option("--send", help="Mail it to alerts.email.report_recipients, as text and HTML.")
    ] = False,
    config: ConfigPath = None,
) -> None:
    """Write the daily summary, or N days of history.

    html is the whole night in one file for a browser, with the trend of N (30) days;
    csv is for spreadsheets and analysts: a line a day. The columns are in docs/history.md.
    """
    from esgbatch.cli.actions import report

    if send and (output or format is not Format.TEXT):
        raise typer.BadParameter("--send mails the text and the page; it has no --format and no --output")
    if send:
        report.send(config, date, days)
    else:
        report.write(config, date, days, form=format, output=output)


@app.command(epilog=exits.epilog((0, 1, 2, 10), "shown"))
def schedule(
    days: Annotated[int, typer.Option(min=1, max=3660, metavar="N", help="So many business dates.")] = 7,
    json: AsJson = False,
    config: ConfigPath = None,
) -> None:
    """Show the next starts and deadlines, in the job's zone and in UTC, and when the clocks change."""
    from esgbatch.cli.actions import schedule

    schedule.show(config, days, as_json=json)


@app.command(epilog=exits.epilog(exits.LOOK, "shown"))
def forecast(
    accounts: Annotated[int, typer.Option(min=1, metavar="N", help="So many accounts.")],
    days: Annotated[
        int, typer.Option(min=1, max=36500, metavar="N", help="Measured by the nights of the last N days.")
    ] = 30,
    latency: Annotated[
        float | None,
        typer.Option(min=0.001, max=3600, metavar="SECONDS", help="How long an answer takes, instead."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=100_000, metavar="R", help="Another quota, in requests a second."),
    ] = None,
    json: AsJson = False,
    config: ConfigPath = None,
) -> None:
    """Plan a night with N accounts: minutes, concurrency, machines, and the quota that it needs."""
    from esgbatch.cli.actions import forecast

    forecast.show(config, accounts, days=days, latency=latency, rate=rate, as_json=json)
