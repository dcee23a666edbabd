"""The work behind status, and what looking at a run begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.ownership import owner_of
from esgbatch.cli.context import CLOCK, read_config, the_date
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import NothingToDo
from esgbatch.model import Run
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import status
from esgbatch.records import Records
from esgbatch.wiring import open_checkpoint, open_records


def show_status(config_path: Path | None, given: date | None, *, watch: bool, as_json: bool) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    at = moment(day, config.job.deadline, config.zone).timestamp()
    with _checkpoint(config) as database:
        records = open_records(database, CLOCK, Broadcast([]))

        def look() -> status.Status:
            return status.look(
                records,
                config.job.state_dir,
                find(records, day),
                now=CLOCK.time(),
                deadline=at,
                elsewhere=owner_of(database, day),
            )

        if not watch:
            seen = look()
            print(
                json.dumps(status.as_dict(seen)) + "\n" if as_json else status.render(seen, config.zone), end=""
            )
        else:
            from esgbatch.cli.following import follow

            follow(look, config.zone, CLOCK, as_json=as_json)


@contextmanager
def records_of(config: Config) -> Iterator[Records]:
    """The checkpoint, as it is; closed when the block ends."""
    with _checkpoint(config) as database:
        yield open_records(database, CLOCK, Broadcast([]))


@contextmanager
def _checkpoint(config: Config) -> Iterator[Database]:
    database = open_checkpoint(config, create=False)
    try:
        yield database
    finally:
        database.close()


def find(records: Records, day: date) -> Run:
    """The date's run; `NothingToDo` where there is none."""
    run = records.runs.find(day)
    if run is None:
        raise NothingToDo(f"There is no run of {day}.")
    return run
