"""status: how a run stands, once or again and again."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from esgbatch.checkpoint.ownership import owner_of
from esgbatch.cli.context import CLOCK, checkpoint_of, find_run, read_config, the_date
from esgbatch.deadline import moment
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import status
from esgbatch.wiring import open_records


def show(config_path: Path | None, given: date | None, *, watch: bool, as_json: bool) -> None:
    config = read_config(config_path)
    day = the_date(config, given)
    at = moment(day, config.job.deadline, config.zone).timestamp()
    with checkpoint_of(config) as database:
        records = open_records(database, CLOCK, Broadcast([]))

        def look() -> status.Status:
            return status.look(
                records,
                config.job.state_dir,
                find_run(records, day),
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
            from esgbatch.cli.actions.follow import follow

            follow(look, config.zone, CLOCK, as_json=as_json)
