"""The work behind status and report."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

from esgbatch.cli.context import CLOCK, read_config, the_date
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import NothingToDo, WrongUsage
from esgbatch.files import replacing
from esgbatch.model import Run
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import status
from esgbatch.records import Records
from esgbatch.reporting import summary, text
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
    config_path: Path | None, given: date | None, days: int | None, *, as_json: bool, output: Path | None
) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    with _records(config) as records:
        if days is None:
            one = records.summary(_find(records, day))
            written = _json(summary.as_dict(one)) if as_json else text.render(one, config.zone)
        else:
            dates = records.history.dates(day - timedelta(days=days - 1), day)
            if not dates:
                raise NothingToDo(f"There is no run in the {days} days up to {day}.")
            all_of_them = [records.summary(_find(records, each)) for each in dates]
            written = (
                _json({"schema": summary.SCHEMA, "days": [summary.as_dict(each) for each in all_of_them]})
                if as_json
                else text.table(all_of_them)
            )
    _write(written, output)


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
