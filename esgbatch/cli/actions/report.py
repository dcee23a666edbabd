"""report: the day or days in the form asked for, or by mail."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from esgbatch.cli.context import CLOCK, find_run, read_config, records_of, the_date
from esgbatch.config.model import Config
from esgbatch.errors import BatchError, NothingToDo, WrongUsage
from esgbatch.files import replacing
from esgbatch.operations import daily
from esgbatch.records import Records
from esgbatch.reporting import history, summary, text
from esgbatch.reporting.history import Day
from esgbatch.reporting.night import Night


def write(
    config_path: Path | None, given: date | None, days: int | None, *, form: str, output: Path | None
) -> None:
    """The day, or several days, in the form asked for; a terminal gets the text as it likes it."""
    config = read_config(config_path)
    day = the_date(config, given)
    with records_of(config) as records:
        if form == "text" and output is None and sys.stdout.isatty():
            _show(records, config, day, days)
        else:
            _write(_written(records, config, day, days, form), output)


def send(config_path: Path | None, given: date | None, days: int | None) -> None:
    """The day by mail."""
    from esgbatch.config.secrets import redact
    from esgbatch.operations import mailing

    config = read_config(config_path)
    day = the_date(config, given)
    try:
        with records_of(config) as records:
            run = find_run(records, day)
            to = mailing.send(records, config, run, now=_now(), days=days or daily.TREND_DAYS)
    except BatchError as error:
        error.advice = error.advice.replace("{date}", day.isoformat())
        raise
    print(redact(f"The report of {day} is sent to {', '.join(to)}."))


def _written(records: Records, config: Config, day: date, days: int | None, form: str) -> str:
    if form == "html":
        from esgbatch.reporting import html

        return html.render(_night(records, config, day, days), environment=config.job.environment)
    if days is None and form != "csv":
        one = records.summary(find_run(records, day))
        return _json(summary.as_dict(one)) if form == "json" else text.render(one, config.zone)
    past = _past(records, config, day, days)
    if form == "csv":
        return history.as_csv(past)
    return _json(history.as_dict(past)) if form == "json" else text.table([each.summary for each in past])


def _show(records: Records, config: Config, day: date, days: int | None) -> None:
    from rich.console import Console

    from esgbatch.reporting import terminal

    console = Console(highlight=False)
    if days is None:
        terminal.report(_night(records, config, day, days), console)
    else:
        terminal.history(_past(records, config, day, days), console)


def _night(records: Records, config: Config, day: date, days: int | None) -> Night:
    run = find_run(records, day)
    return daily.gather(records, config, run, now=_now(), days=days or daily.TREND_DAYS)


def _past(records: Records, config: Config, day: date, days: int | None) -> list[Day]:
    past = daily.history(records, config, day, days or 1)
    if not past:
        raise NothingToDo(
            f"There is no run in the {days} days up to {day}." if days else f"There is no run of {day}."
        )
    return past


def _now() -> datetime:
    return datetime.fromtimestamp(CLOCK.time(), UTC)


def _write(written: str, output: Path | None) -> None:
    if output is None:
        print(written, end="")
        return
    try:
        with replacing(output) as file:
            file.write(written.encode())
    except OSError as error:
        raise WrongUsage(
            f"{output} cannot be written: {error.strerror}.", advice="choose another --output"
        ) from None


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
