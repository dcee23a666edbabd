"""The work behind status, and what looking at a run begins with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from esgbatch.cli.context import CLOCK, read_config, the_date
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import NothingToDo
from esgbatch.model import Run
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import status
from esgbatch.records import Records
from esgbatch.wiring import open_checkpoint, open_records

WATCH_SECONDS = 2.0


def show_status(config_path: Path | None, given: date | None, *, watch: bool, as_json: bool) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    at = moment(day, config.job.deadline, config.zone).timestamp()
    with records_of(config) as records:
        while True:
            run = find(records, day)
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


@contextmanager
def records_of(config: Config) -> Iterator[Records]:
    """The checkpoint, as it is; closed when the block ends."""
    database = open_checkpoint(config, create=False)
    try:
        yield open_records(database, CLOCK, Broadcast([]))
    finally:
        database.close()


def find(records: Records, day: date) -> Run:
    """The date's run; `NothingToDo` where there is none."""
    run = records.runs.find(day)
    if run is None:
        raise NothingToDo(f"There is no run of {day}.")
    return run
