"""The work behind status and report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

from esgbatch.cli.context import CLOCK, read_config, the_date
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import NothingToDo, WrongUsage
from esgbatch.files import replacing
from esgbatch.model import Run
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import daily, status
from esgbatch.records import Records
from esgbatch.reporting import history, summary, text
from esgbatch.wiring import open_checkpoint, open_records

WATCH_SECONDS = 2.0


def show_status(config_path: Path | None, given: date | None, *, watch: bool, as_json: bool) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    at = moment(day, config.job.deadline, config.zone).timestamp()
    with _records(config) as records:
        while True:
            run = _find(records, day)
            seen = status.look(records, config.job.state_dir, run, now=CLOCK.time(), deadline=at)
            if as_json:
                print(json.dumps(status.as_dict(seen)), flush=True)
            else:
                if watch and sys.stdout.isatty():
                    print("\x1b[2J\x1b[H", end="")
                print(status.render(seen, config.zone), end="", flush=True)
            if not watch or seen.owner is None:
                return
            time.sleep(WATCH_SECONDS)


def write_report(
    config_path: Path | None, given: date | None, days: int | None, *, form: str, output: Path | None
) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    with _records(config) as records:
        written = (
            _page(records, config, day, days) if form == "html" else _data(records, config, day, days, form)
        )
    _write(written, output)


def send_report(config_path: Path | None, given: date | None, days: int | None) -> None:
    from esgbatch.config.secrets import redact
    from esgbatch.errors import BatchError
    from esgbatch.operations import mailing

    config = read_config(config_path)
    day = the_date(config, given)
    now = datetime.fromtimestamp(CLOCK.time(), UTC)
    try:
        with _records(config) as records:
            run = _find(records, day)
            to = mailing.send(records, config, run, now=now, days=days or daily.TREND_DAYS)
    except BatchError as error:
        error.advice = error.advice.replace("{date}", day.isoformat())
        raise
    print(redact(f"The report of {day} is sent to {', '.join(to)}."))


def _page(records: Records, config: Config, day: date, days: int | None) -> str:
    from esgbatch.reporting import html

    now = datetime.fromtimestamp(CLOCK.time(), UTC)
    night = daily.gather(records, config, _find(records, day), now=now, days=days or daily.TREND_DAYS)
    return html.render(night, environment=config.job.environment)


def _data(records: Records, config: Config, day: date, days: int | None, form: str) -> str:
    """One day as text or JSON; several days, or a CSV of one, a line each."""
    if days is None and form != "csv":
        one = records.summary(_find(records, day))
        return _json(summary.as_dict(one)) if form == "json" else text.render(one, config.zone)
    past = daily.history(records, config, day, days or 1)
    if not past:
        raise NothingToDo(
            f"There is no run in the {days} days up to {day}." if days else f"There is no run of {day}."
        )
    if form == "csv":
        return history.as_csv(past)
    return _json(history.as_dict(past)) if form == "json" else text.table([each.summary for each in past])


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


@contextmanager
def _records(config: Config) -> Iterator[Records]:
    database = open_checkpoint(config, create=False)
    try:
        yield open_records(database, CLOCK, Broadcast([]))
    finally:
        database.close()


def _find(records: Records, day: date) -> Run:
    run = records.runs.find(day)
    if run is None:
        raise NothingToDo(f"There is no run of {day}.")
    return run
